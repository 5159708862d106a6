"""From the arrays of a PyTorch file to the parameters of a network here, by name, shape and type.

PyTorch has the axis of outputs first, (out, in, height, width), and we have it last; a `weight` of a linear map or of a
convolution is our `kernel`. All else has the same name and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from experiments.errors import CheckpointError
from experiments.importing.safetensors import FLOATS, SafeTensors
from experiments.names import listed
from experiments.training.state import Params

_AXES = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
"""The axes of a kernel of ours among those of the file, by their number."""


@dataclass(frozen=True)
class Wanted:
    """An array that a network needs, as the file is to have it."""

    name: str
    """In the file."""
    shape: tuple[int, ...]
    """In the file."""
    path: tuple[str, ...]
    """Its place among the parameters."""
    axes: tuple[int, ...]
    """Its axes among those of the file."""
    rows: int | None = None
    """How many of the file's first rows are taken; None for all."""

    def of(self, array: np.ndarray) -> np.ndarray:
        """The parameters, from the file's array."""
        rows = array if self.rows is None else array[: self.rows]
        return np.ascontiguousarray(rows.transpose(self.axes)).reshape([rows.shape[i] for i in self.axes])


def wanted_arrays(init: Callable[[Any], Params], name_of: Callable[[tuple[str, ...]], str]) -> list[Wanted]:
    """What a network with these initial parameters needs, in the names of PyTorch.

    `name_of` makes the file's name of a path whose `kernel` has become `weight`.
    """
    flat = tree_flatten_with_path(jax.eval_shape(init, jax.random.key(0)))[0]
    wanted = []
    for place, leaf in flat:
        path = tuple(keystr((entry,), simple=True) for entry in place)
        axes = tuple(range(leaf.ndim))
        told = path
        if path[-1] == "kernel":
            axes, told = _AXES[leaf.ndim], (*path[:-1], "weight")
        shape = tuple(leaf.shape[axes.index(i)] for i in range(leaf.ndim))
        wanted.append(Wanted(name_of(told), shape, path, axes))
    return wanted


def check_arrays(
    files: Iterable[SafeTensors],
    wanted: Mapping[str, tuple[int, ...]],
    network: str = "the network of its configuration",
) -> None:
    """Raise CheckpointError unless the files hold the `wanted` arrays, by name and shape, of floats, and no others."""
    files = list(files)
    where = files[0].path if len(files) == 1 else files[0].path.parent
    found: dict[str, Any] = {}
    for file in files:
        for name, entry in file.entries.items():
            if name in found:
                raise CheckpointError(f"{file.path}: {listed([name])} is in another file too; fetch them again.")
            found[name] = entry
    lacking, surplus = [name for name in wanted if name not in found], [name for name in found if name not in wanted]
    if lacking:
        also = f", and has {listed(surplus)} instead" if surplus else ""
        raise CheckpointError(f"{where} lacks {listed(lacking)}{also}; {network} needs it.")
    if surplus:
        raise CheckpointError(f"{where} has {listed(surplus)}, which {network} does not have.")
    for name, shape in wanted.items():
        entry = found[name]
        if entry.shape != shape:
            raise CheckpointError(f"{where}: {name} has shape {list(entry.shape)}, and {network} needs {list(shape)}.")
        if entry.dtype not in FLOATS:
            raise CheckpointError(f"{where}: {name} is of type {entry.dtype}; its numbers are to be floating-point.")


def read_params(files: Iterable[SafeTensors], wanted: Iterable[Wanted]) -> Params:
    """The parameters, one array after the other. Raises CheckpointError for one that cannot be read."""
    home = {name: file for file in files for name in file.entries}
    params: Params = {}
    for one in wanted:
        node = params
        for folder in one.path[:-1]:
            node = node.setdefault(folder, {})
        node[one.path[-1]] = one.of(home[one.name].read(one.name))
    return params
