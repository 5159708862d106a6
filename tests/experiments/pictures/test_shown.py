"""Images of 16 bits and of many channels on the disk: what a grid, single pictures and arrays hold."""

import numpy as np
import pytest
from PIL import Image

from experiments.errors import UsageError
from experiments.pictures import files, rows
from experiments.pictures.output import output
from experiments.pictures.shown import for_grid, side_by_side
from tests.experiments.pictures.test_output import request

RNG = np.random.default_rng(7)


def asked(form, shape, bits):
    found = request(form, range(4))
    for name, value in (("event_shape", shape), ("bits", bits)):
        setattr(found.model, name, value)
    return found


def written(folder, form, images, bits):
    with output(asked(form, images.shape[1:], bits), folder) as there:
        there.add(range(4), images, 3)
        return there.finish()


def test_channels_lie_side_by_side_in_grey():
    images = RNG.integers(0, 256, (4, 3, 2, 5), np.uint8)
    found = side_by_side(images)
    assert found.shape == (4, 3, 10, 1)
    for channel in range(5):
        np.testing.assert_array_equal(found[:, :, 2 * channel : 2 * channel + 2, 0], images[..., channel])
    assert side_by_side(images[..., :3]) is not None
    np.testing.assert_array_equal(side_by_side(images[..., :3]), images[..., :3])


def test_a_grid_has_8_bits():
    images = RNG.integers(0, 65536, (4, 3, 2, 1)).astype(np.uint16)
    np.testing.assert_array_equal(for_grid(images), np.rint(images / 257).astype(np.uint8))
    np.testing.assert_array_equal(rows.sheet(images, None, []), files.contact_sheet(for_grid(images)))


@pytest.mark.parametrize(("shape", "bits"), [((6, 4, 1), 16), ((6, 4, 5), 8), ((6, 4, 5), 16)])
def test_single_pictures_keep_every_level(tmp_path, shape, bits):
    images = RNG.integers(0, 2**bits, (4, *shape)).astype(np.uint16 if bits == 16 else np.uint8)
    paths = list(written(tmp_path, "png", images, bits))
    for path, image in zip(paths, side_by_side(images), strict=True):
        with Image.open(path) as picture:
            assert picture.mode == ("I;16" if bits == 16 else "L")
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0])


@pytest.mark.parametrize("bits", [8, 16])
def test_arrays_hold_all_channels_and_bits(tmp_path, bits):
    images = RNG.integers(0, 2**bits, (4, 6, 4, 7)).astype(np.uint16 if bits == 16 else np.uint8)
    written(tmp_path, "npz", images, bits)
    with np.load(tmp_path / "samples.npz") as found:
        assert found["images"].dtype == images.dtype
        np.testing.assert_array_equal(found["images"], images)


def test_colours_of_16_bits_are_refused_before_they_are_drawn(tmp_path):
    with pytest.raises(UsageError, match="give --format npz"):
        output(asked("png", (4, 4, 3), 16), tmp_path)
    assert not list(tmp_path.iterdir())
