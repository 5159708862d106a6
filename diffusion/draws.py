"""Random numbers in the types of networks: drawn in float32 at least, then rounded.

JAX draws in the type that is asked for. In bfloat16 that is from 128 uniforms: normal draws then have the mean −0.01
and none is longer than 2.6.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def precise(dtype: Any) -> Any:
    """The type to draw in: `dtype`, or float32 where that is narrower."""
    return jnp.promote_types(dtype, jnp.float32)


def normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """Standard normal draws."""
    return jax.random.normal(key, shape, precise(dtype)).astype(dtype)


def uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """Uniform draws on [0, 1); 1 itself, to which a narrow type would round, is left out."""
    draws = jax.random.uniform(key, shape, precise(dtype)).astype(dtype)
    one = jnp.ones((), dtype)
    return jnp.minimum(draws, jnp.nextafter(one, jnp.zeros((), dtype)))
