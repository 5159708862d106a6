"""The door of the Python interface: what a caller gives, as the types that the code behind it works with.

Lists are arrays, and numbers have the default float type; what cannot be meant is one sentence that names the argument.
Values under a trace pass by their types alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from diffusion.keys import require_key
from diffusion.process import Process
from diffusion.pytree import as_partial
from diffusion.schedules import Schedule

Given = Array | np.ndarray
"""What a jitted function may be called with."""
LAST_ID = 2**32 - 1
"""The largest number that a key can be folded with."""


def is_traced(tree: Any) -> bool:
    """Whether any leaf of `tree` is known by its type alone."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def require_process(process: Any, name: str = "process") -> Process:
    """`process`. Raises TypeError for anything else, such as a schedule."""
    if isinstance(process, Process):
        return process
    if isinstance(process, Schedule):
        raise TypeError(f"{name} is a schedule; give Process({type(process).__name__}(...)), which adds the noise.")
    if isinstance(process, type) and issubclass(process, (Process, Schedule)):
        raise TypeError(f"{name} is the class {process.__name__}; give a Process, such as Process(VP()).")
    raise TypeError(f"{name} is {kind_of(process)}; give a Process, such as Process(VP()).")


def as_denoiser(denoise: Any, name: str = "denoise") -> Partial:
    """`denoise` as a pytree. Raises TypeError for what is no function (x, t) -> E[x_0 | x_t = x]."""
    if not callable(denoise) or isinstance(denoise, type):
        raise TypeError(
            f"{name} is {kind_of(denoise)}; give a function (x, t) -> E[x_0 | x_t = x], such as law.denoiser(process)."
        )
    _require_two(denoise, name)
    return as_partial(denoise)


def _require_two(denoise: Any, name: str) -> None:
    """Raise TypeError for a function that cannot be called with (x, t), such as the method that makes a denoiser."""
    try:
        taken = inspect.signature(denoise)
    except (TypeError, ValueError):  # a function of C, which has none to show
        return
    try:
        taken.bind(None, None)
    except TypeError:
        names = f"({', '.join(taken.parameters)})"
        names = names if len(names) <= 60 else f"{len(taken.parameters)} arguments"
        raise TypeError(
            f"{name} takes {names} and is called with (x, t); give a function (x, t) -> E[x_0 | x_t = x], such as "
            "law.denoiser(process)."
        ) from None


def as_key(key: Any) -> Array:
    """One typed key. Raises TypeError for anything else, ValueError for several."""
    require_key(key)
    if key.shape != ():
        raise ValueError(f"key has shape {key.shape}; give one key; `ids` say which samples are drawn.")
    return key


def as_ids(ids: Any, batch: int, name: str = "ids") -> Given:
    """The identities of a batch's elements as (b,) unsigned integers, 0, 1, ... where `ids` is None.

    A key is folded with 32 bits. So a larger number, a negative one or a fraction would be cut to another sample's.
    Raises TypeError for what are no integers, ValueError for another number of them, or numbers outside 0..2^32 − 1.
    """
    if ids is None:
        return np.arange(batch, dtype=np.uint32)
    given = ids if isinstance(ids, (np.ndarray, jax.Array)) else _plain(ids, name)
    if given.shape != (batch,):
        raise ValueError(f"{name} has shape {given.shape} for {batch} samples; give one whole number for each.")
    if not np.issubdtype(given.dtype, np.integer):
        raise TypeError(f"{name} are of type {given.dtype}; give whole numbers from 0 to {LAST_ID}.")
    if not is_traced(given):
        values = np.asarray(given)
        wrong = (values < 0) | (values > LAST_ID)
        if wrong.any():
            raise ValueError(f"{name} contains {values[wrong][0]}; give whole numbers from 0 to {LAST_ID}.")
        return values.astype(np.uint32)
    return jnp.asarray(given, jnp.uint32)


def as_batch(x: Any, name: str = "x") -> Array:
    """x (b, *event) in the default float type.

    Raises TypeError for what are no real numbers, ValueError for what is no batch.
    """
    given = x if isinstance(x, (np.ndarray, jax.Array)) else _plain(x, name)
    if not (jnp.issubdtype(given.dtype, jnp.floating) or jnp.issubdtype(given.dtype, jnp.integer)):
        raise TypeError(f"{name} is an array of {given.dtype}; give real numbers.")
    if given.ndim < 2 or 0 in given.shape:
        raise ValueError(f"{name} has shape {given.shape}; give (batch, *event), every size at least 1.")
    kind = jnp.result_type(float)
    # JAX compiles a program to convert an array of NumPy's, and none to take it as it is.
    return jax.device_put(given.astype(kind)) if isinstance(given, np.ndarray) else jnp.asarray(given, kind)


def as_shape(shape: Any) -> tuple[int, ...]:
    """(b, *event). Raises TypeError for what are no whole numbers, ValueError for sizes below 1 or no event."""
    try:
        sizes = tuple(size.__index__() for size in shape)
    except (TypeError, AttributeError):
        raise TypeError(f"shape = {shape!r}; give whole numbers (batch, *event), such as (16, 2).") from None
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"shape = {sizes}; give (batch, *event), every size at least 1.")
    return sizes


def as_array(value: Any, name: str) -> Any:
    """A list or a tuple as a NumPy array, a number or an array as it is. Raises TypeError for ragged or other lists."""
    return _plain(value, name) if isinstance(value, (list, tuple)) else value


def _plain(value: Any, name: str) -> np.ndarray | Array:
    """Numbers in lists as an array, or TypeError."""
    if is_traced(value):
        return jnp.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError:  # of lists of different lengths
        array = None
    if array is None or array.dtype.kind not in "biufV":
        raise TypeError(f"{name} is {kind_of(value)}; give an array of numbers.")
    return array


def kind_of(value: Any) -> str:
    """What a sentence calls a value: short, whatever is in it."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if hasattr(value, "dtype"):
        return f"an array of {value.dtype}"
    return f"of type {type(value).__name__}"
