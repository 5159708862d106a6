"""Which axis of an array is cut among devices, by the names of its axes.

Parameters are named by their arrays' roles: a `kernel` (..., in, out) maps channels to channels, an `embedding`
(entries, out) holds a row for each class or place, and of everything else, biases and scales, the last axis is `out`.
The names do nothing until a mesh and the rules are given. The optimiser's moments and the averages have the names of
the parameters that they belong to, and so are cut alike.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_map_with_path

_NAMES = {"kernel": ("in", "out"), "embedding": ("entries", "out")}
RULES = ("out", "in")
"""The axes that may be cut, the first that the number of devices divides."""
SMALL = 2**12
"""Arrays of fewer numbers stay whole: to collect them would cost more than they take."""


def logical_axes(path: Any, rank: int) -> tuple[str | None, ...]:
    """A name for each axis of the array at a path of `jax.tree_util`; None where it has none."""
    name = keystr(path[-1:], simple=True) if path else ""
    names = _NAMES.get(name, ("out",))[-rank:] if rank else ()
    return (*(None,) * (rank - len(names)), *names)


def partition(path: Any, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The axis of an array that is cut along the mesh's one axis; none where it is small or nothing divides it."""
    (axis,), axes = mesh.axis_names, logical_axes(path, len(shape))
    if math.prod(shape) < SMALL:
        return PartitionSpec()
    for name in RULES:
        if name in axes and shape[axes.index(name)] % mesh.size == 0:
            place = axes.index(name)
            return PartitionSpec(*(axis if i == place else None for i in range(len(shape))))
    return PartitionSpec()


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A `NamedSharding` for each array or shape in a tree, by `partition`."""
    return tree_map_with_path(lambda path, leaf: NamedSharding(mesh, partition(path, leaf.shape, mesh)), tree)


def bytes_on_each(tree: Any, mesh: Mesh) -> int:
    """The bytes of a tree of arrays or shapes on each device of the mesh, when it is cut by `shardings`."""
    cut = shardings(tree, mesh)
    sizes = jax.tree.map(lambda leaf, where: math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize, tree, cut)
    return sum(jax.tree.leaves(sizes))
