"""The optimisers by their definitions, and the courses of the learning rate by their formulas."""

import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import tree_flatten_with_path

from diffusion.networks import Network
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from experiments.config.checks import check
from experiments.config.nodes import WIDEST, OptimizerConfig
from experiments.errors import UsageError
from experiments.training import ema, loop
from experiments.training.checkpoint import CheckpointWriter, load
from experiments.training.differences import differences
from experiments.training.optimizer import (
    cooldown,
    gradient_point,
    is_hidden,
    learning_rate,
    make_optimizer,
    parameters_at,
)
from experiments.training.state import from_tree, initial_state, to_tree
from tests.experiments.training.tiny_run import tiny_config, tiny_data

PLAIN = {"warmup_steps": 0, "clip_norm": 0.0}


def first_update(config, params, slopes):
    """The first update of one optimiser, on parameters that stay where they are."""
    optimizer = make_optimizer(config, 100)
    update = jax.jit(lambda params, slopes: optimizer.update(slopes, optimizer.init(params), params)[0])
    return update(params, slopes)


def block(**arrays):
    return {"blocks": {"0": arrays}}


def stretched(singular_values):
    """What Muon makes of singular values: five times s (a + b s² + c s⁴), begun at those of unit Frobenius norm."""
    s = singular_values / np.linalg.norm(singular_values)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize(("rows", "columns", "factor"), [(4, 64, 4.0), (64, 4, 1.0), (6, 6, 1.0)])
def test_muon_takes_the_orthogonal_factor_by_the_shape_of_a_kernel(rows, columns, factor):
    """A kernel is (in, out), so that a wide one, whose outputs are many, is stretched by √(out/in)."""
    config = OptimizerConfig(name="muon", muon_learning_rate=0.5, **PLAIN)
    slope = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    params = block(mlp={"kernel": jnp.ones((rows, columns))})
    update = np.asarray(first_update(config, params, block(mlp={"kernel": slope}))["blocks"]["0"]["mlp"]["kernel"])
    u, s, v = np.linalg.svd(np.float64(slope), full_matrices=False)
    expected = -0.5 * factor * (u * stretched(s)) @ v
    np.testing.assert_allclose(update, expected, atol=2e-4)
    # And that is nearly −η √(out/in) UVᵀ itself.
    along = np.diag(u.T @ update @ v.T) / (-0.5 * factor)
    assert 0.6 < along.min() < along.max() < 1.25


def test_muon_takes_queries_keys_and_values_for_three_matrices():
    config = OptimizerConfig(name="muon", **PLAIN)
    parts = [np.random.default_rng(i).standard_normal((8, 8)).astype(np.float32) * 10**i for i in range(3)]

    def update(name, slope):
        params = block(attention={name: {"kernel": jnp.zeros(slope.shape)}})
        of_block = first_update(config, params, block(attention={name: {"kernel": slope}}))["blocks"]["0"]
        return np.asarray(of_block["attention"][name]["kernel"])

    apart = np.concatenate([update("out", part) for part in parts], axis=1)
    np.testing.assert_allclose(update("qkv", np.concatenate(parts, axis=1)), apart, atol=1e-6)
    assert not np.allclose(update("other", np.concatenate(parts, axis=1)), apart, atol=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_muons_momentum_is_the_one_that_is_asked_for(momentum):
    """After the slopes g and h it is β (β g + h)/(1 − β³) + h/(1 − β²), Nesterov's, up to a factor."""
    optimizer = make_optimizer(OptimizerConfig(name="muon", muon_momentum=momentum, **PLAIN), 100)
    g, h = np.random.default_rng(0).standard_normal((2, 6, 6)).astype(np.float32)
    params = block(mlp={"kernel": jnp.zeros((6, 6))})

    @jax.jit
    def after(*slopes):
        state: Any = optimizer.init(params)
        change: Any = params
        for slope in slopes:
            change, state = optimizer.update(block(mlp={"kernel": slope}), state, params)
        return change["blocks"]["0"]["mlp"]["kernel"]

    mixed = momentum * (momentum * g + h) / (1 - momentum**3) + h / (1 - momentum**2)
    np.testing.assert_allclose(after(g, h), after(mixed), atol=1e-5)


def test_muon_takes_a_convolution_for_the_matrix_of_its_patches():
    config = OptimizerConfig(name="muon", **PLAIN)
    slope = np.random.default_rng(0).standard_normal((3, 3, 2, 72)).astype(np.float32)

    def update(slope):
        of = first_update(config, block(conv={"kernel": jnp.zeros(slope.shape)}), block(conv={"kernel": slope}))
        return np.asarray(of["blocks"]["0"]["conv"]["kernel"])

    as_matrix = update(slope.reshape(18, 72))
    np.testing.assert_allclose(update(slope).reshape(18, 72), as_matrix, atol=1e-6)
    # √(out/(kh·kw·in)) = 2, and no singular value is far from it.
    values = np.linalg.svd(as_matrix, compute_uv=False) / (2 * 0.02)
    assert 0.6 < values.min() < values.max() < 1.25


def test_muon_leaves_all_else_to_adamw_to_the_bit():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (6, 4), "bias": (4,), "scale": (1, 6), "embedding": (5, 6)}
    inner = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    params = {"out": {"kernel": np.ones((6, 4), np.float32)}, **block(layer=inner)}
    slopes = jax.tree.map(lambda leaf: np.float32(leaf + 0.3), params)
    common = {"weight_decay": 0.1, **PLAIN}
    ours, adamw = (first_update(OptimizerConfig(name=name, **common), params, slopes) for name in ("muon", "adamw"))
    different = {
        "/".join(str(entry.key) for entry in path)
        for (path, a), b in zip(tree_flatten_with_path(ours)[0], jax.tree.leaves(adamw), strict=True)
        if not np.array_equal(a, b)
    }
    assert different == {"blocks/0/layer/kernel"}


def test_weight_decay_pulls_on_muons_matrices_by_its_own_rate():
    config = OptimizerConfig(name="muon", weight_decay=0.5, muon_learning_rate=0.1, **PLAIN)
    params = block(mlp={"kernel": np.eye(3, dtype=np.float32)})
    update = first_update(config, params, jax.tree.map(np.zeros_like, params))
    np.testing.assert_allclose(update["blocks"]["0"]["mlp"]["kernel"], -0.05 * np.eye(3), rtol=1e-6)


def test_muons_matrices_warm_up_as_all_else_does():
    config = OptimizerConfig(name="muon", warmup_steps=4, clip_norm=0.0)
    params = block(mlp={"kernel": np.eye(3, dtype=np.float32)})
    np.testing.assert_array_equal(first_update(config, params, params)["blocks"]["0"]["mlp"]["kernel"], 0.0)


def test_hidden_matrices_of_the_networks_are_those_between_input_and_output():
    key = jax.random.key(0)
    found = {}
    for config, shape in (
        (MLPConfig(hidden=8, layers=1, embedding=4), (2,)),
        (DiTConfig(width=8, depth=1, heads=2), (8, 8, 1)),
        (UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,)), (8, 8, 1)),
    ):
        params = jax.eval_shape(Network(config, shape, num_classes=3).init, key)
        paths = {"/".join(str(entry.key) for entry in path): (path, leaf) for path, leaf in _leaves(params)}
        found[type(config)] = {name for name, (path, leaf) in paths.items() if is_hidden(path, leaf)}
        assert all(leaf.ndim > 1 for name, (_, leaf) in paths.items() if name in found[type(config)])
        assert not {name for name in found[type(config)] if name.startswith(("emb", "first", "out"))}
    assert found[MLPConfig] == {f"blocks/0/{name}/kernel" for name in ("first", "condition", "second")}
    assert {f"blocks/0/attention/{name}/kernel" for name in ("qkv", "out")} < found[DiTConfig]
    assert {"encoder/0/residual/conv1/kernel", "middle/0/attention/attention/qkv/kernel"} < found[UNetConfig]


def _leaves(tree):
    return tree_flatten_with_path(tree)[0]


def test_a_network_without_hidden_matrices_is_no_network_for_muon():
    with pytest.raises(UsageError, match="muon finds no hidden matrices"):
        make_optimizer(OptimizerConfig(name="muon"), 10).init({"out": {"kernel": jnp.ones((3, 3))}})


def schedule_free_by_hand(config, slope, x, count):
    """Algorithm 1 of Defazio et al. 2024, in float64."""
    z, second, weights = x.copy(), np.zeros_like(x), 0.0
    for n in range(count):
        y = (1 - config.b1) * z + config.b1 * x
        g, rate = slope(y), config.learning_rate * (min(n / config.warmup_steps, 1.0) if config.warmup_steps else 1.0)
        second = config.b2 * second + (1 - config.b2) * g**2
        z = z - rate * (g / (np.sqrt(second / (1 - config.b2 ** (n + 1))) + 1e-8) + config.weight_decay * y)
        weights += rate**2
        part = rate**2 / weights if weights else 0.0
        x = (1 - part) * x + part * z
    return x


@pytest.mark.parametrize("warmup", [0, 5])
def test_schedule_free_is_its_algorithm_and_evaluates_the_average(x64, warmup):
    config = OptimizerConfig(
        name="schedule-free", learning_rate=0.05, warmup_steps=warmup, weight_decay=0.1, b1=0.8, clip_norm=0.0
    )
    target, curvature = np.array([[1.0, -2.0, 0.5]]), np.array([[1.0, 10.0, 0.1]])

    def slope(at):
        return curvature * (at - target)

    optimizer = make_optimizer(config, 100)

    @jax.jit
    def step(params, state):
        point = gradient_point(config, params, state)
        updates, state = optimizer.update({"w": slope(point["w"])}, state, point)
        return parameters_at(config, optax.apply_updates(point, updates), state), state

    params = {"w": jnp.zeros((1, 3), jnp.float64)}
    state: Any = optimizer.init(params)
    for _ in range(30):
        params, state = step(params, state)
    by_hand = schedule_free_by_hand(config, slope, np.zeros((1, 3)), 30)
    # optax computes the line of a warm-up in float32.
    np.testing.assert_allclose(params["w"], by_hand, rtol=1e-7 if warmup else 1e-9)
    # It is neither z nor the gradient's point.
    assert not np.allclose(state.z["w"], by_hand, rtol=1e-3)
    assert not np.allclose(gradient_point(config, params, state)["w"], by_hand, rtol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_schedule_free_takes_gradients_elsewhere(name):
    params = {"w": jnp.ones(3)}
    config = OptimizerConfig(name=name)
    assert gradient_point(config, params, ()) is params
    assert parameters_at(config, params, ()) is params


@pytest.mark.parametrize("warmup", [0, 10, 60])
def test_inverse_square_root_is_its_formula_and_breaks_off_nowhere(warmup):
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=warmup, decay="inverse-sqrt", reference_steps=25)
    n = np.arange(2001)
    rates = np.asarray(jax.vmap(learning_rate(config, 10))(n))
    np.testing.assert_allclose(
        rates, 2.0 / np.sqrt(np.maximum(n / 25, 1)) * (np.minimum(n / warmup, 1) if warmup else 1), rtol=1e-5
    )
    np.testing.assert_allclose(rates[2000] / rates[500], 0.5, rtol=1e-5)
    assert np.abs(np.diff(rates)).max() <= (2.0 / warmup if warmup else 0.05) * 1.001


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
@pytest.mark.parametrize("decay", ["constant", "cosine", "linear", "inverse-sqrt"])
def test_a_cooldown_falls_from_the_decay_to_zero(decay, shape):
    plain = OptimizerConfig(learning_rate=2.0, warmup_steps=10, decay=decay)
    if decay == "inverse-sqrt":
        plain = dataclasses.replace(plain, reference_steps=25)
    cooled = dataclasses.replace(plain, cooldown_steps=40, cooldown=shape)
    n = np.arange(101)
    before, after = (np.asarray(jax.vmap(learning_rate(config, 100))(n)) for config in (plain, cooled))
    np.testing.assert_array_equal(after[:61], before[:61])
    s = (n[60:] - 60) / 40
    np.testing.assert_allclose(after[60:], before[60:] * (1 - (s if shape == "linear" else np.sqrt(s))), rtol=1e-5)
    assert after[100] == 0
    assert after[99] > 0
    # From the border on, too, the steps of the course are those of its shape alone.
    np.testing.assert_allclose(float(cooldown(61, 100, 40, shape)), 1 - (1 / 40 if shape == "linear" else 1 / 40**0.5))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"muon_learning_rate": 0.1}, "--optimizer.muon-learning-rate 0.1 goes with --optimizer.name muon"),
        ({"muon_momentum": 0.9}, "--optimizer.muon-momentum 0.9 goes with --optimizer.name muon"),
        ({"name": "muon", "muon_learning_rate": 0.0}, "--optimizer.muon-learning-rate is 0.0; give a positive"),
        ({"name": "muon", "muon_momentum": 1.0}, r"--optimizer.muon-momentum is 1.0; give a number in \[0, 1\)"),
        ({"reference_steps": 5}, "--optimizer.reference-steps 5 goes with --optimizer.decay inverse-sqrt"),
        ({"decay": "inverse-sqrt", "reference_steps": 0}, "--optimizer.reference-steps is 0; give at least 1"),
        ({"cooldown": "1-sqrt"}, "--optimizer.cooldown 1-sqrt does nothing by itself"),
        ({"cooldown_steps": -1}, "--optimizer.cooldown-steps is -1; give 0"),
        ({"cooldown_steps": 18}, "--optimizer.cooldown-steps 18 begins before the 4 steps of the warm-up are over"),
        ({"name": "schedule-free", "decay": "cosine"}, "schedule-free averages instead of a decay"),
        ({"name": "schedule-free", "cooldown_steps": 5}, "schedule-free averages instead of a decay"),
        ({"name": "schedule-free", "b1": 0.0}, "--optimizer.b1 is 0"),
    ],
)
def test_what_no_optimiser_has_and_what_would_do_nothing_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        check(tiny_config(optimizer=fields))


@pytest.mark.parametrize("name", ["adamw", "muon", "schedule-free"])
def test_a_checkpoint_of_any_optimiser_goes_on_to_the_bit(tmp_path, name):
    config = tiny_config(optimizer={"name": name}, ema={"sigma_rel": (0.1,)})
    optimizer = make_optimizer(config.optimizer, 20)
    rng = np.random.default_rng(0)
    kernels = {"qkv": {"kernel": rng.standard_normal((4, 12))}, "conv": {"kernel": rng.standard_normal((3, 3, 2, 5))}}
    params = jax.tree.map(
        np.float32, {**block(**kernels), "out": {"kernel": rng.standard_normal((4, 2)), "bias": np.ones(2)}}
    )

    @jax.jit
    def step(state):
        point = gradient_point(config.optimizer, state.params, state.opt_state)
        slopes = jax.tree.map(lambda leaf: jnp.sin(leaf + state.step), point)
        updates, opt_state = optimizer.update(slopes, state.opt_state, point)
        params = parameters_at(config.optimizer, optax.apply_updates(point, updates), opt_state)
        averages = ema.update_all(state.ema, params, config.ema, state.step)
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, ema=averages)

    first = jax.jit(lambda params: initial_state(params, optimizer, config))(params)
    halfway = step(step(step(first)))
    writer = CheckpointWriter(tmp_path, config, tiny_data().facts)
    writer.save(3, to_tree(halfway))
    writer.close()
    resumed = from_tree(load(tmp_path / "00000003")[0], jax.eval_shape(lambda: first))
    straight, again = step(step(halfway)), step(step(resumed))
    jax.tree.map(np.testing.assert_array_equal, again, straight)
    assert not np.array_equal(straight.params["out"]["kernel"], halfway.params["out"]["kernel"])


def test_the_parameters_of_a_schedule_free_training_are_those_that_are_evaluated(tmp_path, shared_programs):
    """Raw parameters, averages and the checkpoint are of x; the gradient is taken elsewhere, at y."""
    rule = {"name": "schedule-free", "warmup_steps": 1}
    config = tiny_config(optimizer=rule, ema={"sigma_rel": (WIDEST,)}, training={"steps": 6, "checkpoint_every": 3})
    with loop.training(config, tmp_path, data=tiny_data(), devices=tuple(jax.devices()[:1])) as steps:
        seen = [(jax.tree.map(np.asarray, step.params), jax.tree.map(np.asarray, step.ema)) for step in steps]
    tree, _ = load(tmp_path / "checkpoints" / "00000006")
    jax.tree.map(np.testing.assert_array_equal, tree["params"], seen[-1][0])
    # The plain mean of the raw parameters is the widest of the averages.
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(params for params, _ in seen))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), seen[-1][1][2], mean)
    # x is the mean of z by squared learning rates, which are equal after the first step, 0.
    z = tree["opt_state"]["z"]
    apart = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), tree["params"], z)
    assert max(jax.tree.leaves(apart)) > 1e-4
    loop.train(config, tmp_path / "other", data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True)
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "00000006")
    loop.train(config, tmp_path / "other", data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "other" / "checkpoints" / "00000006")[0], tree)


def test_a_cooldown_can_be_added_while_it_has_not_begun_and_the_run_is_as_if_it_had_it_from_the_start(
    tmp_path, shared_programs
):
    train = {"data": tiny_data(), "devices": tuple(jax.devices()[:1]), "quiet": True}
    plain = tiny_config(training={"steps": 6, "checkpoint_every": 6, "validate_every": 0})
    cooled = tiny_config(
        optimizer={"cooldown_steps": 6}, training={"steps": 12, "checkpoint_every": 6, "validate_every": 0}
    )
    loop.train(plain, tmp_path / "added", **train)
    loop.train(cooled, tmp_path / "added", **train)
    loop.train(cooled, tmp_path / "whole", **train)
    ends = [load(tmp_path / name / "checkpoints" / "00000012")[0] for name in ("added", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    for later in (plain, dataclasses.replace(cooled, training=dataclasses.replace(cooled.training, steps=20))):
        with pytest.raises(UsageError, match=r"added holds a run with --(optimizer|training)\..*steps (6|12), and"):
            loop.train(later, tmp_path / "added", **train)


@pytest.mark.parametrize(
    ("decay", "done", "free"), [("constant", 14, True), ("constant", 15, False), ("cosine", 0, False)]
)
def test_a_cooldown_is_free_until_it_begins(decay, done, free):
    before = tiny_config(optimizer={"decay": decay, "cooldown_steps": 6})
    after = tiny_config(optimizer={"decay": decay, "cooldown_steps": 2, "cooldown": "1-sqrt"}, training={"steps": 30})
    assert (differences(before, after, done) == []) == free
    assert differences(before, after)


@pytest.mark.parametrize(("decay", "free"), [("constant", True), ("inverse-sqrt", True), ("linear", False)])
def test_the_length_is_free_where_the_learning_rate_does_not_fall_to_it(decay, free):
    before, after = (tiny_config(optimizer={"decay": decay}, training={"steps": steps}) for steps in (20, 30))
    assert (differences(before, after) == []) == free
