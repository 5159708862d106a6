"""What holds for every architecture: the contract of `build` and `Network`."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.extend import core as jex

from diffusion.networks import DiTConfig, MLPConfig, Network, UNetConfig, build, functional

SHAPES = [
    (MLPConfig(hidden=8, layers=1), (2,), 1),
    (MLPConfig(hidden=8, layers=1), (1,), 2),
    (MLPConfig(hidden=8, layers=1, residual=False, conditioning="additive"), (3, 5, 2), 2),
    (UNetConfig(channels=8, multipliers=(1, 2, 1), blocks=1), (28, 28, 1), 1),
    (UNetConfig(channels=8, blocks=1, multipliers=(1, 2), attention_resolutions=(8, 15)), (15, 9, 3), 2),
    (UNetConfig(channels=6, multipliers=(3, 1), blocks=1, resampling="conv"), (7, 7, 1), 1),
    (UNetConfig(channels=4, multipliers=(1,), blocks=1), (1, 1, 1), 1),
    (DiTConfig(width=8, depth=1), (8, 8, 1), 1),
    (DiTConfig(width=8, depth=1, patch=4), (15, 9, 3), 2),
    (DiTConfig(width=12, depth=1, patch=3, heads=3), (1, 2, 1), 1),
]


@pytest.mark.parametrize(("config", "event_shape", "outputs"), SHAPES)
def test_output_has_the_shape_of_the_event_but_for_the_outputs(config, event_shape, outputs):
    network = Network(config, event_shape, 10, outputs)
    params = jax.eval_shape(network.init, jax.random.key(0))
    x, c_noise = jax.ShapeDtypeStruct((3, *event_shape), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)
    y = jax.eval_shape(network, params, x, c_noise)
    assert y.shape == (3, *event_shape[:-1], outputs * event_shape[-1])
    assert y.dtype == jnp.float32


@pytest.mark.parametrize(("config", "event_shape", "outputs"), [SHAPES[0], SHAPES[8]])
def test_parameters_are_drawn_from_the_keys_that_flax_counts(config, event_shape, outputs):
    key = jax.random.key(3)

    @jax.jit
    def drawn(key):
        module = config.module()(config, event_shape, 10, outputs, rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    ours = Network(config, event_shape, 10, outputs).init(key)
    for leaf, flax in zip(jax.tree.leaves(nnx.restore_int_paths(ours)), jax.tree.leaves(drawn(key)), strict=True):
        np.testing.assert_allclose(leaf, flax, rtol=1e-5, atol=1e-7)


def test_a_network_is_traced_once_for_its_structure_its_shapes_and_its_parameters(monkeypatch):
    calls, create = [], functional._create
    monkeypatch.setattr(functional, "_create", lambda *given: (calls.append(given), create(*given))[1])
    network = Network(MLPConfig(hidden=7, layers=2), (3,))  # which no other test makes
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = network.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert len(calls) == 1


def test_an_untrained_network_is_zero(case):
    assert np.all(case.apply(case.initial, *case.inputs()) == 0)


def test_the_output_depends_on_every_input(case):
    x, c_noise, labels = case.inputs()
    y = case.apply(case.params, x, c_noise, labels)
    for other in [(x + 0.5, c_noise, labels), (x, c_noise + 0.5, labels), (x, c_noise, (labels + 1) % 3)]:
        difference = np.abs(case.apply(case.params, *other) - y).max(axis=tuple(range(1, x.ndim)))
        assert difference.min() > 1e-3


def test_the_null_label_is_no_label(case):
    x, c_noise, _ = case.inputs()
    null = np.full(4, case.network.num_classes, np.int32)
    np.testing.assert_array_equal(case.apply(case.params, x, c_noise, null), case.apply(case.params, x, c_noise, None))


def test_a_label_beyond_the_table_is_not_taken_for_another(case):
    x, c_noise, labels = case.inputs()
    labels[1] = case.network.num_classes + 1
    y = case.apply(case.params, x, c_noise, labels)
    finite = np.isfinite(y).reshape(4, -1).all(axis=1)
    assert finite.tolist() == [True, False, True, True]


@pytest.mark.parametrize("dropout", [False, True])
def test_a_sample_depends_neither_on_its_neighbours_nor_on_the_batch(case, keys, dropout):
    x, c_noise, labels = case.inputs()
    y = case.apply(case.params, x, c_noise, labels, keys(0, 1, 2, 3) if dropout else None)
    pick = np.array([2, 0, 3, 2, 1, 1, 3] if dropout else [2, 0, 3, 2])
    other = (x[pick], c_noise[pick], labels[pick], keys(*pick) if dropout else None)
    np.testing.assert_allclose(case.apply(case.params, *other), y[pick], atol=1e-5)


def test_dropout_is_on_with_keys_and_off_without(case, keys):
    x, c_noise, labels = (np.repeat(a[:1], 4, axis=0) for a in case.inputs())
    y = case.apply(case.params, x, c_noise, labels, keys(0, 1, 0, 2))
    off = case.apply(case.params, x, c_noise, labels, None)
    np.testing.assert_allclose(y[0], y[2], atol=1e-5)
    for i, j in [(0, 1), (0, 3), (1, 3)]:
        assert np.abs(y[i] - y[j]).max() > 1e-3
    assert np.abs(y - off).max(axis=tuple(range(1, x.ndim))).min() > 1e-3


def test_parameters_are_everything_and_are_a_plain_tree(case):
    network = case.network
    model = nnx.eval_shape(lambda: network.config.module()(network.config, network.event_shape, 3, 1, rngs=nnx.Rngs(0)))
    _, _, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)

    def walk(tree):
        if isinstance(tree, dict):
            assert all(isinstance(name, str) for name in tree)
            return {name: walk(branch) for name, branch in reversed(tree.items())}
        assert isinstance(tree, jax.Array)
        assert tree.dtype == jnp.float32
        return jax.device_put(np.asarray(tree))

    again = walk(case.params)
    x, c_noise, labels = case.inputs()
    np.testing.assert_array_equal(case.apply(again, x, c_noise, labels), case.apply(case.params, x, c_noise, labels))


def test_the_same_key_gives_the_same_parameters(case):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(case.initial)]
    for leaf, again in zip(leaves, jax.tree.leaves(case.network.init(jax.random.key(0))), strict=True):
        np.testing.assert_array_equal(leaf, again)
    other = jax.tree.leaves(case.network.init(jax.random.key(1)))
    assert any(np.any(leaf != np.asarray(another)) for leaf, another in zip(leaves, other, strict=True))


def test_equal_configurations_are_traced_once(quick_jit):
    traces = 0

    @functools.partial(quick_jit, static_argnums=0)
    def apply(network, params, x, c_noise):
        nonlocal traces
        traces += 1
        return network(params, x, c_noise)

    @quick_jit
    def denoise(partial, x, c_noise):
        nonlocal traces
        traces += 1
        return partial(x, c_noise)

    x, c_noise = np.ones((2, 2), np.float32), np.zeros(2, np.float32)
    for seed in range(3):
        network, params = build(MLPConfig(hidden=8, layers=1), (2,), key=jax.random.key(seed))
        apply(network, params, x, c_noise)
        denoise(jax.tree_util.Partial(network, params), x, c_noise)
    assert traces == 2
    other, params = build(MLPConfig(hidden=8, layers=1, activation="tanh"), (2,), key=jax.random.key(0))
    apply(other, params, x, c_noise)
    assert traces == 3


def test_networks_are_equal_when_what_they_are_built_from_is(case):
    network = case.network
    twin = Network(dataclasses.replace(network.config), network.event_shape, network.num_classes)
    assert twin == network
    assert hash(twin) == hash(network)
    assert twin != dataclasses.replace(network, outputs=2)
    assert twin != dataclasses.replace(network, config=dataclasses.replace(network.config, dropout=0.0))


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, (jex.ClosedJaxpr, jex.Jaxpr))):
            if isinstance(value, jex.ClosedJaxpr):
                yield from _equations(value.jaxpr)
            elif isinstance(value, jex.Jaxpr):
                yield from _equations(value)


def test_bfloat16_is_for_products_alone(case):
    """Norms, softmax and embeddings stay in float32: so do their rsqrt, exp, cos and sin."""
    network = dataclasses.replace(
        case.network, config=dataclasses.replace(case.network.config, compute_dtype="bfloat16")
    )
    equations = list(_equations(jax.make_jaxpr(network)(case.params, *case.inputs()).jaxpr))
    types = {}
    for equation in equations:
        types.setdefault(equation.primitive.name, []).extend(v.aval.dtype for v in equation.invars[:1])
    for name in ("rsqrt", "exp", "cos", "sin"):
        assert all(dtype == jnp.float32 for dtype in types.get(name, []))
    products = types.get("conv_general_dilated", []) + types["dot_general"]
    assert products.count(jnp.bfloat16) >= 5


def test_bfloat16_is_float32_up_to_its_rounding(case, quick_jit):
    """Each product rounds input, weight and result by u = 2⁻⁸ at most; in sum over n products, 3nu."""
    network = dataclasses.replace(
        case.network, config=dataclasses.replace(case.network.config, compute_dtype="bfloat16")
    )
    exact = case.apply(case.params, *case.inputs())
    rounded = quick_jit(network)(case.params, *case.inputs())
    assert rounded.dtype == jnp.float32
    products = sum(leaf.ndim >= 2 for leaf in jax.tree.leaves(case.params))
    error = np.sqrt(np.mean((np.asarray(rounded) - exact) ** 2) / np.mean(exact**2))
    assert 1e-5 < error < 3 * products * 2.0**-8


def test_float64_parameters_give_float64_and_adjoint_derivatives(case, quick_jit, x64):
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩ to 1e-12: forward and reverse derivatives are those of one function."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case.params)
    x, c_noise, labels = case.inputs()
    x = x.astype(np.float64)
    u, v = np.random.default_rng(5).standard_normal((2, *x.shape))

    @quick_jit
    def derivatives(params, x, c_noise, labels):
        f = lambda x: case.network(params, x, c_noise, labels)  # noqa: E731
        y, forward = jax.jvp(f, (x,), (v,))
        return y, jnp.sum(u * forward), jnp.sum(jax.vjp(f, x)[1](u)[0] * v)

    y, forward, reverse = derivatives(params, x, c_noise, labels)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(forward, reverse, rtol=1e-12)
    np.testing.assert_allclose(y, case.apply(case.params, *case.inputs()), atol=1e-4)


def test_float32_parameters_stay_float32_under_x64(case, x64):
    shapes = jax.eval_shape(case.network.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    equations = _equations(jax.make_jaxpr(case.network)(case.params, *case.inputs()).jaxpr)
    types = {v.aval.dtype for equation in equations for v in equation.outvars}
    assert jnp.float64 not in types
    x, c_noise, labels = case.inputs()
    wide = (x.astype(np.float64), c_noise.astype(np.float64), labels)
    assert jax.eval_shape(case.network, case.params, *wide).dtype == jnp.float32


@pytest.fixture(scope="module")
def training(case, quick_jit):
    """Gradients at the start, and the losses of 60 Adam steps on one batch of four."""
    x, c_noise, labels = case.inputs()
    target = np.sin(2 * np.roll(x, 1, axis=0))
    optimiser = optax.adam(5e-3)

    @quick_jit
    def step(params, state, x, c_noise, labels):
        loss, gradient = jax.value_and_grad(
            lambda params: jnp.mean((case.network(params, x, c_noise, labels) - target) ** 2)
        )(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss, gradient

    zero = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(optimiser.init, case.params))
    _, _, _, start = step(case.params, zero, x, c_noise, labels)
    params, state, losses = case.initial, zero, []
    for _ in range(60):
        params, state, loss, _ = step(params, state, x, c_noise, labels)
        losses.append(float(loss))
    return start, losses


def test_a_gradient_reaches_every_parameter(training):
    """And every input channel of every kernel: those that come over a skip, too."""
    gradients, _ = training
    sizes = {}
    for path, gradient in jax.tree.leaves_with_path(gradients):
        name, size = jax.tree_util.keystr(path), np.abs(np.asarray(gradient))
        inputs = np.moveaxis(size, -2, 0).reshape(size.shape[-2], -1) if "kernel" in name else size.reshape(1, -1)
        sizes[name] = inputs.max(axis=1).min()
    # A bias of keys adds the same to all logits of a query, which a softmax does not see.
    unseen = [name for name, size in sizes.items() if not size > 1e-6 * max(sizes.values())]
    assert not [name for name in unseen if "['to_k']['bias']" not in name]


def test_one_batch_is_learned_by_heart(training):
    _, losses = training
    assert losses[-1] < losses[0] / 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((UNetConfig(), (2,)), r"event_shape is \(2,\); a UNetConfig needs \(height, width, channels\)"),
        ((DiTConfig(), (8, 8)), r"event_shape is \(8, 8\); a DiTConfig needs"),
        ((MLPConfig(), ()), r"event_shape is \(\); give at least one axis"),
        ((MLPConfig(), (2, 0)), r"event_shape is \(2, 0\); give at least one axis"),
        ((MLPConfig(), (2,), -1), "num_classes is -1; give 0"),
        ((MLPConfig(), (2,), 0, 0), "outputs is 0; give 1"),
        ((UNetConfig(), (2, 8, 1)), "multipliers has 3 levels, but an image of 2×8 pixels can be halved 1 times"),
        (
            (UNetConfig(attention_resolutions=(16,)), (28, 28, 1)),
            "attention_resolutions has 16, .* 28, 14, 7; .* as 14",
        ),
    ],
)
def test_a_network_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Network(*arguments)
    assert "\n" not in str(error.value)


def test_x_of_another_shape_is_refused(case):
    x, c_noise, _ = (jnp.asarray(a) for a in case.inputs())
    with pytest.raises(ValueError, match=r"x has shape .*; this network takes batches of shape \('b', "):
        case.network(case.params, x[:, :-1], c_noise)


@pytest.mark.parametrize("case", ["unet"], indirect=True)
def test_attention_is_where_it_is_asked_for(case):
    """One in the middle, and at a level of n blocks n on the way down and n + 1 on the way up."""

    def attentions(params):
        return sum("qkv" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)) // 2

    assert case.network.config.attention_resolutions == (4,)
    assert attentions(case.params) == 4
    everywhere = dataclasses.replace(case.network.config, attention_resolutions=(4, 7))
    network = dataclasses.replace(case.network, config=everywhere)
    assert attentions(jax.eval_shape(network.init, jax.random.key(0))) == 7


@pytest.mark.parametrize("case", ["dit"], indirect=True)
def test_patches_know_their_positions(case):
    """Of a constant image, patches away from the padding differ in nothing else."""
    _, c_noise, labels = case.inputs()
    y = case.apply(case.params, np.ones((4, 7, 5, 2), np.float32), c_noise, labels)
    corner = y[:, :2, :2]
    for other in (y[:, 2:4, :2], y[:, :2, 2:4], y[:, 2:4, 2:4]):
        assert np.abs(other - corner).max(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("case", ["dit"], indirect=True)
@pytest.mark.parametrize("patch", [(slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4)), (slice(6, 7), slice(4, 5))])
def test_patches_stay_in_their_places_while_the_blocks_are_the_identity(case, patch):
    rows, columns = patch
    x, c_noise, labels = case.inputs()
    params = case.initial | {name: case.params[name] for name in ("first", "out")}
    y = case.apply(params, x, c_noise, labels)
    x[:, rows, columns] += 1
    changed = np.abs(case.apply(params, x, c_noise, labels) - y).max(axis=(0, 3)) > 1e-4
    assert changed[rows, columns].all()
    assert changed.sum() == changed[rows, columns].size


def test_no_two_layers_drop_by_the_same_key(case, keys, quick_jit, monkeypatch):
    seen = []

    def record(x, rate, keys):
        seen.append(jax.random.key_data(keys))
        return x

    for name, module in list(sys.modules.items()):  # a network's blocks may be in a module of their own
        if name.startswith("diffusion.networks.") and hasattr(module, "dropout"):
            monkeypatch.setattr(module, "dropout", record)

    @quick_jit
    def dropped_by(keys):
        case.network(case.params, *(jnp.asarray(a) for a in case.inputs()), keys)
        return jnp.concatenate(seen)

    found = np.asarray(dropped_by(keys(0, 1, 2, 3)))
    assert len(found) == 4 * len(seen) >= 8
    assert len(np.unique(found, axis=0)) == len(found)


def test_no_key_is_used_twice(case, keys):
    with jax.debug_key_reuse(True):
        jax.eval_shape(jax.jit(case.network), case.params, *case.inputs(), keys(0, 1, 2, 3))
