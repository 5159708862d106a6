"""A generator trained by the Kullback-Leibler divergence, with two density estimators frozen at each step.

    ∇_θ KL(q̂ ‖ p̂) = ∇_θ E[ln q̂(y) − ln p̂(y)],  y = g_θ(z) + ε,    with ln q̂ and ln p̂ held fixed

where q̂ is the law of y and p̂ = p * N(0, σ²I): the term left out, E[∇_θ ln q̂], is the slope of ∫ q̂ = 1. The two
densities are estimators' with unknown constants, ψ_q/σ² and ψ_p/σ², which have no slope. So training alternates
(Bigdeli et al. 2020, arXiv:2001.02728): some steps of `density_estimator_loss` for ψ_q on the
generator's present samples, then one step of `generator_loss` for θ; ψ_p is trained once, on the data.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import expand, sum_event
from diffusion.energy.residual import Potential, check_level


def generator_loss(
    key: Key[Array, "..."],
    psi_data: Potential,
    psi_model: Potential,
    generated: Float[Array, "b *event"],
    sigma: ArrayLike,
) -> Float[Array, " b"]:
    """(ψ_q − ψ_p)(g + ε)/σ² for each g of `generated`, ε ~ N(0, σ²I): its mean is KL(q̂ ‖ p̂) up to a constant.

    ψ_p is `psi_data`, ψ_q `psi_model`, an estimator of the generator's law; only `generated` gets a gradient.
    `key` is one key, or one for each element; σ is one level, or (b,). Raises ValueError for a σ that is not positive.
    """
    keys = keys_lib.as_keys(key, generated.shape[0])
    noise = keys_lib.normal(keys, generated.shape[1:], generated.dtype)
    level = expand(jnp.asarray(sigma, generated.dtype), generated)
    return frozen_gap(psi_data, psi_model, generated + level * noise, sigma)


def frozen_gap(
    psi_data: Potential, psi_model: Potential, y: Float[Array, "b *event"], sigma: ArrayLike
) -> Float[Array, " b"]:
    """(ψ_q(y) − ψ_p(y))/σ², ln q̂ − ln p̂ up to a constant, whose gradient goes to y and to nothing within ψ_p or ψ_q.

    Its second derivatives are those of a tangent, 0. Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)

    def gap(at: Array) -> Array:
        return (psi_model(at) - psi_data(at)) / jnp.asarray(sigma, at.dtype) ** 2

    # Parameters may be hidden in closures, out of reach of stop_gradient: so y enters by a tangent alone.
    here = jax.lax.stop_gradient(y)
    values, pull = jax.vjp(gap, here)
    slope = pull(jnp.ones_like(values))[0]
    values, slope = jax.lax.stop_gradient((values, slope))
    return values + sum_event(slope * (y - here))
