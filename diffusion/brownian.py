"""Brownian paths that can be evaluated at any time: the noise of an SDE, the same on every grid.

W on the unit interval is known at its ends, and at every dyadic time by a bridge from the two dyadic times around it,
whose draw has a key of its own: the virtual Brownian tree (Li et al. 2020, arXiv:2001.01328, algorithm 3). So W(u) is
a function of (key, u), nothing is stored, and two grids that share times share the path.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import safe_sqrt
from diffusion.draws import precise
from diffusion.pytree import pytree

DEPTH = 20
"""The number of halvings of the unit interval: times 2^−20 apart are distinguished, as in float32."""


def brownian(
    key: Key[Array, ""], u: ArrayLike, event: tuple[int, ...] = (), dtype: Any = None
) -> Float[Array, "*event"]:
    """W(u) of shape `event`, a function of (key, u), for a scalar u in [0, 1]: W(0) = 0, W(1) ~ N(0, I).

    Any two times further apart than 2^−20 have exactly the covariance min(u, v); nearer ones within one leaf of the
    tree share their last draw.
    """
    wanted = dtype or jnp.result_type(float)
    dtype = precise(wanted)
    u = jnp.asarray(u, dtype)

    def draw(node: ArrayLike) -> Array:
        return jax.random.normal(jax.random.fold_in(key, node), event, dtype)

    def halve(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
        node, left, length, low, high = state
        middle = 0.5 * (low + high) + 0.5 * jnp.sqrt(length) * draw(node)
        right = u >= left + 0.5 * length
        return (
            2 * node + right,
            jnp.where(right, left + 0.5 * length, left),
            0.5 * length,
            jnp.where(right, middle, low),
            jnp.where(right, high, middle),
        )

    zero = jnp.zeros((), dtype)
    start = (jnp.ones((), jnp.int32), zero, zero + 1, jnp.zeros(event, dtype), draw(0))
    node, left, length, low, high = jax.lax.fori_loop(0, DEPTH, halve, start)
    part = (u - left) / length
    value = (1 - part) * low + part * high + safe_sqrt(part * (1 - part) * length) * draw(node)
    return value.astype(wanted)


@pytree
class BrownianIncrement:
    """The draw of a step from time t down to s along a Brownian path: (W(u_t) − W(u_s))/√(u_t − u_s).

    It takes the place of a batch of keys. Every draw but the first has keys of its own, by `fold`.
    """

    keys: Key[Array, " b"]
    """The keys of the step."""
    path_keys: Key[Array, " b"]
    """The keys of the paths, the same at every step."""
    start: Float[Array, ""]
    """u_t, where the step starts."""
    end: Float[Array, ""]
    """u_s, where it ends."""

    def normal(self, event: tuple[int, ...], dtype: Any) -> Float[Array, "b *event"]:
        """Standard normal draws (b, *event), the i-th from path i alone."""

        def increment(key: Array) -> Array:
            return brownian(key, self.start, event, kind) - brownian(key, self.end, event, kind)

        kind = precise(dtype)
        return (jax.vmap(increment)(self.path_keys) / jnp.sqrt(self.start - self.end).astype(kind)).astype(dtype)
