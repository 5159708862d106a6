"""Multiscale denoising score matching: one energy for all noise levels.

    loss   E_σ l(σ) E|x − y + σ_0² ∇E(y)|²,   y = x + σ z,   l = 1/σ²,   ln σ uniform

(Li, Chen & Sommer 2019, arXiv:1910.07762; σ_0²∇E = −∇ψ.) The denoiser is not told σ. So the best field is the
mean of x given y alone, the levels weighted by how likely they are there,

    r(y) = Σ_σ w_σ(y) E[x|y, σ],    w_σ(y) ∝ p(σ) l(σ) p_σ(y),    p_σ = p * N(0, σ²I)

Unlike the denoiser of one level it is not quite a gradient. With s̄ = Σ w_σ ∇ln p_σ, the score of Σ p(σ) l(σ) p_σ,

    J − Jᵀ = s̄ (r − y)ᵀ − (r − y) s̄ᵀ,    J = ∂r/∂y

which is 0 only where the step r − y = Σ w_σ σ² ∇ln p_σ is along that score, as for one level or on a line; an energy
gets as near as a gradient can. (Proof: J's other parts are symmetric, so J − Jᵀ = Σ m_σ ∧ ∇w_σ with
m_σ = y + σ² ∇ln p_σ and ∇w_σ = w_σ (∇ln p_σ − s̄).)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import event_size
from diffusion.energy.density_estimator import levels_between
from diffusion.energy.residual import Potential, check_level, residual_denoiser
from diffusion.oracles.components import dot
from diffusion.oracles.law import Law
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.schedules import EDM
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import Draw
from diffusion.score_matching.weightings import SNRWeighting


def multiscale_loss(
    key: Key[Array, ""],
    psi: Potential,
    x: Float[Array, "b *event"],
    low: float | Array,
    high: float | Array,
    *,
    draw: Draw | str = "low_discrepancy",
) -> Float[Array, " b"]:
    """|x − y − ∇ψ(y)|²/σ² for each element, y = x + σ z, ln σ uniform between ln `low` and ln `high`.

    It is d times the denoising loss of `residual_denoiser(psi)` under EDM with the weighting 1/σ², `SNRWeighting`, and
    the times `LogUniformSigma(low, high)`. Raises ValueError unless 0 < low <= high.
    """
    process, times = levels_between(low, high)
    weighting = SNRWeighting()
    terms = denoising_terms(key, process, residual_denoiser(psi), x, weighting=weighting, times=times, draw=draw)
    return event_size(x) * terms.loss


def geometric_levels(low: float, high: float, count: int) -> np.ndarray:
    """`count` noise levels from `low` to `high` in equal ratios, as Li et al. 2019 take them.

    Raises ValueError unless 0 < low <= high and count >= 1.
    """
    check_level("low", low)
    if not low <= high or count < 1:
        raise ValueError(f"low = {low}, high = {high}, count = {count}; give low <= high, and at least one level.")
    return np.geomspace(low, high, count)


def multiscale_denoiser(law: Law, sigmas: Any, weights: Any = None) -> Denoiser:
    """(y, t) -> Σ_σ w_σ(y) E[x|y, σ], the exact minimiser over all fields for a law; t is ignored.

    `sigmas` (n,) are the levels, `weights` (n,) are p(σ) l(σ) up to a factor: 1/σ² unless given, the loss's for levels
    that are equally likely. With levels of equal ratios the sum is the integral over ln σ. A Partial.
    Raises ValueError when the shapes do not fit or a level or a weight is not positive.
    """
    levels = _positive("sigmas", sigmas)
    parts = levels**-2 if weights is None else _positive("weights", weights)
    if levels.ndim != 1 or levels.shape != parts.shape or not levels.size:
        raise ValueError(f"sigmas and weights have shapes {levels.shape} and {parts.shape}; give one weight a level.")
    return Partial(_multiscale, law, levels, parts)


def _positive(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not np.all(values > 0):
        raise ValueError(f"{name} contains {values.min():g}; all of them must be positive.")
    return values


def _multiscale(law: Law, sigmas: ArrayLike, weights: ArrayLike, y: Array, t: ArrayLike) -> Array:
    del t
    process = Process(EDM())

    def at(sigma: Array) -> tuple[Array, Array]:
        return law.log_prob(process, y, sigma), law.denoiser(process)(y, sigma)

    log_p, means = jax.lax.map(at, jnp.asarray(sigmas, y.dtype))
    shares = jax.nn.softmax(jnp.log(jnp.asarray(weights, y.dtype))[:, None] + log_p, axis=0)
    return dot("nb,nb...->b...", shares, means)
