"""Sizes that are not square, and the three ways to bring an image to them."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.config.file import from_json, load_config, save_config, to_json
from experiments.config.tree import Config
from experiments.data import open_source
from experiments.data.config import DataConfig
from experiments.data.shapes import fit, fit_wide, to_channels
from experiments.errors import UsageError, refuse

RNG = np.random.default_rng(5)


def fitted(pixels, **options):
    return np.asarray(fit(Image.fromarray(pixels), DataConfig(**options)))


@pytest.mark.parametrize(
    ("given", "kept", "shape"),
    [
        (64, 64, (64, 64)),
        ("64", 64, (64, 64)),
        ("64x64", 64, (64, 64)),
        ("48x64", "48x64", (48, 64)),
        ("048X064", "48x64", (48, 64)),
        ((48, 64), "48x64", (48, 64)),
        (None, None, None),
    ],
)
def test_a_size_has_one_form(given, kept, shape, tmp_path):
    config = DataConfig(size=given)
    assert (config.size, config.shape) == (kept, shape)
    refuse(config.refusals())
    save_config(Config(data=config), tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["data"]["size"] == kept
    assert load_config(tmp_path / "config.json").data == config


def test_a_configuration_that_knows_no_bits_means_eight():
    old = to_json(Config(data=DataConfig(size=28)))
    del old["data"]["bits"]
    assert (from_json(old).data.bits, from_json(old).data.shape) == (8, (28, 28))


@pytest.mark.parametrize("size", [0, -3, "0x4", "4x", "axb", "4x4x4", "48.5", ""])
def test_other_sizes_are_refused(size):
    with pytest.raises(UsageError, match=r"data.size is .*48x64"):
        refuse(DataConfig(size=size).refusals())


@pytest.mark.parametrize("size", [2**16 + 1, "8x99999999999", "99999999999"])
def test_sizes_that_no_picture_has_are_refused(size):
    with pytest.raises(UsageError, match=r"data.size is .*; give .*pixels"):
        refuse(DataConfig(size=size).refusals())
    refuse(DataConfig(size=2**16).refusals())


def test_the_middle_in_the_proportions_of_the_size_is_taken():
    picture = RNG.integers(0, 256, (12, 20), np.uint8)
    np.testing.assert_array_equal(fitted(picture, size="12x12"), picture[:, 4:16])
    np.testing.assert_array_equal(fitted(picture, size="6x20"), np.asarray(
        Image.fromarray(picture[3:9]).resize((20, 6), Image.Resampling.LANCZOS)))  # fmt: skip
    assert fitted(picture, size="40x20").shape == (40, 20)


def test_all_of_it_is_squeezed():
    picture = RNG.integers(0, 256, (12, 20), np.uint8)
    wanted = Image.fromarray(picture).resize((8, 10), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(fitted(picture, size="10x8", crop="none"), wanted)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_padded_picture_has_all_of_it_in_the_middle_and_its_edges_beyond(channels):
    picture = RNG.integers(0, 256, (6, 10, *channels), np.uint8)
    found = fitted(picture, size=10, crop="pad")
    np.testing.assert_array_equal(found[2:8], picture)
    for row, edge in ((0, 0), (1, 0), (8, -1), (9, -1)):
        np.testing.assert_array_equal(found[row], picture[edge])
    tall = fitted(picture.swapaxes(0, 1), size="10x12", crop="pad")
    np.testing.assert_array_equal(tall[:, 3:9], picture.swapaxes(0, 1))
    np.testing.assert_array_equal(tall[:, 11], picture.swapaxes(0, 1)[:, -1])
    # A line stays one pixel high.
    assert fitted(picture[:1], size=4, crop="pad").shape[:2] == (4, 4)


def test_channels_of_any_number_and_depth_are_resized_as_bytes_are():
    smooth = np.add.outer(np.arange(24), 2 * np.arange(20)).astype(np.uint8)
    config = DataConfig(size="12x10", crop="none")
    eight = np.asarray(fit(Image.fromarray(smooth), config)).astype(int)
    five = np.repeat(smooth[..., None], 5, axis=-1)
    assert np.abs(fit_wide(five, config).astype(int) - eight[..., None]).max() <= 1
    wide = fit_wide(smooth[..., None].astype(np.uint16) * 257, config)[..., 0]
    assert wide.dtype == np.uint16
    assert np.abs(wide / 257 - eight).max() <= 1
    assert np.any(wide % 257)  # what lies between two bytes is kept


def test_grey_of_16_bits_is_the_luma_of_16():
    white = np.full((1, 2, 2, 3), 65535, np.uint16)
    np.testing.assert_array_equal(to_channels(white, 1), white[..., :1])
    colour = RNG.integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
    wide = to_channels(colour.astype(np.uint16) * 257, 1)
    assert np.abs(wide / 257 - to_channels(colour, 1)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("crop", ["center", "none", "pad"])
def test_every_source_takes_a_size_that_is_not_square(tmp_path, crop):
    np.savez(tmp_path / "set.npz", images=RNG.integers(0, 256, (3, 9, 7, 3), np.uint8))
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.fromarray(RNG.integers(0, 256, (9 + i, 7, 3), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    for uri in ("digits", f"npz:{tmp_path / 'set.npz'}", f"folder:{tmp_path / 'pictures'}"):
        assert open_source(uri, size="4x6", crop=crop).event_shape[:2] == (4, 6)
