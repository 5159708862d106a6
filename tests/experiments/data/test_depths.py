"""Images of 16 bits, and of other numbers of channels than one and three: from the file to the model and back."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from experiments.data import SOURCES, Source, open_source
from experiments.data.registry import Kind
from experiments.data.scaling import bin_width, to_model, to_pixels, to_uint16
from experiments.data.summary import warnings
from experiments.data.wide import _turned
from experiments.errors import UsageError
from tests.experiments.data.pngs import write_png

RNG = np.random.default_rng(6)
WIDE = RNG.integers(0, 65536, (3, 6, 5, 3)).astype(np.uint16)
DEEP = RNG.integers(0, 256, (4, 8, 9, 5), np.uint8)


@pytest.fixture
def npz(tmp_path):
    def write(images):
        np.savez(tmp_path / "set.npz", images=images)
        return f"npz:{tmp_path / 'set.npz'}"

    return write


def test_every_level_of_16_bits_comes_back_from_the_model():
    levels = np.arange(65536, dtype=np.uint16)
    x = to_model(levels)
    assert (x.dtype, x[0], x[-1]) == (np.float32, -1, 1)
    np.testing.assert_allclose(x, levels / 32767.5 - 1, atol=2e-7)
    np.testing.assert_array_equal(to_uint16(x), levels)
    np.testing.assert_array_equal(to_pixels(jnp.asarray(x), 16), levels)
    np.testing.assert_array_equal(to_uint16(np.asarray([-1.5, 1.5])), [0, 65535])
    np.testing.assert_allclose(np.diff(levels[:3] / 32767.5), bin_width(16))
    # White is white, whatever the depth.
    np.testing.assert_allclose(to_model(np.uint8([0, 77, 255])), to_model(np.uint16([0, 77 * 257, 65535])), atol=1e-6)


def test_arrays_of_16_bits_are_kept_when_asked_for(npz, refused):
    uri = npz(WIDE)
    kept = open_source(uri, bits=16)
    assert kept.images.dtype == np.uint16
    np.testing.assert_array_equal(kept.images, WIDE)
    refused(uri, "--data.bits 16", "65")  # by default they are none
    np.testing.assert_array_equal(open_source(npz(WIDE.astype(np.int64)), bits=16).images, WIDE)
    np.testing.assert_array_equal(open_source(npz(WIDE / 65535), bits=16).images, WIDE)
    refused(npz(WIDE + np.int64(65536)), "0..65535", bits=16)


def test_bytes_are_widened_by_257(npz):
    narrow = (WIDE >> 8).astype(np.uint8)
    np.testing.assert_array_equal(open_source(npz(narrow), bits=16).images, narrow.astype(np.uint16) * 257)
    np.testing.assert_array_equal(open_source(npz(narrow > 99), bits=16).images, 65535 * (narrow > 99))
    digits = open_source("digits", bits=16).images
    np.testing.assert_array_equal(digits, open_source("digits").points.astype(np.uint16) * 257)


def test_the_fingerprint_tells_the_depth():
    bytes_ = np.zeros((1, 2, 4, 1), np.uint8)
    same_bytes = np.zeros((1, 2, 4, 1), np.uint16)
    assert Source(images=bytes_).fingerprint != Source(images=same_bytes).fingerprint


@pytest.mark.parametrize("kind", [0, 2])  # grey and colour, as PNG numbers them
def test_pictures_of_16_bits_keep_every_level(tmp_path, kind):
    pixels = WIDE[0] if kind == 2 else WIDE[0, ..., :1]
    write_png(tmp_path / "a.png", pixels, kind)
    source = open_source(f"folder:{tmp_path}", bits=16)
    np.testing.assert_array_equal(source.images[0], pixels)
    assert open_source(f"folder:{tmp_path}").images.dtype == np.uint8
    smaller = open_source(f"folder:{tmp_path}", bits=16, size="3x2", crop="pad")
    assert (smaller.images.dtype, smaller.event_shape) == (np.uint16, (3, 2, pixels.shape[-1]))


def test_8_bits_in_32_are_refused_and_not_taken_for_nearly_black_ones(tmp_path, refused):
    levels = np.arange(48, dtype=np.int32).reshape(6, 8)
    Image.fromarray(257 * levels).save(tmp_path / "a.tif")
    assert np.asarray(open_source(f"folder:{tmp_path}").images[:]).ravel().tolist() == list(range(48))
    Image.fromarray(levels).save(tmp_path / "a.tif")
    refused(f"folder:{tmp_path}", "a.tif has 32 bits and no value above 47, as of 8; save it with 8 bits")


@pytest.mark.parametrize("kind", [4, 6])
def test_transparency_of_16_bits_lies_over_white(tmp_path, kind):
    colour, alpha = WIDE[0, ..., : 1 if kind == 4 else 3], WIDE[1, ..., :1]
    write_png(tmp_path / "a.png", np.concatenate([colour, alpha], axis=-1), kind)
    share = alpha / 65535
    wanted = share * colour + (1 - share) * 65535
    found = open_source(f"folder:{tmp_path}", bits=16, channels=colour.shape[-1]).images[0]
    np.testing.assert_allclose(found, wanted, atol=0.51)


@pytest.mark.parametrize(("kind", "clear"), [(0, (0x1234,)), (2, (0x1234, 0x5678, 0x9ABC))])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_one_clear_colour_of_16_bits_is_white_and_no_other_is(tmp_path, kind, clear, bits):
    """Pillow compares its lower byte, or nothing, with what is left of the pixels."""
    channels, top = len(clear), 2**bits - 1
    pixels = WIDE[0, ..., :channels].copy()
    pixels[0], pixels[1], pixels[2] = clear, np.asarray(clear) ^ 1, [257 * (value & 255) for value in clear]
    write_png(tmp_path / "a.png", pixels, kind, before=[(b"tRNS", struct.pack(f">{channels}H", *clear))])
    wanted = np.round(pixels * (top / 65535))
    wanted[0] = top
    found = open_source(f"folder:{tmp_path}", bits=bits, channels=channels).images[0]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_clear_grey_of_few_bits_is_white_and_no_other_is(tmp_path, depth):
    levels, top = np.arange(16) % 2**depth, 2**depth - 1
    bits = (levels[:, None] >> np.arange(depth)[::-1]) & 1
    row = b"\0" + np.packbits(bits.astype(np.uint8)).tobytes()
    clear = top // 2
    write_png(
        tmp_path / "a.png", levels.reshape(1, 16, 1), 0, [(b"tRNS", struct.pack(">H", clear))], depth=depth, rows=row
    )
    wanted = np.where(levels == clear, 255, levels * (255 // top))
    np.testing.assert_array_equal(open_source(f"folder:{tmp_path}", channels=1).images[0, 0, :, 0], wanted)


def test_pictures_of_8_bits_lie_beside_those_of_16(tmp_path):
    narrow = RNG.integers(0, 256, (6, 5, 3), np.uint8)
    Image.fromarray(narrow).save(tmp_path / "a.png")
    write_png(tmp_path / "b.png", WIDE[0], 2)
    images = open_source(f"folder:{tmp_path}", bits=16).images
    np.testing.assert_array_equal(images[0], narrow.astype(np.uint16) * 257)
    np.testing.assert_array_equal(images[1], WIDE[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation):
    pixels = RNG.integers(0, 256, (3, 5), np.uint8)
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(_turned(pixels, orientation), ImageOps.exif_transpose(picture))


def test_arrays_of_other_numbers_of_channels_are_taken_as_they_are(npz):
    uri = npz(DEEP)
    np.testing.assert_array_equal(open_source(uri).images, DEEP)
    np.testing.assert_array_equal(open_source(uri, channels=5).images, DEEP)
    assert open_source(uri, size="4x6").event_shape == (4, 6, 5)
    # More channels than pixels in a side are meant if it is said so.
    assert open_source(npz(np.zeros((2, 3, 4, 7), np.uint8)), channels=7).event_shape == (3, 4, 7)


def test_channels_that_do_not_fit_are_refused(npz, refused):
    refused(npz(DEEP), "5 channels", "--data.channels 3", channels=3)
    refused(npz(DEEP), "--data.channels 5", channels=4)
    refused(npz(np.zeros((2, 3, 4, 7), np.uint8)), "transpose")  # three channels first, it seems
    refused(npz(np.zeros((2, 5, 4, 7), np.uint8)), "up to 64")
    with pytest.raises(UsageError, match="arrays"):
        open_source("digits", channels=5)
    with pytest.raises(UsageError, match="2 to 64"):
        open_source(npz(DEEP), channels=65)


def test_what_is_nearly_black_is_seen_at_either_depth():
    for dtype, dark, bright in ((np.uint8, 64, 65), (np.uint16, 64 * 257, 64 * 257 + 1)):
        for high, count in ((dark, 1), (bright, 0)):
            images = np.zeros((1, 2, 2, 1), dtype)
            images[0, 0, 0] = high
            assert len(list(warnings(Source(images=images), None))) == count


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 16), (np.uint16, 8)])
def test_a_reader_that_does_not_know_of_bits_is_not_misread(monkeypatch, refused, dtype, bits):
    kind = Kind("own:NAME", "", lambda where, config: Source(images=np.zeros((2, 4, 4, 1), dtype)))
    monkeypatch.setitem(SOURCES, "own", kind)
    assert open_source("own:x", bits=24 - bits).images.dtype == dtype
    refused("own:x", f"--data.bits {24 - bits}", bits=bits)
