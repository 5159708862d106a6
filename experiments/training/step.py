"""One update of the parameters: a pure function (state, batch) -> (state, metrics) that knows no devices.

The gradient is that of the mean loss over the global batch. A device means over its own share and `reduce` takes
the mean over devices; micro-batches mean over themselves and are averaged here. The shares are equal, so a mean of
means is the mean, and neither changes the update but for rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from diffusion.pytree import short_repr
from diffusion.score_matching.times import updated_second_moments
from experiments.config.nodes import ImportanceConfig
from experiments.config.tree import Config
from experiments.training import ema
from experiments.training.data import REFERENCE
from experiments.training.objective import Objective
from experiments.training.optimizer import gradient_point, learning_rate, parameters_at
from experiments.training.state import PRNG, Params, TrainState

Batch = dict[str, Array]


class Metrics(NamedTuple):
    """The metrics of one update."""

    loss: Float[Array, ""]
    """Mean of the objective over the global batch, before the update."""
    grad_norm: Float[Array, ""]
    """Global norm of its gradient, before clipping."""
    learning_rate: Float[Array, ""]
    finite: Bool[Array, ""]
    """Whether loss, gradient and update were; the state changes only if they were."""

    __repr__ = short_repr


Update = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    config: Config,
    *,
    reduce: Callable[[Any], Any] = lambda tree: tree,
    unroll: bool = True,
) -> Update:
    """The update for batches of `image`, `label`, `slot`, each (share, ...), the share a multiple of `accumulate`.

    Reference images, if there are any, are the same for every micro-batch.

    `reduce` takes a tree to its mean over devices. `unroll` writes the micro-batches out, which a CPU needs (there
    the gradient of a convolution inside a loop is some forty times slower); otherwise `optax.microbatch` loops over
    them.

    The state's parameters are those that are evaluated; a schedule-free optimiser takes the gradient beside them.
    """
    schedule = learning_rate(config.optimizer, config.training.steps)
    rule, importance = config.optimizer, isinstance(config.times, ImportanceConfig)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=PRNG), state.step)
        point = gradient_point(rule, state.params, state.opt_state)

        def gradient(micro_batch: Batch) -> Any:
            def mean_loss(params: Params) -> tuple[Array, Any]:
                losses, sums = objective(params, key, micro_batch, state.second_moments, True)
                return jnp.mean(losses), sums

            return jax.value_and_grad(mean_loss, has_aux=True)(point)

        (loss, sums), grads = reduce(_mean_over_micro_batches(gradient, batch, rule.accumulate, unroll))
        updates, opt_state = optimizer.update(grads, state.opt_state, point)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
        params = parameters_at(rule, optax.apply_updates(point, updates), opt_state)
        after = TrainState(
            step=state.step + 1,
            params=params,  # type: ignore[arg-type]
            ema=ema.update_all(state.ema, params, config.ema, state.step),
            opt_state=opt_state,
            second_moments=updated_second_moments(state.second_moments, *sums) if importance else state.second_moments,
            diverged_at=state.diverged_at,
            key=state.key,
        )
        return _unless_diverged(state, after, finite), Metrics(loss, norm, jnp.asarray(schedule(state.step)), finite)

    return step


def repeat(step: Update, unroll: bool = True) -> Update:
    """`step` over k batches stacked along a first axis; its metrics are stacked likewise."""

    def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        if not unroll:
            return jax.lax.scan(step, state, batches)
        metrics = []
        for i in range(jax.tree.leaves(batches)[0].shape[0]):
            state, of_step = step(state, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
            metrics.append(of_step)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics)

    return steps


def _mean_over_micro_batches(gradient: Callable[[Batch], Any], batch: Batch, count: int, unroll: bool) -> Any:
    """The mean of `gradient` over `count` micro-batches; number i takes every count-th element from i on.

    So each covers the low-discrepancy draws of t evenly. `optax.microbatch` divides a batch in the same way, and takes
    them one after the other in a loop.
    """
    if count == 1:
        return gradient(batch)
    shared = {name: leaf for name, leaf in batch.items() if name == REFERENCE}
    divided = {name: leaf for name, leaf in batch.items() if name != REFERENCE}
    if not unroll:
        size = divided["slot"].shape[0] // count
        mean = optax.microbatching.AccumulationType.MEAN
        return optax.microbatch(lambda part: gradient({**part, **shared}), 0, size, mean)(divided)
    total = None
    for i in range(count):
        one = gradient({**{name: leaf[i::count] for name, leaf in divided.items()}, **shared})
        total = one if total is None else jax.tree.map(jnp.add, total, one)
    return jax.tree.map(lambda leaf: leaf / count, total)


def _unless_diverged(before: TrainState, after: TrainState, finite: Bool[Array, ""]) -> TrainState:
    """`after` if this step and all before it were finite; else `before`, which remembers the first that was not."""
    fine = before.diverged_at < 0
    state = jax.tree.map(lambda new, old: jnp.where(fine & finite, new, old), after, before)
    return dataclasses.replace(state, diverged_at=jnp.where(fine & ~finite, before.step + 1, before.diverged_at))
