"""Radial characteristics: the motion that keeps a function ψ(|x − x_0|, t) constant.

    ψ(R(t), t) = C  ⇒  dR/dt = −ψ_t/ψ_r,     dx/dt = f(x|x_0) = −(ψ_t/ψ_r) (x − x_0)/|x − x_0|

Given x_0, laws that only grow in scale have ψ(r, t) = Ψ(r/t), whatever Ψ: the Gaussian of σ = t, the Cauchy of PFGM,
the straight lines of flow matching along each ray. So all have f = (x − x_0)/t, whose mean given x_t is the ODE.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand, sum_event

Radial = Callable[[Array, Array], Array]
"""(r, t) -> ψ, elementwise."""


def radial_velocity(psi: Radial, r: ArrayLike, t: ArrayLike) -> Float[Array, "..."]:
    """dr/dt = −ψ_t/ψ_r at (r, t), of the shape of r and t together."""
    r, t = jnp.asarray(r, jnp.result_type(float, r)), jnp.asarray(t, jnp.result_type(float, t))
    r, t = jnp.broadcast_arrays(r, t)
    one, zero = jnp.ones_like(r), jnp.zeros_like(r)
    along_r, along_t = (jax.jvp(psi, (r, t), way)[1] for way in ((one, zero), (zero, one)))
    return -along_t / along_r


def characteristic_velocity(
    psi: Radial, x: Float[Array, "b *event"], x_0: Float[Array, "b *event"], t: ArrayLike
) -> Float[Array, "b *event"]:
    """f(x|x_0) = −(ψ_t/ψ_r) (x − x_0)/|x − x_0|, t a scalar or (b,)."""
    gap = x - x_0
    r = jnp.sqrt(sum_event(gap**2))
    return expand(radial_velocity(psi, r, t) / r, gap) * gap
