"""From the parameters of one network to those of another that differs by its data: size, channels, classes.

Arrays go by their names. An array of another shape is begun anew, but for the table of classes, whose rows go by the
names of the classes: a class that the source does not know begins as its "no class", and so does that one itself.
Where only one of the two has a table, the network still begins as the source's without a class: by rows of zeros, or
with the row of "no class" added to what the table's rows are added to: a bias, and tokens that carry the class. Where
only one of the two is told how an image was augmented, it begins as the source's for an image that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from experiments.errors import CheckpointError
from experiments.training.state import Params

_TABLE, _BIAS = "table/embedding", "out/bias"
"""The table of classes of `diffusion.networks.embeddings.Conditioning`, and the bias to which its rows are added."""
_TOKENS = "classes/learned"
"""The class tokens of `diffusion.networks.dit.DiT`, to each of which a row is added too."""
_TOLD = "augment/kernel"
"""What `Conditioning` multiplies with the numbers of an augmentation, which are 0 where there is none."""


@dataclass(frozen=True)
class Carried:
    """What became of the arrays of the new network."""

    carried: tuple[str, ...]
    """Arrays that are the source's."""
    new: tuple[str, ...]
    """Arrays that begin as in a network that nobody has trained, for the data have another shape."""
    known_classes: tuple[str, ...] = ()
    """Classes whose rows are the source's."""
    new_classes: tuple[str, ...] = ()
    """Classes whose rows begin as "no class"."""


def carry_over(
    old: Params, new: Params, old_classes: Sequence[str] = (), new_classes: Sequence[str] = ()
) -> tuple[Params, Carried]:
    """(`new` with the arrays of `old`, what was carried over); `new` are initial parameters, which stay as they are.

    `old_classes` and `new_classes` are the names of the classes that either network knows; none where it knows none.
    Raises CheckpointError when the two have arrays of other names, and so are networks of another kind, or when
    nothing at all fits.
    """
    have, flat = _by_name(old), tree_flatten_with_path(new)[0]
    begin = {_name(path): np.asarray(leaf) for path, leaf in flat}
    tables = {name for name in have.keys() | begin.keys() if name.endswith(_TABLE)}
    told = {name for name in have.keys() | begin.keys() if name.endswith(_TOLD)}
    if stray := sorted((have.keys() ^ begin.keys()) - tables - told):
        where = "the source has no" if stray[0] in begin else "only the source has an"
        raise CheckpointError(f"{where} array {stray[0]}; its network is of another kind.")
    found, carried, anew = dict(begin), [], []
    for name, leaf in begin.items():
        if name in tables:
            found[name] = _rows(leaf, have.get(name), old_classes, new_classes)
        elif name in have and have[name].shape == leaf.shape:
            found[name] = have[name].astype(leaf.dtype)
        (anew if name not in have or (name not in tables and have[name].shape != leaf.shape) else carried).append(name)
    for name in tables - begin.keys():
        for other in (name.removesuffix(_TABLE) + _BIAS, _TOKENS):
            if other in carried:
                found[other] = found[other] + have[name][-1]
    if not carried:
        raise CheckpointError("no array of the source has the shape that this network needs.")
    table = bool(tables & begin.keys())
    known = tuple(name for name in new_classes if table and name in old_classes)
    others = tuple(name for name in new_classes if table and name not in known)
    params = jax.tree.unflatten(jax.tree.structure(new), [found[_name(path)] for path, _ in flat])
    return params, Carried(tuple(carried), tuple(anew), known, others)


def _rows(
    begin: np.ndarray, before: np.ndarray | None, old_classes: Sequence[str], new_classes: Sequence[str]
) -> np.ndarray:
    """The table of classes, its last row that of "no class"; as many zeros where the source has none."""
    if before is None:
        return np.zeros_like(begin)
    null = len(old_classes)
    known = {name: number for number, name in enumerate(old_classes)}
    return before[[*(known.get(name, null) for name in new_classes), null]].astype(begin.dtype)


def _by_name(tree: Params) -> dict[str, np.ndarray]:
    return {_name(path): np.asarray(leaf) for path, leaf in tree_flatten_with_path(tree)[0]}


_name: Callable[[Any], str] = lambda path: keystr(path, simple=True, separator="/")  # noqa: E731
