"""Whether a field is a gradient: the antisymmetric part of its Jacobian J = ∂f/∂x, which is 0 for a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffusion.arrays import sum_event
from diffusion.pytree import short_repr


class Asymmetry(NamedTuple):
    """The two parts of a Jacobian, squared: ‖J − Jᵀ‖² and ‖J + Jᵀ‖² in Frobenius' norm, or unbiased estimates."""

    antisymmetric: Float[Array, " b"]
    """‖J − Jᵀ‖²."""
    symmetric: Float[Array, " b"]
    """‖J + Jᵀ‖²."""

    __repr__ = short_repr

    @property
    def ratio(self) -> Float[Array, ""]:
        """√(mean ‖J − Jᵀ‖² / mean ‖J + Jᵀ‖²): 0 for a gradient, 1 when both parts are as large."""
        return jnp.sqrt(jnp.mean(self.antisymmetric) / jnp.mean(self.symmetric))


def asymmetry(
    field: Callable[[Array], Array], x: Float[Array, "b *event"], keys: Key[Array, " b"] | None = None
) -> Asymmetry:
    """‖J − Jᵀ‖² and ‖J + Jᵀ‖² at each x, of a `field` (b, *event) -> (b, *event) that takes elements one by one.

    Exact without `keys`, by 2d products, for few dimensions; with a key for each element by one Rademacher probe v:
    E|Jv ∓ Jᵀv|² = ‖J ∓ Jᵀ‖².
    """
    _, forward = jax.linearize(field, x)
    backward = jax.linear_transpose(forward, x)

    def squares(v: Array) -> tuple[Array, Array]:
        along, (across,) = forward(v), backward(v)
        return sum_event((along - across) ** 2), sum_event((along + across) ** 2)

    if keys is not None:
        return Asymmetry(*squares(jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)))
    event = x.shape[1:]
    units = jnp.eye(math.prod(event), dtype=x.dtype).reshape(-1, *event)
    parts = jax.lax.map(lambda unit: squares(jnp.broadcast_to(unit, x.shape)), units)
    return Asymmetry(*(jnp.sum(part, axis=0) for part in parts))
