"""The inverse of a falling function of time, for schedules that do not know their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def falling_inverse(function: Callable[[Array], Array], value: ArrayLike, high: ArrayLike) -> Float[Array, "..."]:
    """t in [0, `high`] with function(t) = `value`, for an elementwise function that falls; an end beyond its range.

    By bisection, to the last digits. The derivative by `value` is that of the inverse function, 1/f'(t).
    """
    value = jnp.asarray(value, jnp.result_type(float, value))
    end = jnp.broadcast_to(jnp.asarray(high, value.dtype), value.shape)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        before = function(middle) > value
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    halvings = 60 if value.dtype == jnp.float32 else 110
    low, top = jax.lax.fori_loop(0, halvings, halve, (jnp.zeros_like(end), end))
    inside = jnp.where(value <= function(end), end, 0.5 * (low + top))
    t = jax.lax.stop_gradient(jnp.where(value >= function(jnp.zeros_like(end)), 0.0, inside))
    slope = jax.jvp(function, (t,), (jnp.ones_like(t),))[1]
    usable = jnp.isfinite(value) & jnp.isfinite(slope) & (slope < 0)
    factor = jax.lax.stop_gradient(jnp.where(usable, 1 / jnp.where(usable, slope, -1.0), 0.0))
    known = jnp.where(usable, value, 0.0)
    return t + factor * (known - jax.lax.stop_gradient(known))
