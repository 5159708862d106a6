"""The equation itself: dx = f(x, t) dt + G(x, t) dw moves densities by

    ∂_t p = −∇·(f p) + Σ_ij ∂_i ∂_j (D_ij p),    D = ½ G Gᵀ        (Fokker 1914, Planck 1917; Risken 1989, eq. 4.95)

It is a continuity equation, ∂_t p + ∇·J = 0, with the flux J = f p − ∇·(D p) = v p and the velocity
v = f − ∇·D − D ∇ln p. With G = 0 it is that of an ODE, and v = f.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand
from diffusion.dynamics import SDE, Drift
from diffusion.pytree import bound, pytree, static

LogDensity = Callable[[Array, ArrayLike], Array]
"""(x (b, *event), t) -> ln p_t(x), (b,)."""
VectorField = Callable[[Array, ArrayLike], Array]
"""(x (b, *event), t) -> (b, *event); its row i depends on x[i] alone."""


@pytree
class FokkerPlanck:
    """The equation of dx = f dt + G dw, which every form of it is given by."""

    drift: Drift
    """The drift f: (x, t) -> (b, *event)."""
    spread: Callable[[Array, ArrayLike], Array]
    """The factor G of the noise: (x, t) -> (), (b,) for a scalar, (b, *event) for a diagonal, (b, d, d) for a matrix on
    the flattened event."""
    uniform: bool = static(default=True)
    """Whether G is the same for every x, so that ∇·D = 0 need not be computed."""


def of_sde(sde: SDE) -> FokkerPlanck:
    """The equation of an SDE whose diffusion is a number that depends on t alone."""
    return FokkerPlanck(sde.drift, bound(_spread_in_time, sde.diffusion))


def of_ode(drift: Drift) -> FokkerPlanck:
    """The continuity equation of dx/dt = `drift`."""
    return FokkerPlanck(drift, bound(_no_spread))


def _spread_in_time(diffusion: Callable[[ArrayLike], Array], x: Array, t: ArrayLike) -> Array:
    del x
    return diffusion(t)


def _no_spread(x: Array, t: ArrayLike) -> Array:
    del t
    return jnp.zeros((), x.dtype)


def _is_matrix(spread: Array, x: Array) -> bool:
    d = math.prod(x.shape[1:])
    return spread.ndim == 3 and spread.shape == (x.shape[0], d, d) and spread.shape != x.shape


def along_spread(spread: Float[Array, "..."], v: Float[Array, "b *event"]) -> Float[Array, "b *event"]:
    """G v, for any shape of G."""
    if _is_matrix(spread, v):
        return jnp.einsum("bij,bj->bi", spread, v.reshape(v.shape[0], -1), precision="highest").reshape(v.shape)
    return expand(spread, v) * v


def diffuse(spread: Float[Array, "..."], v: Float[Array, "b *event"]) -> Float[Array, "b *event"]:
    """D v = ½ G Gᵀ v, for any shape of G."""
    if _is_matrix(spread, v):
        flat = v.reshape(v.shape[0], -1)
        back = jnp.einsum("bji,bj->bi", spread, flat, precision="highest")
        return 0.5 * jnp.einsum("bij,bj->bi", spread, back, precision="highest").reshape(v.shape)
    return 0.5 * expand(spread, v) ** 2 * v


def divergence_of_diffusion(equation: FokkerPlanck, x: Float[Array, "b *event"], t: ArrayLike) -> Array:
    """(∇·D)_j = Σ_i ∂_i D_ij at x, (b, *event): d products, none for a uniform G."""
    if equation.uniform:
        return jnp.zeros_like(x)
    d = math.prod(x.shape[1:])

    def along(i: Array) -> Array:
        unit = jnp.broadcast_to(jnp.zeros(d, x.dtype).at[i].set(1).reshape(x.shape[1:]), x.shape)
        return jax.jvp(lambda y: diffuse(equation.spread(y, t), unit), (x,), (unit,))[1]

    return jnp.sum(jax.vmap(along)(jnp.arange(d)), axis=0)


def probability_velocity(equation: FokkerPlanck, score: VectorField) -> Drift:
    """v(x, t) = f − ∇·D − D s: the ODE that moves the same densities, for s = ∇ln p_t."""
    return bound(_probability_velocity, equation, score)


def _probability_velocity(equation: FokkerPlanck, score: Any, x: Array, t: ArrayLike) -> Array:
    moved = diffuse(jnp.asarray(equation.spread(x, t)), score(x, t))
    return equation.drift(x, t) - divergence_of_diffusion(equation, x, t) - moved


def probability_flux(equation: FokkerPlanck, density: Callable[[Array, ArrayLike], Array]) -> VectorField:
    """J(x, t) = f p − ∇·(D p) = f p − p ∇·D − D ∇p, for a density p (not its logarithm), (b,)."""
    return bound(_probability_flux, equation, density)


def _probability_flux(equation: FokkerPlanck, density: Any, x: Array, t: ArrayLike) -> Array:
    p, slope = jax.vjp(lambda y: density(y, t), x)
    (gradient,) = slope(jnp.ones_like(p))
    drift = equation.drift(x, t) - divergence_of_diffusion(equation, x, t)
    return expand(p, x) * drift - diffuse(jnp.asarray(equation.spread(x, t)), gradient)
