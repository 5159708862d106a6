"""Exponential moving averages of the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def decay_at(decay: float, updates: ArrayLike, warmup: bool) -> Float[Array, ""]:
    """The decay of update n = `updates`, counted from 0: min(decay, (1 + n)/(10 + n)) while it warms up.

    So the average forgets the random start at once, and covers about the last tenth of a young run.
    """
    updates = jnp.asarray(updates, jnp.float32)
    target = jnp.asarray(decay, jnp.float32)
    return jnp.minimum(target, (1 + updates) / (10 + updates)) if warmup else target


def update(average: Any, params: Any, decay: ArrayLike) -> Any:
    """decay · average + (1 − decay) · params, as average + (1 − decay)(params − average), which fixes points."""
    return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
