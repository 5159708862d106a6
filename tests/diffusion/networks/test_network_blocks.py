"""The parts of the networks, each by the symmetry or the identity that defines it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion.networks import DiTConfig, MLPConfig, UNetConfig, dit, mlp, unet
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
from diffusion.networks.embeddings import position_embedding, sinusoidal, table


def draw(*shape: int, dtype=np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def test_the_inner_product_of_embeddings_depends_on_the_difference_alone(x64):
    t = np.array([-2.0, 0.3, 17.0, 999.0])
    here, there = (np.asarray(sinusoidal(jnp.asarray(times), 16)) for times in (t, t + 411.7))
    np.testing.assert_allclose(here @ here.T, there @ there.T, atol=1e-10)
    np.testing.assert_allclose(np.diag(here @ here.T), 8, rtol=1e-12)


@pytest.mark.parametrize("times", [np.arange(1001.0), np.linspace(-2.0, 2.0, 41)])
def test_embeddings_tell_times_and_log_noise_levels_apart(times):
    e = np.asarray(sinusoidal(jnp.asarray(times, jnp.float32), 64))
    squared_distance = 2 * (32 - e @ e.T) + 1e3 * np.eye(len(times))
    assert squared_distance.min() > 1e-2


def test_embeddings_have_a_fast_and_a_slow_sinusoid(x64):
    """The first of k pairs turns by t radians, the last by t·10⁴ to the power −(k − 1)/k."""
    e = np.asarray(sinusoidal(jnp.array([0.5]), 8))[0]
    np.testing.assert_allclose(np.arctan2(e[4], e[0]), 0.5, rtol=1e-12)
    np.testing.assert_allclose(np.arctan2(e[7], e[3]), 0.5 * 1e4 ** (-3 / 4), rtol=1e-12)


def test_positions_are_told_by_their_displacement_along_each_axis(quick_jit, x64):
    e = np.asarray(quick_jit(lambda: position_embedding(5, 7, 16, jnp.float64))()).reshape(5, 7, 16)
    gram = np.einsum("ijc,klc->ijkl", e, e)
    np.testing.assert_allclose(gram[1:, 2:, 1:, 2:], gram[:-1, :-2, :-1, :-2], atol=1e-12)
    np.testing.assert_array_equal(e[:, :1, :8], e[:, 3:4, :8])
    np.testing.assert_array_equal(e[:1, :, 8:], e[2:3, :, 8:])
    assert (gram.reshape(35, 35) - 8 * np.eye(35)).max() < 8 - 1e-3


def test_dropout_keeps_the_mean(quick_jit, keys):
    rate, n = 0.3, 40_000
    y = np.asarray(quick_jit(lambda keys: dropout(jnp.ones((2, n)), rate, keys))(keys(0, 1)))
    np.testing.assert_allclose(y.mean(axis=1), 1, atol=4 * np.sqrt(rate / (1 - rate) / n))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert np.any(y[0] != y[1])


def test_dropout_masks_are_those_of_float32_under_x64(quick_jit, keys, x64):
    mask = quick_jit(lambda keys: dropout(jnp.ones((3, 50)), 0.4, keys))
    wide = np.asarray(mask(keys(0, 1, 2)))
    with jax.enable_x64(False):
        narrow = np.asarray(mask(keys(0, 1, 2)))
    assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
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


def test_group_normalisation_removes_scale_and_offset_of_each_group(quick_jit, x64):
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 6))
    normalise = quick_jit(lambda x, scale, shift: group_normalise(x, 2, scale, shift))
    one, zero = np.ones((1, 6)), np.zeros((1, 6))
    y = np.asarray(normalise(x, one, zero))
    groups = y.reshape(2, 12, 2, 3)
    np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, atol=1e-5)
    factor, offset = np.repeat([3.0, 5.0], 3), np.repeat([-1.0, 40.0], 3)
    np.testing.assert_allclose(normalise(factor * x + offset, one, zero), y, atol=1e-5)
    np.testing.assert_allclose(normalise(x, 2 * one, zero + 5), 2 * y + 5, atol=1e-12)


def test_group_normalisation_of_a_constant_is_zero():
    np.testing.assert_array_equal(GroupNorm(4)(jnp.full((1, 2, 2, 4), 1024.0)), 0)


def test_modulation_is_the_identity_at_zero_and_the_same_everywhere(quick_jit):
    x = draw(2, 3, 4, 5)
    zero, one = np.zeros((2, 5), np.float32), np.ones((2, 5), np.float32)
    shift_and_scale = quick_jit(modulate)
    np.testing.assert_array_equal(shift_and_scale(x, zero, zero), x)
    np.testing.assert_array_equal(shift_and_scale(x, one, zero), np.asarray(x) + 1)
    np.testing.assert_array_equal(shift_and_scale(x, zero, one), 2 * np.asarray(x))


@pytest.fixture(scope="module")
def attention(quick_jit):
    return quick_jit(lambda x: SelfAttention(8, 2, dtype=None, rngs=nnx.Rngs(0))(x))


def test_attention_follows_a_permutation_of_its_tokens(attention):
    x, order = draw(2, 6, 8), np.array([3, 0, 5, 1, 4, 2])
    y = np.asarray(attention(x))
    np.testing.assert_allclose(attention(np.asarray(x)[:, order]), y[:, order], atol=1e-6)
    assert np.abs(y - y[:, order]).max() > 1e-2


def test_attention_over_equal_tokens_is_what_it_is_over_one(attention):
    """Whatever the weights of the average, it is of equal values."""
    x = np.asarray(draw(2, 1, 8))
    np.testing.assert_allclose(attention(x.repeat(6, axis=1)), np.repeat(attention(x), 6, axis=1), atol=1e-6)


def test_attention_is_softmax_of_scaled_products(quick_jit, x64):
    """Against a sum written out in numpy."""
    x = np.random.default_rng(0).standard_normal((1, 5, 8))

    def both(x):
        module = SelfAttention(8, 2, dtype=jnp.float64, rngs=nnx.Rngs(0))
        return module(x), module.qkv(x), module.out.kernel[...], module.out.bias[...]

    y, qkv, kernel, bias = (np.asarray(a, np.float64) for a in quick_jit(both)(x))
    heads = []
    for head in range(2):
        q, k, v = (qkv[0, :, 8 * part + 4 * head : 8 * part + 4 * head + 4] for part in range(3))
        weights = np.exp(q @ k.T / 2)
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    np.testing.assert_allclose(y[0], np.concatenate(heads, axis=1) @ kernel + bias, atol=1e-12)


def test_pooling_undoes_doubling_on_odd_sizes_too():
    x = draw(2, 4, 3, 2)
    doubled = np.asarray(unet.nearest_upsample(x))
    assert doubled.shape == (2, 8, 6, 2)
    for rows, columns in [(8, 6), (7, 5), (7, 6), (8, 5)]:
        np.testing.assert_allclose(unet.average_pool(jnp.asarray(doubled[:, :rows, :columns])), x, atol=1e-6)


def test_pooling_keeps_the_mean_of_an_even_image():
    x = draw(2, 6, 4, 3)
    np.testing.assert_allclose(np.mean(unet.average_pool(x), axis=(1, 2)), np.asarray(x).mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("resampling", ["pool", "conv"])
@pytest.mark.parametrize(("height", "width"), [(7, 5), (8, 2), (15, 9)])
def test_upsampling_takes_the_size_of_the_skip(resampling, height, width):
    def resampled(x):
        config = UNetConfig(resampling=resampling)
        down, up = (layer(4, config, None, rngs=nnx.Rngs(0)) for layer in (unet.Downsample, unet.Upsample))
        return down(x), up(down(x), x)

    half, full = jax.eval_shape(resampled, jax.ShapeDtypeStruct((1, height, width, 4), jnp.float32))
    assert half.shape == (1, -(-height // 2), -(-width // 2), 4)
    assert full.shape == (1, height, width, 4)


def test_level_sizes_are_halved_upwards():
    assert unet.level_sizes(28, 28, UNetConfig(multipliers=(1, 1, 1, 1))) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert unet.level_sizes(15, 9, UNetConfig()) == [(15, 9), (8, 5), (4, 3)]


@pytest.mark.parametrize(("rescale", "factor"), [(True, np.sqrt(0.5)), (False, 1.0)])
def test_residual_and_attention_blocks_start_as_their_shortcut(quick_jit, rescale, factor):
    @quick_jit
    def blocks(x, emb):
        config, rngs = UNetConfig(skip_rescale=rescale), nnx.Rngs(0)
        residual = unet.ResidualBlock(4, 4, 5, config, None, rngs=rngs)
        return residual(x, emb, None), unet.AttentionBlock(4, config, None, rngs=rngs)(x)

    x = draw(2, 3, 3, 4)
    for y in blocks(x, draw(2, 5)):
        np.testing.assert_allclose(y, factor * np.asarray(x), rtol=1e-6)


def test_a_residual_block_needs_no_word_from_its_embedding(quick_jit):
    """FiLM is 1 + scale: with scale and shift zero, the normalised x passes."""

    @quick_jit
    def branch(x, emb):
        block = unet.ResidualBlock(4, 4, 5, UNetConfig(skip_rescale=False), None, rngs=nnx.Rngs(0))
        block.film.kernel[...] *= 0
        block.conv2.kernel[...] += 1
        return block(x, emb, None) - x

    x, emb = draw(2, 3, 3, 4), draw(2, 5)
    y = np.asarray(branch(x, emb))
    assert y.std(axis=(1, 2)).min() > 0.1
    np.testing.assert_array_equal(y, branch(x, 2 * emb))


@pytest.mark.parametrize("conditioning", ["film", "additive"])
@pytest.mark.parametrize("residual", [True, False])
def test_perceptron_blocks_add_to_their_input_or_replace_it(quick_jit, residual, conditioning):
    config = MLPConfig(hidden=6, residual=residual, conditioning=conditioning)

    @quick_jit
    def block(x, emb, silent):
        block = mlp.Block(config, None, rngs=nnx.Rngs(0))
        block.second.kernel[...] *= 1 - silent
        return block(x, emb, None)

    x, emb = draw(3, 6), draw(3, 6)
    np.testing.assert_array_equal(block(x, emb, 1.0), residual * np.asarray(x))
    assert np.abs(np.asarray(block(x, emb, 0.0)) - residual * np.asarray(x)).max() > 1e-2


def test_perceptrons_are_modulated_by_scale_or_by_shift_alone(quick_jit):
    """With silent first weights, (1 + scale)·0 + shift: the two conditionings are one."""

    @quick_jit
    def branch(x, emb):
        film, additive = (
            mlp.Block(MLPConfig(hidden=4, residual=False, conditioning=kind), None, rngs=nnx.Rngs(0))
            for kind in ("film", "additive")
        )
        film.condition.kernel[...] = jnp.concatenate([additive.condition.kernel[...]] * 2, axis=1)
        film.second.kernel[...] = additive.second.kernel[...]
        plain = film(x, emb, None), additive(x, emb, None)
        film.first.kernel[...] *= 0
        additive.first.kernel[...] *= 0
        return plain, (film(x, emb, None), additive(x, emb, None))

    plain, silent = branch(draw(2, 4), draw(2, 4))
    np.testing.assert_allclose(*silent, atol=1e-6)
    assert np.abs(np.subtract(*plain)).max() > 1e-2


def test_transformer_blocks_start_as_the_identity(quick_jit):
    x = draw(2, 5, 8)
    block = quick_jit(lambda x, c: dit.Block(DiTConfig(width=8, heads=2), None, rngs=nnx.Rngs(0))(x, c, None))
    np.testing.assert_array_equal(block(x, draw(2, 8)), x)


def test_adaptive_layer_normalisation_removes_scale_and_offset_of_each_token(quick_jit, x64):
    x = np.random.default_rng(0).standard_normal((2, 3, 8))
    normalise, zero = quick_jit(dit.adaptive_layer_norm), np.zeros((2, 8))
    y = np.asarray(normalise(x, zero, zero))
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=-1), 1, atol=1e-4)
    factor, offset = np.array([[3.0], [5.0], [0.5]]), np.array([[-1.0], [40.0], [0.0]])
    np.testing.assert_allclose(normalise(factor * x + offset, zero, zero), y, atol=1e-4)
    np.testing.assert_allclose(normalise(x, zero + 5, zero + 2), 3 * y + 5, atol=1e-12)


def test_patches_come_back_as_the_image():
    x = draw(2, 6, 4, 3)
    tokens = dit.patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[:, 3], np.asarray(x)[:, 2:4, 2:4].reshape(2, 12))
    np.testing.assert_array_equal(dit.unpatchify(tokens, 2, 6, 4), x)


def test_a_table_answers_in_the_type_that_its_parameters_have(x64):
    """It was made with those of float32; its rows are not rounded to them."""
    graph, state = nnx.split(table(3, 2, rngs=nnx.Rngs(0)))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 1e-12, state)
    rows = nnx.merge(graph, wide)(jnp.arange(3))
    assert rows.dtype == jnp.float64
    np.testing.assert_array_equal(rows, jax.tree.leaves(wide)[0])
