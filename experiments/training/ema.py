"""Moving averages of the parameters: exponential ones by their decay, power-function ones by their width."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from experiments.config.nodes import EMAConfig
from experiments.training.power import exponent, newcomer


def decay_at(decay: float, updates: ArrayLike, warmup: bool) -> Float[Array, ""]:
    """The decay of update n = `updates`, counted from 0: min(decay, (1 + n)/(10 + n)) while it warms up.

    So the average forgets the random start at once, and covers about the last tenth of a young run.
    """
    updates = jnp.asarray(updates, jnp.float32)
    target = jnp.asarray(decay, jnp.float32)
    return jnp.minimum(target, (1 + updates) / (10 + updates)) if warmup else target


def count(config: EMAConfig) -> int:
    """The number of averages."""
    return len(config.decays) + len(config.widths)


def place_of(config: EMAConfig, width: float) -> int | None:
    """The number of the average of this relative width, None where it is not kept."""
    near = [i for i, kept in enumerate(config.widths) if math.isclose(kept, width, rel_tol=1e-9)]
    return len(config.decays) + near[0] if near else None


def update_all(averages: tuple[Any, ...], params: Any, config: EMAConfig, updates: ArrayLike) -> tuple[Any, ...]:
    """The averages after update n = `updates`, counted from 0: those of the decays, and then those of the widths."""
    decays = [decay_at(decay, updates, config.warmup) for decay in config.decays]
    parts = [newcomer(updates + 1, exponent(width)) for width in config.widths]
    exponential, power = averages[: len(decays)], averages[len(decays) :]
    return (
        *(update(average, params, decay) for average, decay in zip(exponential, decays, strict=True)),
        *(toward(average, params, part) for average, part in zip(power, parts, strict=True)),
    )


def update(average: Any, params: Any, decay: ArrayLike) -> Any:
    """decay · average + (1 − decay) · params."""
    return toward(average, params, 1 - decay)


def toward(average: Any, params: Any, part: ArrayLike) -> Any:
    """(1 − part) · average + part · params, as average + part (params − average), which fixes points."""
    return jax.tree.map(lambda a, p: a + part * (p - a), average, params)
