"""The inverse of a falling function of time, for schedules that do not know their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import slope


def falling_inverse(function: Callable[[Array], Array], value: ArrayLike, high: ArrayLike) -> Float[Array, "..."]:
    """t in [0, `high`] with function(t) = `value`, for an elementwise function that falls; an end beyond its range.

    By bisection, to 2⁻⁶⁰ of `high` in float32 and 2⁻¹¹⁰ in float64. The derivative, of first order, is that of the
    implicit function: 1/f'(t) by `value`, −∂f/∂p / f'(t) by a parameter p of the function; and that of the end beyond.
    """
    value = jnp.asarray(value, jnp.result_type(float, value))
    end = jnp.broadcast_to(jnp.asarray(high, value.dtype), value.shape)
    last, wanted = jax.lax.stop_gradient((end, value))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        before = function(middle) > wanted
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    halvings = 60 if value.dtype == jnp.float32 else 110
    low, top = jax.lax.fori_loop(0, halvings, halve, (jnp.zeros_like(last), last))
    least = jax.lax.stop_gradient(function(last))
    inside = jnp.where(wanted <= least, last, 0.5 * (low + top))
    t = jax.lax.stop_gradient(jnp.where(wanted >= function(jnp.zeros_like(last)), 0.0, inside))
    fall = jax.lax.stop_gradient(slope(function, t))
    usable = jnp.isfinite(wanted) & jnp.isfinite(fall) & (fall < 0)
    factor = jnp.where(usable, 1 / jnp.where(usable, fall, -1.0), 0.0)
    # Newton's step from t, which is 0 but for its derivative. Where none is taken f may be infinite at t.
    gap = jnp.where(usable, value, 0.0) - jnp.where(usable, function(jnp.where(usable, t, 0.5 * last)), 0.0)
    return jnp.where(wanted < least, end, t + factor * (gap - jax.lax.stop_gradient(gap)))
