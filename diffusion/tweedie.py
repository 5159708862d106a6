"""Second-order Tweedie: the covariance of x_0 given x_t is in the derivative of the denoiser, or of the score.

    E[x_0 | x]   = (x + σ² ∇ln p_t)/α                                    Robbins 1956; Efron 2011
    Cov[x_0 | x] = (σ²/α) ∂E[x_0|x]/∂x = (σ² I + σ⁴ ∇²ln p_t)/α²         Meng et al. 2021, arXiv:2111.04726, theorem 1

for Gaussian noise and α > 0. The derivative of the exact denoiser is symmetric and positive semidefinite; a
network's need be neither, and nothing here repairs it. Denoisers must treat the elements of a batch one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import expand
from diffusion.likelihood.divergence import Divergence, DivergenceEstimate, divergence
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser, x0_alone
from diffusion.process import Process


def posterior_covariance(
    process: Process, denoise: Denoiser, x: Float[Array, "b *event"], t: ArrayLike
) -> Float[Array, "b d d"]:
    """Cov[x_0 | x_t = x] = (σ²/α) ∂D/∂x, the event flattened, by d Jacobian-vector products; t is a scalar or (b,).

    Raises TypeError when the noise is not Gaussian. Source: Meng et al. 2021, theorem 1.
    """
    require_gaussian(process.noise, "the posterior covariance as a derivative of the denoiser")
    jacobian = _jacobian(lambda y: x0_alone(denoise(y, t), "the posterior covariance"), x)
    return expand(process.schedule.variance(t) / process.alpha(t), jacobian) * jacobian


def posterior_covariance_from_score(
    process: Process, score: Denoiser, x: Float[Array, "b *event"], t: ArrayLike
) -> Float[Array, "b d d"]:
    """Cov[x_0 | x_t = x] = (σ² I + σ⁴ ∂s/∂x)/α² for the score s(x, t) = ∇ln p_t, the event flattened.

    Where the covariance is small beside σ²/α² the two terms nearly cancel; `posterior_covariance` has no difference.
    Raises TypeError when the noise is not Gaussian. Source: Meng et al. 2021, theorem 1.
    """
    require_gaussian(process.noise, "the posterior covariance as a derivative of the score")
    hessian, variance = _jacobian(lambda y: score(y, t), x), process.schedule.variance(t)
    left = jnp.eye(hessian.shape[-1], dtype=x.dtype) + expand(variance, hessian) * hessian
    return expand(variance / process.alpha(t) ** 2, left) * left


def posterior_trace(
    process: Process,
    denoise: Denoiser,
    x: Float[Array, "b *event"],
    t: ArrayLike,
    method: Divergence | None = None,
    *,
    key: Key[Array, ""] | None = None,
    ids: ArrayLike | None = None,
) -> DivergenceEstimate:
    """tr Cov[x_0 | x_t = x] = E[|x_0 − E[x_0|x]|² | x_t = x] = (σ²/α) ∇·D and its standard error, without the matrix.

    `method` is Exact() unless given; Hutchinson's needs one product for each probe and a `key`, and element i depends
    on (key, ids[i]) alone, ids being 0..b − 1 unless given.
    Raises TypeError when the noise is not Gaussian or the key is missing, ValueError when `ids` do not fit.
    """
    require_gaussian(process.noise, "the posterior variance as a derivative of the denoiser")
    scale = process.schedule.variance(t) / process.alpha(t)
    return divergence(
        lambda y: expand(scale, y) * x0_alone(denoise(y, t), "the posterior variance"), x, method, key=key, ids=ids
    )


def _jacobian(field: Callable[[Array], Array], x: Float[Array, "b *event"]) -> Float[Array, "b d d"]:
    """∂field_i/∂x_j of each element."""
    d = math.prod(x.shape[1:])
    _, product = jax.linearize(field, x)

    def column(unit: Array) -> Array:
        return product(jnp.broadcast_to(unit.reshape(x.shape[1:]), x.shape)).reshape(x.shape[0], d)

    return jax.vmap(column, out_axes=-1)(jnp.eye(d, dtype=x.dtype))
