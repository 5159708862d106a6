"""The parts of the networks, each by the symmetry or the identity that defines it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion.keys import sample_keys
from diffusion.networks import DiTConfig, UNetConfig, dit, unet
from diffusion.networks.blocks import (
    GroupNorm,
    SelfAttention,
    dropout,
    fold_in,
    group_count,
    group_normalise,
    largest_divisor,
    modulate,
)
from diffusion.networks.embeddings import position_embedding, sinusoidal


def test_the_inner_product_of_embeddings_depends_on_the_difference_alone(x64):
    t = jnp.array([-2.0, 0.3, 17.0, 999.0])
    for shift in (0.7, 411.0):
        gram, shifted = (e @ e.T for e in (sinusoidal(t, 16), sinusoidal(t + shift, 16)))
        np.testing.assert_allclose(gram, shifted, atol=1e-10)
    np.testing.assert_allclose(jnp.diag(gram), 8, rtol=1e-12)


def test_embeddings_tell_times_and_log_noise_levels_apart(x64):
    for times in (jnp.arange(1001.0), jnp.linspace(-2.0, 2.0, 41)):
        e = sinusoidal(times, 64)
        squared = 2 * (32 - e @ e.T) + 1e3 * jnp.eye(len(times))
        assert squared.min() > 1e-2


def test_embeddings_have_a_slow_and_a_fast_sinusoid(x64):
    """The first pair turns by t radians, the last by t/10⁴ to the power (half − 1)/half."""
    e = sinusoidal(jnp.array([0.5]), 8)[0]
    np.testing.assert_allclose(jnp.arctan2(e[4], e[0]), 0.5, rtol=1e-12)
    np.testing.assert_allclose(jnp.arctan2(e[7], e[3]), 0.5 * 1e4 ** (-3 / 4), rtol=1e-12)


def test_positions_are_told_by_their_displacement_along_each_axis(x64):
    e = position_embedding(5, 7, 16, jnp.float64).reshape(5, 7, 16)
    gram = jnp.einsum("ijc,klc->ijkl", e, e)
    np.testing.assert_allclose(gram[1:, 2:, 1:, 2:], gram[:-1, :-2, :-1, :-2], atol=1e-12)
    np.testing.assert_array_equal(e[:, :1, :8], e[:, 3:4, :8])
    np.testing.assert_array_equal(e[:1, :, 8:], e[2:3, :, 8:])
    off = gram.reshape(35, 35) - 8 * jnp.eye(35)
    assert off.max() < 8 - 1e-3


def test_dropout_keeps_the_mean():
    rate, n = 0.3, 40_000
    y = dropout(jnp.ones((2, n)), rate, sample_keys(jax.random.key(0), jnp.arange(2)))
    error = np.sqrt(rate / (1 - rate) / n)
    np.testing.assert_allclose(y.mean(axis=1), 1, atol=4 * error)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    np.testing.assert_array_equal(
        y[1:], dropout(jnp.ones((1, n)), rate, sample_keys(jax.random.key(0), jnp.ones(1, int)))
    )


def test_dropout_masks_are_those_of_float32_under_x64(x64):
    keys = sample_keys(jax.random.key(0), jnp.arange(3))
    wide = dropout(jnp.ones((3, 50)), 0.4, keys)
    assert wide.dtype == jnp.float64
    with jax.enable_x64(False):
        narrow = dropout(jnp.ones((3, 50)), 0.4, keys)
    np.testing.assert_array_equal(wide == 0, narrow == 0)


def test_evaluation_has_no_keys_to_fold():
    assert fold_in(None, 3) is None


def test_groups_divide_the_channels():
    for channels in range(1, 300):
        groups = group_count(channels)
        assert channels % groups == 0
        assert 1 <= groups <= 32
        assert groups == 1 or channels // groups >= 4
    assert [group_count(c) for c in (32, 64, 128, 256, 512)] == [8, 16, 32, 32, 32]
    assert largest_divisor(96, 64) == 48


def test_group_normalisation_removes_scale_and_offset_of_each_group(x64):
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 6))
    one, zero = jnp.ones((1, 6)), jnp.zeros((1, 6))
    y = group_normalise(x, 2, one, zero)
    groups = y.reshape(2, 12, 2, 3)
    np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, atol=1e-5)
    factor, offset = jnp.repeat(jnp.array([3.0, 5.0]), 3), jnp.repeat(jnp.array([-1.0, 40.0]), 3)
    np.testing.assert_allclose(group_normalise(factor * x + offset, 2, one, zero), y, atol=1e-5)
    np.testing.assert_allclose(group_normalise(x, 2, 2 * one, zero + 5), 2 * y + 5, atol=1e-12)


def test_group_normalisation_of_a_constant_is_its_shift():
    x = jnp.full((1, 2, 2, 4), 1e3)
    np.testing.assert_array_equal(GroupNorm(4)(x), jnp.zeros_like(x))


def test_modulation_is_the_identity_at_zero_and_the_same_everywhere():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    zero, one = jnp.zeros((2, 5)), jnp.ones((2, 5))
    np.testing.assert_array_equal(modulate(x, zero, zero), x)
    np.testing.assert_array_equal(modulate(x, one, zero), x + 1)
    np.testing.assert_array_equal(modulate(x, zero, one), 2 * x)


@pytest.fixture(scope="module")
def attention():
    return SelfAttention(8, 2, dtype=None, rngs=nnx.Rngs(0))


def test_attention_follows_a_permutation_of_its_tokens(attention):
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    order = jnp.array([3, 0, 5, 1, 4, 2])
    y = attention(x)
    np.testing.assert_allclose(attention(x[:, order]), y[:, order], atol=1e-6)
    assert jnp.abs(y - y[:, order]).max() > 1e-2


def test_attention_over_equal_tokens_is_the_linear_map_of_one(attention):
    """Whatever the weights of the average, it is of equal values."""
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (2, 1, 8)), (2, 6, 8))
    np.testing.assert_allclose(attention(x), attention(x[:, :1]).repeat(6, axis=1), atol=1e-6)


def test_pooling_undoes_doubling_on_odd_sizes_too():
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
    doubled = unet.nearest_upsample(x)
    assert doubled.shape == (2, 8, 6, 2)
    for rows in (7, 8):
        for columns in (5, 6):
            np.testing.assert_allclose(unet.average_pool(doubled[:, :rows, :columns]), x, atol=1e-6)


def test_pooling_keeps_the_mean_of_an_even_image():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    np.testing.assert_allclose(unet.average_pool(x).mean((1, 2)), x.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("resampling", ["pool", "conv"])
def test_upsampling_takes_the_size_of_the_skip(resampling):
    config = UNetConfig(resampling=resampling)
    down, up = (layer(4, config, None, rngs=nnx.Rngs(0)) for layer in (unet.Downsample, unet.Upsample))
    for height, width in [(7, 5), (8, 2), (15, 9)]:
        x = jnp.ones((1, height, width, 4))
        assert down(x).shape == (1, -(-height // 2), -(-width // 2), 4)
        assert up(down(x), x).shape == x.shape


def test_level_sizes_are_halved_upwards():
    assert unet.level_sizes(28, 28, UNetConfig(multipliers=(1, 1, 1, 1))) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert unet.level_sizes(15, 9, UNetConfig()) == [(15, 9), (8, 5), (4, 3)]


@pytest.mark.parametrize(("rescale", "factor"), [(True, np.sqrt(0.5)), (False, 1.0)])
def test_residual_blocks_start_as_their_shortcut(rescale, factor):
    config = UNetConfig(skip_rescale=rescale)
    x, emb = jax.random.normal(jax.random.key(0), (2, 3, 3, 4)), jnp.ones((2, 5))
    block = unet.ResidualBlock(4, 4, 5, config, None, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(block(x, emb, None), factor * x, rtol=1e-6)
    np.testing.assert_allclose(unet.AttentionBlock(4, config, None, rngs=nnx.Rngs(0))(x), factor * x, rtol=1e-6)


def test_transformer_blocks_start_as_the_identity():
    block = dit.Block(DiTConfig(width=8, heads=2), None, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    np.testing.assert_array_equal(block(x, jnp.ones((2, 8)), None), x)


def test_patches_come_back_as_the_image():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    tokens = dit.patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[:, 3], x[:, 2:4, 2:4].reshape(2, 12))
    np.testing.assert_array_equal(dit.unpatchify(tokens, 2, 6, 4), x)
