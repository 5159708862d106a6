"""What the transformer has as options, each by the identity that defines it, and blocks that are computed twice."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion.likelihood import Adaptive, log_likelihood
from diffusion.networks import DiTConfig, Network, UNetConfig, dit
from diffusion.networks.blocks import RMSNorm, SelfAttention
from diffusion.networks.embeddings import rotary_angles, rotate
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.process import Process
from diffusion.schedules import EDM
from tests.diffusion.networks.conftest import CONFIGS


def names(tree) -> set[str]:
    return {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)}


def drawn(network, dtype=np.float32):
    """Parameters of a network, all of them random."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(dtype), shapes)


def test_the_plain_transformer_keeps_the_names_of_its_parameters():
    """Checkpoints of earlier versions hold these and no others."""
    params = jax.eval_shape(Network(DiTConfig(width=8, heads=2, depth=1), (4, 4, 1), 2).init, jax.random.key(0))
    linear = [f"blocks.0.{name}" for name in ("attention.out", "attention.qkv", "mlp1", "mlp2", "modulation")]
    linear += ["emb.hidden", "emb.out", "first", "modulation", "out"]
    assert names(params) == {f"{n}.{part}" for n in linear for part in ("kernel", "bias")} | {"emb.table.embedding"}


OPTIONS = [
    {"qk_norm": True},
    {"positions": "rotary"},
    {"mlp": "swiglu"},
    {"norm": "rms"},
    {"bottleneck": 3},
    {"class_tokens": 2, "class_tokens_from": 1},
    {"registers": 2},
]
# Seven options in eight rows in which each pair is on, off, and each alone: the characters of (Z/2)³.
ROWS = list(itertools.product([0, 1], repeat=3))
PATTERNS = [tuple(sum(r * c for r, c in zip(row, column, strict=True)) % 2 for column in ROWS[1:]) for row in ROWS]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: "".join(map(str, p)))
@pytest.mark.parametrize("classes", [0, 3])
def test_every_pair_of_options_goes_together(pattern, classes):
    chosen = [option for option, on in zip(OPTIONS, pattern, strict=True) if on]
    fields = {name: value for option in chosen for name, value in option.items()}
    network = Network(DiTConfig(width=16, heads=2, depth=2, **fields), (7, 4, 2), classes, 2)
    params = jax.eval_shape(network.init, jax.random.key(0))
    x, c_noise = jax.ShapeDtypeStruct((3, 7, 4, 2), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)
    assert jax.eval_shape(network, params, x, c_noise).shape == (3, 7, 4, 4)
    wanted = {"qk_norm": "q_norm", "mlp": "gate", "norm": "norm2", "bottleneck": "bottleneck", "registers": "registers"}
    for option, part in (wanted | {"class_tokens": "classes"}).items():
        assert any(part in name.split(".") for name in names(params)) == (option in fields)


def test_a_rotary_score_depends_on_the_offset_alone(x64):
    """q at one place of a grid that is not square times k at another, and the same a row and two columns on."""
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 16))
    angles = rotary_angles(5, 7, 16, jnp.float64)
    at = [np.asarray(rotate(jnp.broadcast_to(a, (1, 35, 1, 16)), angles)).reshape(5, 7, 16) for a in (q, k)]
    score = np.einsum("ijc,klc->ijkl", *at)
    np.testing.assert_allclose(score[1:, 2:, 1:, 2:], score[:-1, :-2, :-1, :-2], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(at[0], axis=-1), np.linalg.norm(q), rtol=1e-12)
    offsets = score[2, 3]  # of one place against all: each offset has a score of its own
    assert np.abs(np.subtract.outer(offsets.ravel(), offsets.ravel()) + 10 * np.eye(35)).min() > 1e-4
    assert np.abs(score - score.transpose(2, 3, 0, 1)).max() > 0.1


def test_rotary_frequencies_fall_from_one_radian_a_step_along_each_axis(x64):
    angles = np.asarray(rotary_angles(3, 4, 8, jnp.float64)).reshape(3, 4, 4)
    rows, columns = np.mgrid[:3, :4]
    slow = 10_000**-0.5
    np.testing.assert_allclose(angles, np.stack([rows, slow * rows, columns, slow * columns], -1), rtol=1e-12)


def test_turning_by_an_angle_is_multiplication_by_a_phase(x64):
    x, angles = np.random.default_rng(0).standard_normal((2, 3, 5, 8)), np.random.default_rng(1).uniform(-9, 9, (3, 4))
    turned = np.asarray(rotate(jnp.asarray(x), jnp.asarray(angles)))
    phases = np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(
        turned[..., :4] + 1j * turned[..., 4:], (x[..., :4] + 1j * x[..., 4:]) * phases, atol=1e-12
    )


def test_rotary_positions_tell_permuted_patches_apart_and_fixed_ones_are_not_added():
    """Without any positions attention would follow a permutation of the patches."""
    x, order = np.random.default_rng(0).standard_normal((2, 6, 16)).astype(np.float32), np.array([3, 0, 5, 1, 4, 2])

    @jax.jit
    def attended(x, angles):
        return SelfAttention(16, 2, dtype=None, rngs=nnx.Rngs(0))(x, angles)

    angles = rotary_angles(2, 3, 8, jnp.float32)
    y = np.asarray(attended(x, angles))
    assert np.abs(np.asarray(attended(x[:, order], angles)) - y[:, order]).max() > 1e-2
    np.testing.assert_allclose(attended(x[:, order], angles[order]), y[:, order], atol=1e-6)

    def embedded(positions):
        network = dit.DiT(DiTConfig(width=16, heads=2, depth=1, positions=positions), (4, 4, 1), 0, 1, rngs=nnx.Rngs(0))
        return np.asarray(network.embedded(jnp.ones((1, 4, 4)), jnp.float32))

    assert np.ptp(embedded("rotary"), axis=1).max() == 0
    assert np.ptp(embedded("fixed"), axis=1).max() > 0.1
    np.testing.assert_array_equal(embedded("both"), embedded("fixed"))


def test_attention_goes_by_the_offsets_of_places_alone_whatever_scales_q_and_k_have_learned(quick_jit):
    """So both are turned, and after they are normalised: a scale is for a channel and not for a direction."""
    rng = np.random.default_rng(0)
    x, of_q, of_k = (
        rng.standard_normal((2, 6, 16)).astype(np.float32),
        *rng.uniform(0.5, 2.0, (2, 8)).astype(np.float32),
    )

    @quick_jit
    def attended(x, angles):
        module = SelfAttention(16, 2, dtype=None, qk_norm=True, rngs=nnx.Rngs(0))
        assert module.q_norm is not None
        assert module.k_norm is not None
        module.q_norm.scale[...], module.k_norm.scale[...] = of_q, of_k
        return module(x, angles)

    angles = rotary_angles(2, 3, 8, jnp.float32)
    y = np.asarray(attended(x, angles))
    np.testing.assert_allclose(attended(x, angles + np.float32(rng.uniform(-3, 3, 4))), y, atol=1e-5)
    assert np.abs(np.asarray(attended(x, 2 * angles)) - y).max() > 1e-2


def test_rotary_places_are_spread_over_the_grid_that_the_longer_side_counts_as():
    config = DiTConfig(patch=2, width=16, heads=2, depth=1, positions="rotary", position_grid=4)
    network = dit.DiT(config, (16, 8, 1), 0, 1, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(network.angles(0, jnp.float32), 0.5 * rotary_angles(8, 4, 8, jnp.float32), rtol=1e-6)


def test_rms_normalisation_has_unit_mean_square_whatever_the_size(x64):
    x = np.random.default_rng(0).standard_normal((2, 3, 8))
    norm = RMSNorm(8)
    y = np.asarray(norm(jnp.asarray(x)))
    np.testing.assert_allclose(np.mean(y**2, axis=-1), 1, rtol=1e-4)
    np.testing.assert_allclose(norm(jnp.asarray(1e3 * x)), y, rtol=1e-4)
    np.testing.assert_allclose(y / x, (y / x)[..., :1].repeat(8, -1), rtol=1e-6)
    norm.scale[...] = jnp.arange(8, dtype=jnp.float32)
    np.testing.assert_allclose(norm(jnp.asarray(x)), y * np.arange(8.0), rtol=1e-6)


def test_normalised_queries_and_keys_bound_the_logits_whatever_the_weights(quick_jit):
    """Of q and k only the direction counts: their weights may be a thousand times as large."""
    x = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)

    @quick_jit
    def attended(x, factor):
        module = SelfAttention(8, 2, dtype=None, qk_norm=True, rngs=nnx.Rngs(0))
        module.qkv.kernel[...] *= jnp.repeat(jnp.stack([factor, factor, 1.0]), 8)
        return module(x)

    np.testing.assert_allclose(attended(x, 1e3), attended(x, 1.0), atol=1e-4)


def test_swiglu_is_the_product_of_two_maps_one_of_them_by_silu(quick_jit, x64):
    config = DiTConfig(width=8, heads=2, mlp="swiglu")

    @quick_jit
    def both(x):
        block = dit.Block(config, jnp.float64, rngs=nnx.Rngs(0))
        assert block.gate is not None
        gate, value = block.gate(x), block.mlp1(x)
        return block.perceptron(x), block.mlp2(gate / (1 + jnp.exp(-gate)) * value)

    np.testing.assert_allclose(*both(np.random.default_rng(0).standard_normal((2, 3, 8))), rtol=1e-12)


@pytest.mark.parametrize(("width", "hidden"), [(768, 2048), (1024, 2730), (1280, 3413)])
def test_swiglu_has_two_thirds_of_the_hidden_width_and_no_more_parameters(width, hidden):
    """JiT's sizes B, L and H."""
    gelu, swiglu = (DiTConfig(width=width, mlp=kind) for kind in ("gelu", "swiglu"))
    assert (gelu.hidden, swiglu.hidden) == (4 * width, hidden)
    assert 0 <= 2 * width * gelu.hidden - 3 * width * swiglu.hidden <= 2 * width


def test_a_bottleneck_lets_so_many_dimensions_of_a_patch_through():
    config = DiTConfig(patch=4, width=32, heads=2, depth=1, bottleneck=3, positions="rotary")
    network = dit.DiT(config, (8, 8, 1), 0, 1, rngs=nnx.Rngs(0))
    patches = jnp.asarray(np.random.default_rng(0).standard_normal((1, 40, 16)), jnp.float32)
    h = np.asarray(network.embedded(patches, jnp.float32))[0]
    sizes = np.linalg.svd(h - h[:1], compute_uv=False)
    assert sizes[2] > 0.1
    assert sizes[3] < 1e-5 * sizes[0]


def test_extra_tokens_join_where_they_should_and_leave_in_the_end(monkeypatch):
    """With one register, and two class tokens from the second block on, the four patches are 5, 7 and 7 tokens."""
    seen = []
    monkeypatch.setattr(dit, "dropout", lambda x, rate, keys: seen.append(x.shape[1]) or x)
    config = DiTConfig(width=8, heads=2, depth=3, registers=1, class_tokens=2, class_tokens_from=1)
    network = Network(config, (4, 4, 1), 3)
    params = jax.eval_shape(network.init, jax.random.key(0))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(2, 4, 4, 1), (2,)]]
    jax.eval_shape(network, params, *shapes)
    assert seen == [5, 5, 7, 7, 7, 7]


def test_class_tokens_are_given_the_class_of_each_image(monkeypatch):
    given = []
    monkeypatch.setattr(dit.ExtraTokens, "__call__", lambda self, x, of_class=None: given.append(of_class) or x)
    network = dit.DiT(DiTConfig(width=8, heads=2, depth=1, class_tokens=2), (4, 4, 1), 3, 1, rngs=nnx.Rngs(0))
    labels = jnp.asarray([2, 0], jnp.int32)
    assert network.emb.table is not None
    for said, rows in ((labels, [2, 0]), (None, [3, 3])):
        network(jnp.zeros((2, 4, 4, 1)), jnp.zeros(2), said, None)
        np.testing.assert_array_equal(given.pop(), network.emb.table.embedding[...][jnp.asarray(rows)])


def test_class_tokens_carry_the_class_and_have_no_place():
    tokens = dit.ExtraTokens(2, 8, rngs=nnx.Rngs(0))
    x, vectors = (jnp.asarray(np.random.default_rng(0).standard_normal(s), jnp.float32) for s in [(3, 4, 8), (3, 8)])
    joined = np.asarray(tokens(x, vectors))
    np.testing.assert_array_equal(joined[:, 2:], x)
    np.testing.assert_allclose(
        joined[:, :2] - np.asarray(vectors)[:, None], tokens.learned[...][None].repeat(3, 0), atol=1e-6
    )
    network = dit.DiT(DiTConfig(width=8, heads=2, depth=1, positions="rotary"), (4, 6, 1), 0, 1, rngs=nnx.Rngs(0))
    angles = np.asarray(network.angles(2, jnp.float32))
    assert angles.shape == (2 + 6, 2)
    np.testing.assert_array_equal(angles[:2], 0)
    np.testing.assert_array_equal(angles[2:], rotary_angles(2, 3, 4, jnp.float32))


def both_ways(config, event_shape, measure):
    """What `measure` says of a network without and with `remat`, the same parameters and inputs."""
    x, v = np.random.default_rng(1).standard_normal((2, 2, *event_shape), np.float32)
    for remat in (False, True):
        network = Network(dataclasses.replace(config, remat=remat), event_shape, 3)
        yield jax.tree.leaves(measure(network)(drawn(network), x, v))


def equal(plain, again):
    """To the rounding of float32, relative to the largest number of each array."""
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * float(np.abs(one).max()))


SMALL = {
    "unet": (UNetConfig(channels=4, multipliers=(1,), blocks=1, dropout=0.3), (4, 3, 1)),
    "dit": (dataclasses.replace(CONFIGS["jit"][0], depth=1, class_tokens_from=0), (4, 3, 1)),
}


def conditions():
    """Noise levels and classes of two samples."""
    return jnp.asarray([-0.3, 0.4], jnp.float32), jnp.asarray([0, 2], jnp.int32)


@pytest.mark.parametrize("name", SMALL)
def test_blocks_that_are_computed_again_change_neither_loss_nor_gradients(name, keys, quick_jit):
    """With dropout, whose masks are drawn again."""

    own = keys(0, 1)

    def measure(network):
        def loss(params, x, v):
            return jnp.mean((network(params, x, *conditions(), own) - v) ** 2)

        return quick_jit(jax.value_and_grad(loss))

    equal(*both_ways(*SMALL[name], measure))


def shapes_of(network):
    batch = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(16, *network.event_shape), (16,)]]
    return jax.eval_shape(network.init, jax.random.key(0)), *batch


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (DiTConfig(patch=2, width=16, depth=4, heads=1, qk_norm=True), 0.1),
        (UNetConfig(channels=8, multipliers=(1,), blocks=2), 0.2),
    ],
    ids=["dit", "unet"],
)
def test_blocks_that_are_computed_again_keep_little_for_the_gradient(config, share):
    """What the backward pass is handed: a U-Net keeps what it has to carry across anyway."""
    kept = []
    for remat in (False, True):
        network = Network(dataclasses.replace(config, remat=remat), (16, 16, 1))

        def handed(params, x, c_noise, network=network):
            return jax.vjp(lambda params: network(params, x, c_noise), params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(handed, *shapes_of(network)))
        kept.append(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))
    assert kept[1] < share * kept[0]


def test_blocks_that_are_computed_again_take_less_memory(quick_jit):
    """By what XLA says that the gradient of a batch of 16 needs, on a CPU too."""
    needed = []
    for remat in (False, True):
        config = DiTConfig(patch=2, width=16, depth=4, heads=1, qk_norm=True, remat=remat)
        network = Network(config, (16, 16, 1))
        gradient = quick_jit(jax.grad(lambda p, x, c, network=network: jnp.sum(network(p, x, c) ** 2)))
        program = gradient.lower(*shapes_of(network)).compile()
        needed.append(program.memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.6 * needed[0]


def test_likelihoods_pass_through_blocks_that_are_computed_again(x64):
    """The divergence in them is taken in forward mode."""
    config = DiTConfig(patch=2, width=8, depth=1, heads=1, qk_norm=True, positions="rotary", norm="rms", registers=1)
    found = []
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 1))
    for remat in (False, True):
        network = Network(dataclasses.replace(config, remat=remat), (2, 4, 1))
        params = drawn(network, np.float64)
        process = Process(EDM(sigma_min=0.5, sigma_max=2.0))
        denoise = network_denoiser(network, params, process, Preconditioning("edm", 0.5))
        found.append(log_likelihood(process, denoise, x, solver=Adaptive(rtol=1e-4, atol=1e-4)).log_prob)
    np.testing.assert_allclose(*found, rtol=1e-9)
