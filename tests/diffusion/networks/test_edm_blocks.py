"""The parts of EDM's networks, each against its formula: filters of any taps, norms of small images, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks.edm_blocks import BlockForm, LabelMap, Norm, filter_down, filter_up, level_names, told_numbers

TAPS = [(1, 1), (1, 3, 3, 1), (1, 2, 3, 4), (3, 1)]


@pytest.mark.parametrize("taps", TAPS)
def test_halving_is_the_sum_of_a_window_under_the_filter(taps, x64):
    x, f = np.random.default_rng(0).standard_normal((2, 4, 6, 3)), np.outer(taps, taps) / sum(taps) ** 2
    around = (len(taps) - 1) // 2
    padded = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    expected = np.empty((2, 2, 3, 3))
    for i in range(2):
        for j in range(3):
            window = padded[:, 2 * i : 2 * i + len(taps), 2 * j : 2 * j + len(taps)]
            expected[:, i, j] = np.einsum("bhwc,hw->bc", window, f)
    np.testing.assert_allclose(filter_down(jnp.asarray(x), taps), expected, rtol=1e-12, atol=1e-12)
    inner = filter_down(jnp.asarray(padded), taps, pad=False)
    np.testing.assert_allclose(inner, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("taps", TAPS)
def test_doubling_is_four_times_the_transpose_of_halving(taps, x64):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((1, 4, 6, 2)), rng.standard_normal((1, 2, 3, 2))
    forth = 4 * np.sum(np.asarray(filter_down(jnp.asarray(x), taps)) * y)
    back = np.sum(np.asarray(filter_up(jnp.asarray(y), taps)) * x)
    assert back == pytest.approx(forth, rel=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (128, 32), (256, 32)])
def test_a_norm_has_groups_of_four_channels_or_more_and_adds_to_the_variance(channels, groups):
    x = 1e-3 * np.random.default_rng(2).standard_normal((1, 2, 2, channels))
    apart = x.reshape(1, 4, groups, -1)
    mean, variance = apart.mean((1, 3), keepdims=True), apart.var((1, 3), keepdims=True)
    expected = ((apart - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(Norm(channels, 1e-6)(jnp.asarray(x)), expected, atol=1e-5)
    scale, shift = np.full((1, channels), 0.5), np.full((1, channels), -2.0)
    norm = Norm(channels, 1e-6)
    norm.weight[...], norm.bias[...] = jnp.full(channels, 3.0), jnp.full(channels, 0.25)
    answer = norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(shift))
    np.testing.assert_allclose(answer, (3 * expected + 0.25) * 1.5 - 2, atol=1e-4)


def test_no_class_is_a_row_of_zeros_and_a_label_beyond_is_nan():
    table = LabelMap(2, 3, use_bias=True)
    table.kernel[...], table.bias[...] = jnp.asarray([[1.0, 2, 3], [4, 5, 6]]), jnp.asarray([0.5, 0.0, 0.0])
    told = table(jnp.asarray([1, 2, 3]), 3, 2.0)
    np.testing.assert_array_equal(told, [[8.5, 10, 12], [0.5, 0, 0], [np.nan] * 3])
    np.testing.assert_array_equal(table(None, 1, 2.0), told[1:2])


def test_what_no_such_network_can_be_is_refused():
    assert level_names((8, 4, 3), 2, (4,)) == (["8x4", "4x2"], [False, True])
    with pytest.raises(ValueError, match="an image of 6×6 pixels cannot be halved 2 times; give fewer, or images of"):
        level_names((6, 6, 3), 3, ())
    with pytest.raises(ValueError, match="attention_resolutions has 5, but the levels of an image of 8×8 pixels have"):
        level_names((8, 8, 3), 2, (5,))
    with pytest.raises(ValueError, match="augment_dim is 4, and these parameters are told of augmentations by 9"):
        told_numbers(9, 4)
    assert (told_numbers(9, 0), told_numbers(0, 4)) == (9, 4)
    form = BlockForm(8, 1e-5, (1, 1), 1.0, adaptive=True, project=False, head_channels=64, dropout=0.0, dtype=None)
    assert form.heads(128) == 2
    with pytest.raises(ValueError, match="head_channels is 64, and a level with attention has 96 channels"):
        form.heads(96)
