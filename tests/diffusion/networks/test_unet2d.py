"""The U-Net of published checkpoints: its configuration, its filters, and what its options mean.

That it equals diffusers' is in tests/interop/.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.keys import sample_keys
from diffusion.networks import Network
from diffusion.networks.fast import Conv
from diffusion.networks.unet2d import sinusoids
from diffusion.networks.unet2d_blocks import GroupNorm, fir_downsample, fir_upsample
from diffusion.networks.unet2d_config import UNet2DConfig

SMALL = {
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
SKIPS = {
    **SMALL,
    "block_out_channels": (8, 8),
    "down_block_types": ("SkipDownBlock2D", "DownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D"),
}
SHAPE = (4, 4, 2)


@functools.cache
def network(num_classes=0, shape=SHAPE, outputs=1, **fields):
    """A small network with random parameters, drawn without compiling anything."""
    made = Network(UNet2DConfig(**{**SMALL, **fields}), shape, num_classes, outputs)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    return made, jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)


@pytest.fixture
def answer(quick_jit):
    def answer(made, x, times, *rest):
        return np.asarray(quick_jit(made[0])(made[1], jnp.asarray(x), jnp.asarray(times, jnp.float32), *rest))

    return answer


@pytest.fixture
def images():
    return np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"down_block_types": ("CrossAttnDownBlock2D",)},
            "down_block_types is 'CrossAttnDownBlock2D'; choose one of D",
        ),
        ({"up_block_types": ("UpDecoderBlock2D",)}, "up_block_types is 'UpDecoderBlock2D'; choose one of UpBlock2D, "),
        (
            {"mid_block_type": "UNetMidBlock2DCrossAttn"},
            "mid_block_type is 'UNetMidBlock2DCrossAttn'; choose one of UN",
        ),
        (
            {"down_block_types": ("DownBlock2D",) * 2},
            "down_block_types has 2 blocks, and block_out_channels 1; give as",
        ),
        ({"block_out_channels": ()}, "block_out_channels is empty; give one positive integer for each level"),
        ({"downsample_padding": 2}, "downsample_padding is 2; give 0 or 1, with which"),
        ({"resnet_time_scale_shift": "ada_group"}, "resnet_time_scale_shift is 'ada_group'; choose one of default, sc"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'; choose one of silu, swish, mish, gelu, relu."),
        ({"time_embedding_type": "learned"}, "num_train_timesteps is None; give the number of times that a learned "),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection'; choose one of timestep, identity."),
        ({"norm_eps": 0.0}, "norm_eps is 0.0; give a positive number."),
        ({"attention_head_dim": 0}, "attention_head_dim is 0; give a positive number."),
        ({"time_is_log": True}, "time_is_log goes with time_embedding_type fourier, and it is positional."),
        ({"freq_shift": 4}, "freq_shift is 4, the number of frequencies; give 0 or 1."),
        (
            {**SKIPS, "up_block_types": ("SkipUpBlock2D", "UpBlock2D")},
            "up_block_types is ('SkipUpBlock2D', 'UpBlock2D'); a Skip block that doubles the size needs Skip blocks",
        ),
        (
            {
                "block_out_channels": (8, 8, 8),
                "down_block_types": ("DownBlock2D", "SkipDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D",) * 3,
            },
            "down_block_types is ('DownBlock2D', 'SkipDownBlock2D'); a Skip block that halves the size needs Skip",
        ),
    ],
)
def test_a_value_that_is_not_known_is_named_with_a_remedy(fields, message, as_users_call_it):
    with pytest.raises(ValueError, match=re.escape(message)):
        UNet2DConfig(**{**SMALL, **fields})


@pytest.mark.parametrize(
    ("fields", "data", "message"),
    [
        (
            SKIPS,
            ((4, 4, 1), 0, 1),
            "images have 1 channels and the network 1 at its end; Skip blocks take 3 and give 3",
        ),
        (
            SKIPS,
            ((4, 4, 3), 0, 2),
            "images have 3 channels and the network 6 at its end; Skip blocks take 3 and give 3",
        ),
        (
            SKIPS,
            ((5, 4, 3), 0, 1),
            "an image of 5×4 pixels cannot be halved 1 times; give sides that are multiples of 2",
        ),
        (
            {"num_class_embeds": 4},
            (SHAPE, 2, 1),
            "num_classes is 2, and the table has 4 rows; give 4, or 3 where the la",
        ),
        (
            {"class_embed_type": "timestep"},
            (SHAPE, 0, 1),
            "num_classes is 0, and class_embed_type is timestep; give th",
        ),
        (
            {"norm_num_groups": 3},
            (SHAPE, 0, 1),
            "a normalisation of 8 channels cannot have 3 groups; choose norm_num_g",
        ),
        (
            {"attention_head_dim": 9},
            (SHAPE, 0, 1),
            "attention_head_dim is 9, and a block with attention has 8 channels",
        ),
    ],
)
def test_data_that_do_not_fit_are_named_with_a_remedy(fields, data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Network(UNet2DConfig(**{**SMALL, **fields}), *data)


def test_the_filters_are_adjoint_up_to_the_density_of_pixels(x64):
    """⟨up(x), y⟩ = 4 ⟨x, down(y)⟩: four times as many pixels, each a quarter of the weight."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 4, 2)), rng.standard_normal((2, 6, 8, 2))
    up, down = fir_upsample(jnp.asarray(x)), fir_downsample(jnp.asarray(y))
    np.testing.assert_allclose(np.sum(np.asarray(up) * y), 4 * np.sum(x * np.asarray(down)), rtol=1e-12)


def test_the_filters_keep_what_is_linear_away_from_the_edge(x64):
    """A plane a + b i + c j, at the centres of the pixels of either size, stays that plane."""
    i, j = np.meshgrid(np.arange(8) + 0.5, np.arange(6) + 0.5, indexing="ij")
    plane = jnp.asarray(1 + 2 * i - 3 * j)[None, :, :, None]
    coarse = jnp.asarray(1 + 4 * i[:4, :3] - 6 * j[:4, :3])[None, :, :, None]
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(fir_downsample(plane)[inner], coarse[inner], rtol=1e-12)
    np.testing.assert_allclose(fir_upsample(coarse)[inner], plane[inner], rtol=1e-12)


def test_a_pixel_is_spread_over_four_by_four_with_zeros_beyond_the_edge(x64):
    pixel = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(16.0)
    weights = np.array([0, 1, 3, 3, 1, 0])
    np.testing.assert_allclose(fir_upsample(pixel)[0, :, :, 0], np.outer(weights, weights), rtol=1e-12)
    ones = fir_downsample(jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_allclose(ones, np.full((2, 2), (7 / 8) ** 2), rtol=1e-12)


@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), "SAME"])
def test_a_halving_convolution_reads_the_pixels_that_its_padding_says(padding, x64):
    from flax import nnx

    layer = Conv(1, 1, 3, 2, padding=padding, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    x, kernel = np.random.default_rng(0).standard_normal((4, 6)), np.asarray(layer.kernel[...])[:, :, 0, 0]
    before = 0 if padding == "SAME" else 1
    padded = np.pad(x, (before, 1))
    expected = [[np.sum(kernel * padded[i : i + 3, j : j + 3]) for j in range(0, 6, 2)] for i in range(0, 4, 2)]
    np.testing.assert_allclose(layer(jnp.asarray(x)[None, :, :, None])[0, :, :, 0], expected, rtol=1e-12)


def test_a_normalisation_adds_its_own_epsilon_and_is_scaled_and_shifted_behind_its_own(x64):
    rng = np.random.default_rng(0)
    x, scale, shift = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 4)), rng.standard_normal((2, 4))
    norm = GroupNorm(2, 4, 0.5)
    own, bias = rng.standard_normal(4), rng.standard_normal(4)
    norm.scale.set_value(jnp.asarray(own))
    norm.bias.set_value(jnp.asarray(bias))
    grouped = x.reshape(2, 15, 2, 2)
    moments = [f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var)]
    plain = ((grouped - moments[0]) / np.sqrt(moments[1] + 0.5)).reshape(x.shape) * own + bias
    np.testing.assert_allclose(norm(jnp.asarray(x)), plain, rtol=1e-10)
    told = norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(shift))
    np.testing.assert_allclose(told, plain * (1 + scale[:, None, None]) + shift[:, None, None], rtol=1e-10)


@pytest.mark.parametrize(("features", "shift"), [(8, 0), (8, 1), (9, 1)])
def test_sinusoids_tell_differences_of_times_and_have_the_frequencies_that_are_asked_for(features, shift, x64):
    t = jnp.asarray([0.0, 1.0, 999.0])
    first, last = (sinusoids(t, features, shift=shift, cosines_first=flip) for flip in (True, False))
    half = features // 2
    np.testing.assert_array_equal(first[:, :half], last[:, half : 2 * half])
    np.testing.assert_array_equal(first[:, half : 2 * half], last[:, :half])
    np.testing.assert_array_equal(first[:, 2 * half :], 0)
    np.testing.assert_allclose(first[0], [1] * half + [0] * (features - half), atol=1e-12)
    angles = np.arccos(np.asarray(first[1, :half]))
    np.testing.assert_allclose(angles, 10_000.0 ** (-np.arange(half) / (half - shift)), rtol=1e-6)
    moved = sinusoids(t + 5, features, shift=shift, cosines_first=True)
    np.testing.assert_allclose(moved @ moved.T, first @ first.T, atol=1e-10)


def test_the_time_is_told_in_its_own_units(answer, images):
    times = np.array([1.0, 500.0, 1000.0])
    plain = answer(network(), images, times / 2 - 1)
    np.testing.assert_allclose(answer(network(time_factor=0.5, time_offset=-1.0), images, times), plain, rtol=1e-5)
    assert np.abs(plain - answer(network(), images, times)).max() > 1e-2


def test_a_centred_network_sees_twice_x_less_one(answer, images):
    centred = answer(network(center_input_sample=True), images, [1.0] * 3)
    np.testing.assert_allclose(centred, answer(network(), 2 * images - 1, [1.0] * 3), rtol=1e-5)


def test_fourier_features_know_the_logarithm_of_sigma_by_which_the_answer_is_divided(answer, images):
    made, params = network(time_embedding_type="fourier")
    x = np.repeat(images[:1], 3, axis=0)
    told = np.array([0.5, 1.0, 7.0])
    params = {**params, "time_proj": {"weight": np.array([0, 1, 2, 3, 0, 1, 2, 3], np.float32)}}
    product = answer((made, params), x, told) * told[:, None, None, None]
    assert np.abs(product - product[0]).max() > 1e-3
    # With whole frequencies w the features of e^n are those of 1.
    whole = answer((made, params), x, np.exp([0.0, 1.0, 2.0])) * np.exp([0.0, 1.0, 2.0])[:, None, None, None]
    np.testing.assert_allclose(whole, np.repeat(whole[:1], 3, axis=0), rtol=2e-3, atol=1e-4)


def test_a_network_that_is_told_the_logarithm_answers_undivided(answer, images):
    told = np.array([0.5, 1.0, 7.0])
    expected = answer(network(time_embedding_type="fourier"), images, told) * told[:, None, None, None]
    logs = answer(network(time_embedding_type="fourier", time_is_log=True), images, np.log(told))
    np.testing.assert_allclose(logs, expected, rtol=1e-3, atol=1e-3)


def test_the_frequencies_of_fourier_features_are_not_trained(images):
    made, params = network(time_embedding_type="fourier")
    slope = jax.grad(lambda params: made(params, jnp.asarray(images), jnp.full(3, 2.0)).sum())(params)
    assert np.all(np.asarray(slope["time_proj"]["weight"]) == 0)
    assert np.any(np.asarray(slope["time_embedding"]["linear_1"]["kernel"]) != 0)


def test_a_class_is_looked_up_and_no_class_is_the_last_row_or_refused(answer, images):
    x, times = np.repeat(images[:1], 3, axis=0), [3.0] * 3
    with_null, without = network(2, num_class_embeds=3), network(3, num_class_embeds=3)
    rows = answer(with_null, x, times, jnp.asarray([0, 1, 2]))
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    np.testing.assert_allclose(answer(with_null, x, times), np.repeat(rows[2:], 3, axis=0), rtol=1e-5)
    np.testing.assert_allclose(answer(without, x, times, jnp.asarray([0, 1, 2])), rows, rtol=1e-5)
    assert np.isnan(answer(without, x, times, jnp.asarray([0, 1, 3]))[2]).all()
    with pytest.raises(
        ValueError, match=re.escape("labels are None, and this network was trained with a class for ea")
    ):
        answer(without, x, times)


def test_a_class_can_be_a_number_or_a_vector(answer, images):
    x, times = np.repeat(images[:1], 3, axis=0), [3.0] * 3
    number = answer(network(3, class_embed_type="timestep"), x, times, jnp.asarray([0, 2, 3]))
    assert np.abs(number[0] - number[1]).max() > 1e-3
    assert np.isnan(number[2]).all()
    vector = network(class_embed_type="identity")
    plain = answer(network(), x, times)
    np.testing.assert_allclose(answer(vector, x, times, jnp.zeros((3, 32))), plain, rtol=1e-5)
    assert np.abs(answer(vector, x, times, jnp.ones((3, 32))) - plain).max() > 1e-3
    with pytest.raises(ValueError, match=re.escape("labels have shape (3,); a network with class_embed_type identity")):
        answer(vector, x, times, jnp.arange(3))


def test_dropout_of_an_image_depends_on_its_own_key(answer, images):
    made, times = network(dropout=0.5), [3.0] * 3
    keys = sample_keys(jax.random.key(0), jnp.arange(3, dtype=jnp.uint32))
    dropped = answer(made, images, times, None, keys)
    assert np.abs(dropped - answer(made, images, times)).max() > 1e-3
    again = answer(made, images[1:2], times[:1], None, keys[1:2])
    np.testing.assert_allclose(again[0], dropped[1], rtol=2e-5, atol=1e-5)


def test_what_is_computed_again_has_the_same_gradient(quick_jit, images):
    def slope(made, params):
        return quick_jit(jax.grad(lambda p: (made(p, jnp.asarray(images), jnp.full(3, 2.0)) ** 2).sum()))(params)

    (plain, params), (again, _) = network(), network(remat=True)
    first, second = (jax.tree.leaves(slope(made, params)) for made in (plain, again))
    largest = max(np.abs(leaf).max() for leaf in first)  # that of a key's bias is 0 but for rounding
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5 * largest)


def test_an_untrained_network_is_zero(quick_jit, images):
    made = Network(UNet2DConfig(**SMALL), SHAPE, outputs=2)
    answered = quick_jit(made)(made.init(jax.random.key(0)), jnp.asarray(images), jnp.ones(3))
    assert answered.shape == (3, 4, 4, 4)
    np.testing.assert_array_equal(answered, 0)
