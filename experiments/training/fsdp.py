"""A training whose state is cut among the devices (fully sharded data parallelism), by `jax.jit` and NamedSharding.

The step is that of `programs`, on the whole batch instead of each device's share. Between steps a device holds its part
of the parameters, of the averages and of the optimiser's state. The parameters are collected for the forward and the
backward pass, and each device updates its part. So a state that is whole on no device can be trained, as long as the
parameters alone, with their gradient, are.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.config.tree import Config
from experiments.training.data import REFERENCE
from experiments.training.objective import Objective
from experiments.training.programs import Programs
from experiments.training.replicas import AXIS, Replicas
from experiments.training.sharding import bytes_on_each, shardings
from experiments.training.state import PRNG, Params, TrainState, to_tree
from experiments.training.step import make_step, repeat


@dataclass(frozen=True)
class Shards(Replicas):
    """The devices of a run whose state is cut among them."""

    @property
    def mesh(self) -> Mesh:
        """All devices of the run, in a row."""
        return Mesh(np.array(self.local if jax.process_count() == 1 else jax.devices()), (AXIS,))

    def place(self, tree: Any) -> Any:
        """Each array cut as `sharding` says; every process gives the whole."""
        return jax.tree.map(_put, tree, shardings(tree, self.mesh))

    def share(self, tree: Any) -> Any:
        """Each array (local devices, ...) with one row on each device, as one array of all processes."""
        return jax.tree.map(lambda leaf: self._of_all(leaf, PartitionSpec(AXIS)), tree)

    def split(self, batches: list[dict[str, np.ndarray]]) -> Any:
        """k batches of (b, ...) as arrays (k, b, ...) whose elements are shared out equally among the devices.

        The reference images of a batch are whole on every device.
        """
        return {
            name: self._of_all(
                np.stack([batch[name] for batch in batches]),
                PartitionSpec() if name == REFERENCE else PartitionSpec(None, AXIS),
            )
            for name in batches[0]
        }

    def whole(self, tree: Any) -> Any:
        """Each array whole on the first device, a copy; in a run of several processes all of them call it."""
        if jax.process_count() > 1:
            collect = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
            return super().whole(collect(tree))
        return super().whole(jax.device_put(tree, self.local[0]))

    def to_save(self, state: TrainState) -> dict[str, Any]:
        """The state as a tree of arrays of which each process writes its part."""
        return to_tree(state, lambda leaf: leaf)

    def bytes_on_each(self, tree: Any) -> int:
        """The bytes of a tree of arrays or shapes on each device."""
        return bytes_on_each(tree, self.mesh)

    def _of_all(self, leaf: np.ndarray, spec: PartitionSpec) -> jax.Array:
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, spec), np.asarray(leaf))


def make_sharded_programs(
    config: Config, objective: Objective, optimizer: optax.GradientTransformation, shards: Shards
) -> Programs:
    """The programs of `config`; each is compiled at its first call."""
    mesh = shards.mesh
    everywhere = NamedSharding(mesh, PartitionSpec())

    def collected(
        params: Any, key: jax.Array, batch: Mapping[str, jax.Array], second_moments: jax.Array, train: bool
    ) -> Any:
        """The objective of parameters that are whole on every device, as data parallelism has it."""
        whole = jax.lax.with_sharding_constraint(params, everywhere)
        return objective(whole, key, batch, second_moments, train)

    steps = repeat(make_step(collected, optimizer, config, unroll=shards.on_cpu), unroll=shards.on_cpu)

    def advance(state: TrainState, batches: Any, signum: jax.Array) -> tuple[TrainState, jax.Array]:
        after, metrics = steps(state, batches)
        after = jax.lax.with_sharding_constraint(after, shardings(after, mesh))
        report = jnp.stack([*metrics, jnp.broadcast_to(jnp.max(signum), metrics.loss.shape)], axis=-1)
        return after, jax.lax.with_sharding_constraint(report, everywhere)

    def held_out_loss(params: Params, key_data: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        key = jax.random.wrap_key_data(key_data, impl=PRNG)
        losses, _ = collected(params, key, jax.tree.map(lambda leaf: leaf[0], batch), jnp.ones(1), False)
        return jax.lax.with_sharding_constraint((jnp.mean(losses), losses), everywhere)

    return Programs(jax.jit(advance, donate_argnums=0), jax.jit(held_out_loss))


def _put(leaf: Any, where: NamedSharding) -> jax.Array:
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])
