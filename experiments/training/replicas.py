"""Where arrays go: the state whole on every device, a batch in equal shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.training.data import REFERENCE
from experiments.training.state import TrainState, to_tree

AXIS = "data"
Device = Any
"""A `jax.Device`, which type checkers do not take for a type."""

# One program for all arrays; inside `jit` a copy is a copy, and not the array that was given.
_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


@dataclass(frozen=True)
class Replicas:
    """The devices of a run. `local` are those of this process; all processes together have `count`."""

    local: tuple[Device, ...]
    count: int

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are CPUs."""
        return self.local[0].platform == "cpu"

    def place(self, tree: Any) -> Any:
        """Each array whole on every local device."""
        return jax.device_put(tree, NamedSharding(self._mesh(), PartitionSpec()))

    def whole(self, tree: Any) -> Any:
        """Each array of a placed tree whole on the first device, a copy."""
        return _copied(jax.tree.map(lambda leaf: leaf.addressable_data(0), tree))

    def to_save(self, state: TrainState) -> dict[str, Any]:
        """The state as a tree of arrays that do not change any more, for a checkpoint."""
        return to_tree(state)

    def bytes_on_each(self, tree: Any) -> int:
        """The bytes of a tree of arrays or shapes on each device, when it is placed."""
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    def share(self, tree: Any) -> Any:
        """Each array (devices, ...) with one row on each local device."""
        return jax.device_put(tree, NamedSharding(self._mesh(), PartitionSpec(AXIS)))

    def split(self, batches: list[dict[str, np.ndarray]]) -> Any:
        """This process's k batches of (b, ...) as arrays (devices, k, b/devices, ...), one row on each device.

        The reference images of a batch, (n, ...), are whole in every row.
        """

        def leaf(name: str) -> np.ndarray:
            stacked = np.stack([batch[name] for batch in batches])
            if name == REFERENCE:
                return np.broadcast_to(stacked, (len(self.local), *stacked.shape))
            shares = stacked.reshape(len(batches), len(self.local), -1, *stacked.shape[2:])
            return np.ascontiguousarray(np.moveaxis(shares, 1, 0))

        return self.share({name: leaf(name) for name in batches[0]})

    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.local), (AXIS,))


def devices_of(config: Config, devices: tuple[Device, ...] | None = None) -> tuple[tuple[Device, ...], int]:
    """(The devices of this process, the number of those of all); in a run of one process `devices`, if given.

    Raises UsageError when the batch cannot be shared out equally among them, and among the micro-batches of each.
    """
    local = devices or tuple(jax.local_devices())
    count = len(local) if devices else jax.device_count()
    batch_size, accumulate = config.training.batch_size, config.optimizer.accumulate
    if batch_size % (count * accumulate):
        nearest = max(1, round(batch_size / (count * accumulate))) * count * accumulate
        each = f" times --optimizer.accumulate {accumulate}" if accumulate > 1 else ""
        raise UsageError(
            f"--training.batch-size {batch_size} is not a multiple of {count} devices{each}; give {nearest}, say."
        )
    return local, count
