"""The pure step: how a batch is shared out changes nothing; what is not finite changes nothing."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import keys as keys_lib
from diffusion.prediction import Preconditioning
from experiments.config.nodes import Chain, ImportanceConfig, OptimizerConfig
from experiments.data.scaling import to_model
from experiments.training import ema
from experiments.training.objective import make_objective
from experiments.training.optimizer import learning_rate, make_optimizer
from experiments.training.state import PRNG, initial_state
from experiments.training.step import _mean_over_micro_batches, make_step, repeat
from tests.experiments.training.tiny_run import BATCH, SHAPE, TinyBatches, tiny_config


def network(params, x, c_noise, labels, keys=None):
    """Few parameters, and yet everything a network has: a kernel, labels, dropout by sample."""
    h = x.reshape(x.shape[0], -1) @ params["kernel"] + params["label"][labels] * c_noise[:, None]
    if keys is not None:
        h = h * jax.vmap(lambda key: jax.random.bernoulli(key, 0.8, h.shape[1:]))(keys)
    return h.reshape(x.shape)


def everything(config, dropout=True):
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(np.float32(0.1 * rng.standard_normal((64, 64)))),
        "label": jnp.asarray(np.float32(rng.standard_normal((5, 64)))),
    }
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    objective = make_objective(config, network, 4, dropout)
    # Past the warm-up's first step, which does not move.
    state = dataclasses.replace(initial_state(params, optimizer, config), step=jnp.asarray(np.int32(3)))
    return objective, optimizer, state


def batch_of(step):
    batch = TinyBatches()[step]
    batch["image"] = to_model(batch["image"])  # in float, so that a pixel can be NaN
    return jax.tree.map(jnp.asarray, batch)


def close(a, b, tolerance=2e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), a, b)


DEVICES = tuple(jax.devices()[:2])

# Plain gradient descent: Adam divides rounding errors by themselves where a gradient is nearly zero.
SGD = optax.sgd(0.1)


IMPORTANCE = {"times": ImportanceConfig(bins=4)}


@pytest.fixture(scope="module")
def whole():
    config = tiny_config(**IMPORTANCE)
    objective, _, state = everything(config)
    state = dataclasses.replace(state, opt_state=SGD.init(state.params))
    return objective, state, jax.jit(make_step(objective, SGD, config))(state, batch_of(0))


@pytest.fixture(scope="module")
def adam():
    config = tiny_config()
    objective, optimizer, state = everything(config)
    step = make_step(objective, optimizer, config)
    return step, jax.jit(step), state


@pytest.mark.parametrize("unroll", [True, False])
def test_micro_batches_make_the_same_update(whole, unroll):
    objective, state, (after, metrics) = whole
    config = tiny_config(optimizer={"accumulate": 2}, **IMPORTANCE)
    step = jax.jit(make_step(objective, SGD, config, unroll=unroll))
    accumulated, its_metrics = step(state, batch_of(0))
    assert np.abs(np.subtract(after.params["kernel"], state.params["kernel"])).max() > 1e-5
    close(accumulated, after)
    close(its_metrics, metrics)


def test_a_loop_over_micro_batches_is_the_mean_written_out_to_the_bit():
    """`optax.microbatch` divides a batch as we do; of small whole numbers the sums are exact, so a bit would show."""
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 9, (12, 2)), jnp.float32),
        "slot": jnp.arange(12),
        "reference": jnp.asarray(rng.integers(0, 9, (3, 2)), jnp.float32),
    }

    def gradient(part):
        # The order within a micro-batch tells which elements it has.
        places = 2.0 ** jnp.arange(part["slot"].shape[0])
        return (places @ part["image"], (part["reference"].sum(0), places @ part["slot"].astype(jnp.float32)))

    for count in (2, 3, 4):
        written, looped = (_mean_over_micro_batches(gradient, batch, count, unroll) for unroll in (True, False))
        jax.tree.map(np.testing.assert_array_equal, looped, written)
        spread = jax.pmap(partial(_mean_over_micro_batches, gradient, count=count, unroll=False), devices=DEVICES)
        both = spread(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, jnp.stack([b, b])), both, written)
        parts = [
            gradient({**batch, **{name: batch[name][i::count] for name in ("image", "slot")}}) for i in range(count)
        ]
        by_hand = jax.tree.map(lambda *leaves: sum(leaves) / np.float32(len(leaves)), *parts)
        jax.tree.map(np.testing.assert_array_equal, written, by_hand)


def test_shares_of_a_batch_make_the_same_update(whole):
    objective, state, (after, metrics) = whole
    config = tiny_config(**IMPORTANCE)
    step = make_step(objective, SGD, config, reduce=partial(jax.lax.pmean, axis_name="data"))
    shares = jax.tree.map(lambda leaf: np.reshape(leaf, (4, BATCH // 4, *leaf.shape[1:])), batch_of(0))
    shared = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name="data"))(state, shares)
    close(jax.tree.map(lambda leaf: np.asarray(leaf)[0], shared), (after, metrics))
    assert not np.allclose(after.second_moments, state.second_moments)


def test_repeated_step_is_the_steps_one_by_one(adam):
    step, jitted, state = adam
    by_hand = state
    for i in range(2):
        before, (by_hand, _) = by_hand, jitted(by_hand, batch_of(i))
        # The second average still warms up, at decay (1 + n)/(10 + n) for n updates before this one.
        decay = (4 + i) / (13 + i)
        old, new = jax.tree.map(np.asarray, (before.ema[1], by_hand.params))
        close(by_hand.ema[1], jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, old, new))
    batches = jax.tree.map(lambda *leaves: np.stack(leaves), batch_of(0), batch_of(1))
    together, metrics = jax.jit(repeat(step))(state, batches)
    close(together, by_hand, 1e-5)
    assert metrics.loss.shape == (2,)
    assert int(by_hand.step) == 5


def test_loss_of_an_element_depends_on_its_slot_and_not_on_its_neighbours():
    objective, _, state = everything(tiny_config())
    batch, key, order = batch_of(0), jax.random.key(7), np.array([5, 0, 3, 7, 1, 6, 4, 2])
    part = {name: np.asarray(leaf)[order] for name, leaf in batch.items()}

    @jax.jit
    def losses_of(key, batch):
        return objective(state.params, key, batch, state.second_moments, True)[0]

    losses, others = (np.asarray(losses_of(one, batch)) for one in (key, jax.random.key(8)))
    close(losses_of(key, part), losses[order], 1e-5)
    assert not np.any(np.isclose(others, losses, rtol=1e-3))


def test_noise_times_labels_and_dropout_have_a_stream_each(monkeypatch):
    """No two draws of a step start from one key, or a label would be dropped where the noise is large."""
    roots = []
    sample_keys = keys_lib.sample_keys

    def recording(key, ids):
        roots.append(jax.random.key_data(key))
        return sample_keys(key, ids)

    monkeypatch.setattr(keys_lib, "sample_keys", recording)
    config = dataclasses.replace(tiny_config(), label_dropout=0.5, draw="independent")
    objective, _, state = everything(config)

    @jax.jit
    def keys_of(key):
        objective(state.params, key, batch_of(0), state.second_moments, True)
        return roots

    seen = {tuple(np.asarray(root).tolist()) for root in keys_of(jax.random.key(3))}
    assert len(roots) >= 4
    assert len(seen) == len(roots)


def test_dropped_labels_are_no_labels_and_validation_drops_nothing():
    config = dataclasses.replace(tiny_config(), label_dropout=1.0)
    objective, _, state = everything(config, dropout=False)
    batch, key = batch_of(0), jax.random.key(3)
    nulls = {**batch, "label": jnp.asarray(np.full(BATCH, 4, np.int32))}

    half = everything(dataclasses.replace(config, label_dropout=0.5), dropout=False)[0]

    @jax.jit
    def losses(batch):
        """While training, of held-out data, and while training with half of the labels."""
        cases = ((objective, True), (objective, False), (half, True))
        return [of(state.params, key, batch, state.second_moments, train)[0] for of, train in cases]

    (dropped, held_out, some), (without, held_out_without, _) = losses(batch), losses(nulls)
    close(dropped, without)
    close(without, held_out_without)
    assert not np.any(np.isclose(held_out, held_out_without, rtol=1e-4))
    assert 0 < np.isclose(some, without).sum() < BATCH


def test_learned_variance_trains_both_halves_of_the_output():
    config = tiny_config(
        schedule=Chain(steps=20), preconditioning=Preconditioning("eps"), learned_variance=True, **IMPORTANCE
    )
    state, batch = everything(config)[2], batch_of(0)
    params = {**state.params, "second": jnp.zeros((64,))}

    def two(params, x, c_noise, labels, keys=None):
        second = jnp.broadcast_to(params["second"].reshape(SHAPE), x.shape)
        return jnp.concatenate([network(params, x, c_noise, labels), second], axis=-1)

    objective = make_objective(config, two, 4, False)

    def mean_loss(params):
        losses, _ = objective(params, jax.random.key(0), batch, state.second_moments, True)
        return jnp.mean(losses)

    gradient = jax.jit(jax.grad(mean_loss))(params)
    assert np.abs(gradient["kernel"]).max() > 1e-4
    assert np.abs(gradient["second"]).min() > 1e-7


def test_what_is_not_finite_changes_nothing_for_good(adam):
    _, step, state = adam
    good = batch_of(0)
    bad = {**good, "image": np.array(good["image"])}
    bad["image"][2, 0, 0, 0] = np.nan
    first, metrics = step(state, good)
    assert metrics.finite
    assert int(first.diverged_at) == -1
    stuck, metrics = step(first, bad)
    assert not metrics.finite
    assert int(stuck.diverged_at) == int(first.step) + 1
    later, _ = step(stuck, good)
    expected = dataclasses.replace(first, diverged_at=stuck.diverged_at)
    jax.tree.map(np.testing.assert_array_equal, later, expected)


def test_an_update_that_overflows_is_not_made():
    config = tiny_config(optimizer={"learning_rate": 1e30, "warmup_steps": 0})
    objective, optimizer, state = everything(config)
    after, metrics = jax.jit(make_step(objective, optimizer, config))(state, batch_of(0))
    assert np.isfinite(metrics.loss)
    assert np.isfinite(metrics.grad_norm)
    assert not metrics.finite
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_averages_start_as_copies_and_the_key_says_how_it_was_made():
    state = everything(tiny_config())[2]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)
    close(state.ema, (state.params, state.params), 0)
    assert jax.random.wrap_key_data(state.key, impl=PRNG).shape == ()
    assert not np.array_equal(state.key, everything(tiny_config(training={"seed": 1}))[2].key)


@pytest.mark.parametrize("warmup", [True, False])
def test_average_is_its_closed_form(warmup):
    # Few values, so that the first still weigh; the warm-up ends at n = 8.
    values, decay = np.random.default_rng(0).standard_normal(12), 0.5
    decays = np.array([min(decay, (1 + n) / (10 + n)) if warmup else decay for n in range(12)])
    average = {"w": jnp.asarray(5.0)}
    for n, value in enumerate(values):
        average = ema.update(average, {"w": jnp.asarray(value, jnp.float32)}, ema.decay_at(decay, n, warmup))
    # The weight of value n is what update n takes of it, times what the later updates leave.
    left = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
    expected = 5.0 * left[0] + np.sum((1 - decays) * left[1:] * values)
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def test_average_of_equals_is_itself_to_the_bit():
    params = {"w": jnp.asarray([0.1, -3.3, 1e-30])}
    np.testing.assert_array_equal(ema.update(params, params, 0.999)["w"], params["w"])


@pytest.mark.parametrize(
    ("decay", "middle", "end"), [("constant", 1.0, 1.0), ("cosine", 0.5, 0.0), ("linear", 0.5, 0.0)]
)
@pytest.mark.parametrize("warmup", [0, 20])
def test_learning_rate_at_the_ends(decay, middle, end, warmup):
    rate = learning_rate(OptimizerConfig(learning_rate=2.0, warmup_steps=warmup, decay=decay), 100 + warmup)
    np.testing.assert_allclose(rate(0), 0.0 if warmup else 2.0)
    np.testing.assert_allclose(rate(warmup // 2), 1.0 if warmup else 2.0)
    np.testing.assert_allclose(rate(warmup), 2.0)
    np.testing.assert_allclose(rate(warmup + 50), 2.0 * middle, rtol=1e-6)
    np.testing.assert_allclose(rate(warmup + 100), 2.0 * end, atol=1e-7)


def test_weight_decay_pulls_on_kernels_alone():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    params = {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    optimizer = make_optimizer(config, 10)
    first = jax.jit(lambda params, slopes: optimizer.update(slopes, optimizer.init(params), params)[0])
    updates: Any = first(params, jax.tree.map(np.zeros_like, params))
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], 0.0)


def test_clipping_bounds_what_adam_remembers():
    params, gradient = ({"w": np.full(4, value, np.float32)} for value in (0, 50))

    def momentum(clip_norm):
        optimizer = make_optimizer(OptimizerConfig(clip_norm=clip_norm), 10)
        first = jax.jit(lambda params, slopes: optimizer.update(slopes, optimizer.init(params), params)[1])
        return np.linalg.norm(optax.tree.get(first(params, gradient), "mu")["w"])

    np.testing.assert_allclose(momentum(2.0), 0.1 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(momentum(0.0), 0.1 * 100.0, rtol=1e-5)
