"""The programs of a training whose state is whole on every device, by `jax.pmap`; `fsdp` has the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import streams
from experiments.config.tree import Config
from experiments.training.data import RunData
from experiments.training.objective import Objective
from experiments.training.replicas import AXIS, Replicas
from experiments.training.state import PRNG, Params, TrainState, seed_key
from experiments.training.step import make_step, repeat


@dataclass(frozen=True)
class Programs:
    """The two functions that run on the devices."""

    advance: Any
    """(state, batches, the signal that this process has, or 0) -> (state, a row of numbers for each step)."""
    held_out_loss: Callable[[Params, Any, Any], tuple[jax.Array, jax.Array]]
    """(params, key data, batch) -> (mean loss, the loss of each element)."""


def make_programs(
    config: Config, objective: Objective, optimizer: optax.GradientTransformation, replicas: Replicas
) -> Programs:
    """The programs of `config`; each is compiled at its first call."""
    mean = partial(jax.lax.pmean, axis_name=AXIS)
    step = make_step(objective, optimizer, config, reduce=mean, unroll=replicas.on_cpu)
    steps = repeat(step, unroll=replicas.on_cpu)

    def advance(state: TrainState, batches: Any, signum: jax.Array) -> tuple[TrainState, jax.Array]:
        state, metrics = steps(state, batches)
        # All processes learn of one process's signal with the same step, and so stop after the same one.
        signum = jnp.broadcast_to(jax.lax.pmax(signum, AXIS), metrics.loss.shape)
        return state, jnp.stack([*metrics, signum], axis=-1)

    def held_out_loss(params: Params, key_data: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        key = jax.random.wrap_key_data(key_data, impl=PRNG)
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        losses = objective(params, key, batch, jnp.ones(1), False)[0]
        return mean(jnp.mean(losses)), jax.lax.all_gather(losses, AXIS, tiled=True)

    devices = replicas.local if jax.process_count() == 1 else None
    pmap = partial(jax.pmap, axis_name=AXIS, out_axes=None, devices=devices)
    return Programs(
        advance=pmap(advance, in_axes=(None, 0, 0), donate_argnums=0),
        held_out_loss=pmap(held_out_loss, in_axes=(None, None, 0)),
    )


def place_held_out(config: Config, data: RunData, replicas: Replicas) -> tuple[tuple[Any, Any], ...]:
    """(key data, batch) of each held-out batch, on the devices: the same times and noise at every validation."""
    if config.training.validate_every == 0:
        return ()
    root = seed_key(config.training.seed, streams.VALIDATION)
    return tuple(
        (np.asarray(jax.random.key_data(jax.random.fold_in(root, i))), replicas.split([batch]))
        for i, batch in enumerate(data.held_out)
    )
