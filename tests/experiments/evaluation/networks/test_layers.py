"""The layers of feature networks against sums over windows."""

import numpy as np
import pytest

from experiments.evaluation.networks.layers import (
    average_pool,
    batch_norm,
    convolution,
    depthwise,
    getter,
    laid_out,
    max_pool,
    shapes_of,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 6, 3)).astype(np.float32)


def windows(x, side, stride, before, after, fill):
    """(b, rows, columns, side², c), of an image with so much around it."""
    around = [(0, 0), (before, after), (before, after), (0, 0)]
    padded = np.pad(x, around, constant_values=fill)
    seen = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]
    return np.moveaxis(seen.reshape(*seen.shape[:4], -1), 3, 4)


def test_the_average_at_an_edge_is_of_the_pixels_that_there_are():
    np.testing.assert_allclose(average_pool(X), np.nanmean(windows(X, 3, 1, 1, 1, np.nan), 3), atol=1e-6)


@pytest.mark.parametrize(("stride", "pad"), [(2, 0), (1, 1)])
def test_the_maximum(stride, pad):
    expected = np.max(windows(X - 9, 3, stride, pad, pad, -np.inf), 3)
    np.testing.assert_allclose(max_pool(X - 9, stride, pad), expected, atol=1e-6)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_sums_each_channel_by_itself(side, stride):
    weight = RNG.normal(size=(3, 1, side, side)).astype(np.float32)
    x = RNG.normal(size=(1, 8, 8, 3)).astype(np.float32)
    total = side - stride  # zeros around an even length, the odd one behind
    seen = windows(x, side, stride, total // 2, total - total // 2, 0.0)
    expected = np.einsum("bijkc,ck->bijc", seen, weight.reshape(3, -1))
    np.testing.assert_allclose(
        depthwise(getter({"d.weight": laid_out(weight)}), "d", x, side, stride), expected, atol=1e-5
    )


def test_a_kernel_is_out_in_height_width_in_the_file():
    weight = RNG.normal(size=(4, 3, 1, 3)).astype(np.float32)
    y = convolution(getter({"c.weight": laid_out(weight)}), "c", X, 4, (1, 3), padding=((0, 0), (1, 1)))
    padded = np.pad(X, [(0, 0), (0, 0), (1, 1), (0, 0)])
    expected = sum(padded[:, :, j : j + 6] @ weight[:, :, 0, j].T for j in range(3))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_batch_norm_takes_the_moments_of_the_training():
    params = {f"n.{name}": RNG.uniform(0.5, 2, 3) for name in ("weight", "bias", "running_mean", "running_var")}
    expected = (X - params["n.running_mean"]) / np.sqrt(params["n.running_var"] + 0.1)
    expected = expected * params["n.weight"] + params["n.bias"]
    np.testing.assert_allclose(batch_norm(getter(params), "n", X, 0.1), expected, atol=1e-5)


def test_shapes_are_those_of_the_file():
    def body(get, x):
        return convolution(get, "c", x, 5, (1, 7)).mean((1, 2)) + get("bias", (5,))

    assert shapes_of(body, (8, 8, 3)) == {"c.weight": (5, 3, 1, 7), "bias": (5,)}
