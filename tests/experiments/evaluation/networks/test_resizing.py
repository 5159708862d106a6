"""Resizing: what every form keeps, and where each puts its pixels."""

import numpy as np
import pytest

from experiments.evaluation.networks.resizing import cubic, matrix, resized

KINDS = ["tf1-bilinear", "bilinear", "bicubic", "antialiased-bilinear", "antialiased-bicubic"]
CENTRED = KINDS[1:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(5, 12), (12, 5), (7, 7), (1, 4)])
def test_weights_sum_to_one(kind, n, m):
    np.testing.assert_allclose(matrix(kind, n, m).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_size_changes_nothing(kind):
    np.testing.assert_allclose(matrix(kind, 9, 9), np.eye(9), atol=1e-12)


@pytest.mark.parametrize("kind", CENTRED)
@pytest.mark.parametrize(("n", "m"), [(32, 80), (32, 20)])
def test_a_line_keeps_its_slope_and_its_centre(kind, n, m):
    """Pixel i stands for the point (i + ½)/m of the side, and so it does away from the edges."""
    line = (np.arange(n) + 0.5) / n
    inside = slice(m // 4, m - m // 4)
    np.testing.assert_allclose((matrix(kind, n, m) @ line)[inside], ((np.arange(m) + 0.5) / m)[inside], atol=3e-3)


@pytest.mark.parametrize("kind", CENTRED)
def test_a_mirrored_side_is_resized_to_a_mirrored_one(kind):
    np.testing.assert_allclose(matrix(kind, 13, 30)[::-1, ::-1], matrix(kind, 13, 30), atol=1e-12)
    assert not np.allclose(matrix("tf1-bilinear", 13, 30)[::-1, ::-1], matrix("tf1-bilinear", 13, 30))


def test_tensorflow_1_puts_pixel_i_at_i_times_the_scale():
    line = np.arange(10.0)
    np.testing.assert_allclose(matrix("tf1-bilinear", 10, 25) @ line, np.minimum(np.arange(25) * 0.4, 9), atol=1e-12)
    np.testing.assert_allclose(matrix("tf1-bilinear", 10, 4) @ line, np.arange(4) * 2.5, atol=1e-12)


def test_antialiasing_averages_and_its_absence_samples():
    stripes = np.tile([0.0, 1.0], 32)
    for kind in ("antialiased-bilinear", "antialiased-bicubic"):
        np.testing.assert_allclose((matrix(kind, 64, 8) @ stripes)[1:-1], 0.5, atol=0.01)
    np.testing.assert_array_equal(matrix("tf1-bilinear", 64, 8) @ stripes, 0)


def test_bilinear_antialiasing_is_the_stretched_triangle():
    x = (np.arange(12) + 0.5 - 6) / 3  # of the two of four pixels that meet in the middle
    weights = matrix("antialiased-bilinear", 12, 4)
    centres = (np.arange(4) + 0.5) * 3
    expected = np.maximum(0, 1 - np.abs(np.arange(12) + 0.5 - centres[:, None]) / 3)
    np.testing.assert_allclose(weights, expected / expected.sum(1, keepdims=True), atol=1e-12)
    assert abs(x).min() < 1


@pytest.mark.parametrize("a", [-0.5, -0.75])
def test_the_cubic_kernel_interpolates_smoothly_and_sums_to_one(a):
    np.testing.assert_allclose(cubic(np.array([0.0, 1, 2, 3]), a), [1, 0, 0, 0], atol=1e-12)
    u = np.linspace(0, 1, 11)
    np.testing.assert_allclose(sum(cubic(np.abs(u + k), a) for k in (-2, -1, 0, 1)), 1, atol=1e-12)
    steps = np.diff(cubic(np.linspace(0, 2, 4001), a)) / 5e-4
    assert np.abs(np.diff(steps)).max() < 5e-3
    np.testing.assert_allclose(steps[1999:2001].mean(), a, atol=2e-3)  # Keys' slope at 1 is a


def test_quadratics_are_exact_for_keys_own_kernel_alone():
    inside, line = slice(4, 36), (np.arange(10) + 0.5) ** 2
    truth = ((np.arange(40) + 0.5) / 4) ** 2
    keys = matrix("antialiased-bicubic", 10, 40) @ line
    np.testing.assert_allclose(keys[8:32], truth[8:32], atol=1e-10)
    assert np.abs((matrix("bicubic", 10, 40) @ line - truth)[inside]).max() > 1e-3


def test_images_are_resized_along_both_axes():
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)
    expected = np.einsum("ih,jw,bhwc->bijc", matrix("bilinear", 6, 8), matrix("bilinear", 9, 8), x)
    np.testing.assert_allclose(resized(x, "bilinear", 8), expected, atol=1e-5)
