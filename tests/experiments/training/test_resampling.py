"""Images under affine maps: shifts and quarter turns of pixels, cosines in closed form, and no alias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.resampling import affine, reflected

resample = jax.jit(affine)


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape))


def matrix(rows, count=1):
    return jnp.broadcast_to(jnp.asarray(rows, float), (count, 2, 2))


IDENTITY = [[1, 0], [0, 1]]


@pytest.mark.parametrize("shape", [(9, 9), (8, 5), (1, 6), (2, 1)])
def test_shifts_by_whole_pixels_shift_the_reflected_image(x64, shape):
    images = noise(3, *shape, 2)
    for down, right in ((0, 0), (2, -3), (-1, 4), (25, 0)):
        found = resample(images, matrix(IDENTITY, 3), jnp.broadcast_to(jnp.asarray([down, right], float), (3, 2)))
        for image, moved in zip(images, found, strict=True):
            rows, columns = (
                np.pad(np.arange(side), 30, mode="reflect")[30 + shift : 30 + shift + side]
                for side, shift in zip(shape, (down, right), strict=True)
            )
            np.testing.assert_allclose(moved, image[rows][:, columns], atol=1e-12)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_those_of_numpy(x64, turns):
    images, angle = noise(3, 7, 7, 2), np.pi / 2 * turns
    inverse = matrix([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], 3)
    found = resample(images, inverse, jnp.zeros((3, 2)))
    np.testing.assert_allclose(found, np.rot90(images, turns, axes=(1, 2)), atol=1e-12)


def waves(rows, columns, height, width):
    """Two low even waves at any places, from the middle of the image."""
    u, v = rows + (height - 1) / 2, columns + (width - 1) / 2
    down, along = (np.pi / (side - 1) for side in (height, width))
    return np.cos(2 * down * u) * np.cos(along * v) + 0.5 * np.cos(down * u) * np.cos(3 * along * v)


@pytest.mark.parametrize(
    "inverse",
    [
        [[1.25, 0], [0, 1.25]],
        [[0.6, 0], [0, 0.8]],
        [[0.9, 0.3], [-0.2, 1.1]],
    ],
)
def test_waves_are_sampled_at_the_places_that_the_map_says(x64, inverse):
    height, width = 24, 17
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).astype(float)
    places -= (np.asarray([height, width]) - 1) / 2
    images = waves(places[..., 0], places[..., 1], height, width)[None, ..., None]
    offset = np.asarray([0.4, -1.7])
    sources = places @ np.asarray(inverse).T + offset
    wanted = waves(sources[..., 0], sources[..., 1], height, width)
    found = resample(jnp.asarray(images), matrix(inverse), jnp.asarray(offset)[None])[0, ..., 0]
    # The spline has (ω/3 pixels)⁴/720 of a wave of frequency ω: the quickest here has ω = 3π/16.
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_quickest_waves_keep_their_height_to_half_a_percent(x64):
    side = 33
    image = np.cos(np.pi * (side - 2) / (side - 1) * np.arange(side))[:, None] * np.ones((side, side))
    found = resample(jnp.asarray(image)[None, ..., None], matrix(IDENTITY), jnp.asarray([[0.5, 0.0]]))[0, ..., 0]
    wanted = np.cos(np.pi * (side - 2) / (side - 1) * (np.arange(side) + 0.5))
    assert 1e-4 < np.abs(found - wanted[:, None]).max() < 5e-3


def test_what_a_smaller_picture_cannot_show_is_left_out_and_not_aliased(x64):
    side = 17
    quick = np.cos(np.pi * 12 / (side - 1) * np.arange(side))[:, None] * np.ones((side, side))
    slow = np.cos(np.pi * 4 / (side - 1) * np.arange(side))[:, None] * np.ones((side, side))
    images = jnp.asarray(np.stack([quick, slow]))[..., None]
    shrunk = resample(images, matrix([[1.5, 0], [0, 1.5]], 2), jnp.zeros((2, 2)))
    assert np.abs(shrunk[0]).max() < 1e-12  # 12/16 of the band, times 1.5, is beyond it
    assert np.abs(shrunk[1]).max() > 0.9  # 4/16 of it is within
    # A rotation by 45° leaves the waves of the rows and loses those of the corner of the band.
    corner = quick * quick.T
    turned = np.sqrt(0.5) * np.asarray([[1, 1], [-1, 1]])
    rotated = resample(jnp.asarray(np.stack([quick, corner]))[..., None], matrix(turned, 2), jnp.zeros((2, 2)))
    assert np.abs(rotated[0]).max() > 0.9
    assert np.abs(rotated[1]).max() < 1e-12


@pytest.mark.parametrize("shear", [2, -2])
def test_a_shear_leaves_out_the_waves_that_it_makes_quicker_and_no_others(x64, shear):
    """Sampled at (y_1, ±2 y_1 + y_2), waves down the rows stay as they are; those along them get quicker."""
    side = 17
    down = np.cos(np.pi * 12 / (side - 1) * np.arange(side))[:, None] * np.ones((side, side))
    found = resample(
        jnp.asarray(np.stack([down, down.T]))[..., None], matrix([[1, 0], [shear, 1]], 2), jnp.zeros((2, 2))
    )
    np.testing.assert_allclose(found[0, ..., 0], down, atol=1e-12)
    assert np.abs(found[1]).max() < 1e-12


def test_a_map_and_its_inverse_bring_a_smooth_picture_back(x64):
    side = 24
    places = np.arange(side) - (side - 1) / 2
    bump = np.exp(-(places[:, None] ** 2 + (places - 2) ** 2) / (2 * 2.0**2))
    inverse, offset = np.asarray([[0.9, 0.3], [-0.2, 1.05]]), np.asarray([0.8, -0.6])
    there = resample(jnp.asarray(bump)[None, ..., None], matrix(inverse), jnp.asarray(offset)[None])
    back_again = np.linalg.inv(inverse)
    back = resample(there, matrix(back_again), jnp.asarray(-back_again @ offset)[None])
    np.testing.assert_allclose(back[0, 6:18, 6:18, 0], bump[6:18, 6:18], atol=1e-4)


def test_places_are_reflected_as_numpy_pads():
    for side in (1, 2, 5):
        wanted = np.pad(np.arange(side), 20, mode="reflect")
        np.testing.assert_array_equal(reflected(jnp.arange(-20, side + 20), side), wanted)
