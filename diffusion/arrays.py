"""Shapes: arrays are batched, x is (b, *event), and t is one time for all or one for each."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def expand(t: ArrayLike, x: Array) -> Array:
    """`t`, a scalar or (b,), with axes appended so that it multiplies x (b, *event)."""
    t = jnp.asarray(t)
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """√x with the derivative 0 at 0, where the true one is infinite and would turn every chain rule into 0 · ∞."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def slope(function: Callable[[Array], Array], t: ArrayLike) -> Array:
    """The derivative of an elementwise function at t."""
    t = jnp.asarray(t, jnp.result_type(float, t))
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def sum_event(x: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """Sum over everything but the batch."""
    return jnp.sum(x.reshape(x.shape[0], -1), axis=-1)


def mean_event(x: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """Mean over everything but the batch."""
    return jnp.mean(x.reshape(x.shape[0], -1), axis=-1)


def event_size(x: Array) -> int:
    """The dimension d of one element of the batch."""
    return x[0].size if x.shape[0] else int(jnp.prod(jnp.asarray(x.shape[1:])))
