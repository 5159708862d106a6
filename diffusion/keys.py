"""Random keys, one for each sample: sample i depends on (seed, i) alone.

A draw for a batch is a map over keys. It depends neither on the batch size, nor on a sample's place in the batch, nor
on the number of devices.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key

from diffusion import draws
from diffusion.brownian import BrownianIncrement

Draws = Key[Array, " b"] | BrownianIncrement
"""Where a step's random numbers come from: a key for each sample, or each sample's Brownian path."""


def require_key(key: Any) -> None:
    """Raise TypeError for anything but a typed key, or an array of them."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        given = f"an array of {key.dtype}" if hasattr(key, "dtype") else f"of type {type(key).__name__}"
        raise TypeError(f"key is {given}; give jax.random.key(seed), or jax.random.wrap_key_data(key) of an old one.")


def sample_keys(key: Key[Array, ""], ids: Integer[Array | np.ndarray, " b"]) -> Key[Array, " b"]:
    """A key for each sample: `key` folded with the sample's id."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)


def fold(keys: Draws, data: int | Int[Array, ""]) -> Key[Array, " b"]:
    """Every key folded with one number, that of a step or of the purpose of a draw."""
    keys = keys.keys if isinstance(keys, BrownianIncrement) else keys
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def as_keys(key: Key[Array, "..."], batch: int) -> Key[Array, " b"]:
    """`key` as a batch of keys: a single key is folded with 0, 1, ..., `batch` − 1.

    Raises ValueError when there are keys for another number of samples, TypeError for anything but typed keys.
    """
    require_key(key)
    if key.ndim == 0:
        return _numbered(key, batch)
    if key.shape != (batch,):
        raise ValueError(f"key has shape {key.shape} for a batch of {batch}; give one key, or one for each sample.")
    return key


@functools.partial(jax.jit, static_argnames="batch")
def _numbered(key: Key[Array, ""], batch: int) -> Key[Array, " b"]:
    return sample_keys(key, jnp.arange(batch))


def normal(keys: Draws, event: tuple[int, ...], dtype=None) -> Float[Array, "b *event"]:
    """Standard normal draws (b, *event), the i-th from keys[i] or path i alone."""
    dtype = dtype or jnp.result_type(float)
    if isinstance(keys, BrownianIncrement):
        return keys.normal(event, dtype)
    return jax.vmap(lambda key: draws.normal(key, event, dtype))(keys)


def uniform(keys: Key[Array, " b"], event: tuple[int, ...] = (), dtype=None) -> Float[Array, "b *event"]:
    """Uniform draws on [0, 1) (b, *event), the i-th from keys[i] alone."""
    dtype = dtype or jnp.result_type(float)
    return jax.vmap(lambda key: draws.uniform(key, event, dtype))(keys)
