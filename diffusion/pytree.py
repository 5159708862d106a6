"""Frozen dataclasses as pytrees: the nouns of the core.

Float fields are leaves, so changing β_max or η never recompiles; fields made with `static` are part of
the tree's structure, so changing them does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field that is compiled in: a name, a count, a flag."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it with JAX.

    JAX calls the constructor whenever it rebuilds a tree, with tracers, shapes or bare objects in the
    fields. So validation belongs in `__post_init__` behind `is_concrete`, and run-time type checkers are
    told to leave the constructor alone (the methods are still checked).
    """
    if "__repr__" not in vars(cls):
        cls.__repr__ = short_repr  # type: ignore[method-assign]
    cls = dataclasses.dataclass(frozen=True, repr=False)(cls)
    cls.__init__.__no_type_check__ = True  # type: ignore[attr-defined]
    # Not `register_dataclass`: jaxlib (0.10.2 and 0.12.0.1) takes the trees of two such classes for equal when they
    # have equally many leaves, so that jit now and then runs the program of another class, EDM's for VP.
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = [f.name for f in fields if not f.metadata.get("static")]
    statics = [f.name for f in fields if f.metadata.get("static")]

    def flatten(tree: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(tree, name) for name in leaves], tuple(getattr(tree, name) for name in statics)

    def flatten_with_keys(tree: Any) -> tuple[list[Any], tuple[Any, ...]]:
        children, aux = flatten(tree)
        return [(jax.tree_util.GetAttrKey(name), child) for name, child in zip(leaves, children, strict=True)], aux

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        return cls(**dict(zip(leaves, children, strict=True)), **dict(zip(statics, aux, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


_MANY = 8
"""More elements of a list than these are counted and not shown."""


def short_repr(self: Any) -> str:
    """The usual repr of a dataclass or a named tuple, with every array by its type and shape, as `float32[64,8,8,1]`.

    An array without axes is shown by its value; of a list of more than 8 elements, or a mapping, there is the number.
    The `__repr__` of every `pytree`; a NamedTuple takes it by `__repr__ = short_repr`.
    """
    fields = getattr(type(self), "_fields", None)  # of a named tuple
    names = fields or [field.name for field in dataclasses.fields(self) if field.repr]
    return f"{type(self).__name__}({', '.join(f'{name}={_shown(getattr(self, name))}' for name in names)})"


def _shown(value: Any) -> str:
    if isinstance(value, (np.ndarray, jax.Array)):
        if value.ndim == 0 and not isinstance(value, Tracer):
            return str(value)
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple, range)) and len(value) > _MANY:
        return f"{type(value).__name__} of {len(value):,}"
    if type(value) is tuple:
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    if type(value) is list:
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        leaves = jax.tree.leaves(value)
        if not all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves):
            return f"{{{len(value)} entries}}"
        return f"{{arrays: {len(leaves)}, numbers: {sum(int(np.size(leaf)) for leaf in leaves)}}}"
    return repr(value)


def is_concrete(*values: Any) -> bool:
    """Whether every value is a plain number that can be compared now, not a tracer or a placeholder.

    An array does not count: trees of gradients are rebuilt too, and a derivative by β_min may well be negative.
    """
    return all(isinstance(value, (bool, int, float, np.number)) for value in values)


def as_traced(tree: T) -> T:
    """`tree` with every Python or NumPy scalar made a strongly typed array of the default float type.

    Without it `VP(beta_max=10)` and `VP(beta_max=10.0)` would be two compilations of one function. Arrays stay.
    """

    def leaf(value: Any) -> Any:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
            return value
        return jax.numpy.asarray(value, jax.dtypes.canonicalize_dtype(np.float64))

    return jax.tree.map(leaf, tree)


@jax.tree_util.register_pytree_with_keys_class
class ShortPartial(Partial):
    """A `jax.tree_util.Partial` that shows its arrays, such as a network's parameters, by their sizes alone."""

    def __repr__(self) -> str:
        keywords = [f"{name}={_shown(value)}" for name, value in self.keywords.items()]
        return f"Partial({', '.join([repr(self.func), *map(_shown, self.args), *keywords])})"

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """((arguments, keyword arguments), the function), the first two with their names in a path."""
        key = jax.tree_util.GetAttrKey
        return ((key("args"), self.args), (key("keywords"), self.keywords)), self.func

    @classmethod
    def tree_unflatten(cls, function: Any, children: Any) -> ShortPartial:
        """The inverse of `tree_flatten_with_keys`."""
        return cls(function, *children[0], **children[1])


def as_partial(function: Callable[..., Any]) -> Partial:
    """`function` as a pytree, so that it can be passed to a jitted function; a Partial is returned as it is.

    Raises TypeError for what cannot be called.
    """
    if not callable(function):
        kind = (
            f"the text {function!r:.42}"
            if isinstance(function, str)
            else f"an object of type {type(function).__name__}"
        )
        raise TypeError(f"{kind} stands where a function belongs, such as the denoiser law.denoiser(process).")
    return function if isinstance(function, Partial) else Partial(function)


def bound(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Partial:
    """A Partial of `function`, the plain functions among its arguments made pytrees, so that jit takes all of it."""

    def tree(argument: Any) -> Any:
        plain = callable(argument) and jax.tree_util.all_leaves([argument])
        return as_partial(argument) if plain else argument

    return Partial(function, *map(tree, arguments), **{name: tree(value) for name, value in keywords.items()})
