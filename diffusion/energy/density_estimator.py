"""The denoising density estimator: ψ = σ² ln p̂ + C by training, p̂ = p * N(0, σ²I), and its normalisation.

    loss    E |∇ψ(x + ε) + ε|²,  ε ~ N(0, σ²I)        least: d σ² − σ⁴ E|∇ln p̂|²
    ln Z    ln ∫ e^{ψ/σ²} = ln E_q[e^{ψ/σ²}/q]        by importance sampling from any law q with a density

(Bigdeli, Lin, Portenier, Dunbar & Zwicker 2020, arXiv:2001.02728; −ε is what a residual denoiser
should add, so it is the denoising loss of y + ∇ψ(y).)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import event_size
from diffusion.energy.residual import Potential, check_level, residual_denoiser
from diffusion.oracles import Atoms, Dirac
from diffusion.oracles.law import Law
from diffusion.process import Process
from diffusion.pytree import as_partial, as_traced, short_repr
from diffusion.schedules import EDM
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import LogUniformSigma
from diffusion.score_matching.weightings import UniformWeighting


def density_estimator_loss(
    key: Key[Array, ""], psi: Potential, x: Float[Array, "b *event"], sigma: float | Array
) -> Float[Array, " b"]:
    """|∇ψ(x + ε) + ε|² for each element, ε ~ N(0, σ²I); its mean is least for ψ = σ² ln p̂ + C.

    It is d times the denoising loss of `residual_denoiser(psi)` under EDM at the one level σ, of weight 1. A network
    for ψ must be smooth: the slope of a ReLU's does not change with y. Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)
    process, times = levels_between(sigma, sigma)
    weighting = UniformWeighting()
    terms = denoising_terms(key, process, residual_denoiser(psi), x, weighting=weighting, times=times)
    return event_size(x) * terms.loss


def levels_between(low: Any, high: Any) -> tuple[Process, LogUniformSigma]:
    """EDM, where σ is the time, with room for these levels, and the law of t that is log-uniform between them."""
    times = LogUniformSigma(low, high)  # first, since it refuses what are not levels
    return Process(EDM(sigma_min=low / 2, sigma_max=high * 2)), times


class LogNormaliser(NamedTuple):
    """ln Z by importance sampling."""

    log_z: Float[Array, ""]
    """ln of the mean weight, in nats."""
    standard_error: Float[Array, ""]
    """The standard error of ln Z: the weights' standard deviation over their mean and √n; too small where few draws
    carry the mean."""
    effective_sample_size: Float[Array, ""]
    """(Σw)²/Σw², the number of draws from e^{ψ/σ²}/Z itself that these are worth (Kong 1992)."""

    __repr__ = short_repr


def log_normaliser(
    key: Key[Array, ""], psi: Potential, sigma: float | Array, proposal: Law, count: int, *, block: int = 1024
) -> LogNormaliser:
    """ln Z = ln ∫ e^{ψ(y)/σ²} dy from `count` draws of `proposal`, weighted by e^{ψ/σ²}/q.

    The proposal is any law with a density, in the units of y: for data the kernel density estimate
    `GaussianMixture.isotropic(points, std)` with a std a little above σ, so that it has the wider tails. ψ is evaluated
    at `block` draws at a time. Give ψ as a Partial so that new weights do not recompile.
    Raises ValueError for a σ that is not positive or fewer than two draws, TypeError for a proposal of points.
    """
    keys_lib.require_key(key)
    check_level("sigma", sigma)
    if count < 2 or block < 1:
        raise ValueError(f"count = {count} and block = {block}; give at least 2 draws, and 1 at a time.")
    if isinstance(proposal, Atoms | Dirac):
        raise TypeError(
            f"proposal is {type(proposal).__name__}, points without a density; "
            "give GaussianMixture.isotropic(points, std) with a std above sigma."
        )
    return _log_normaliser(key, as_traced(as_partial(psi)), as_traced(sigma), proposal, count, block)


@functools.partial(jax.jit, static_argnames=("count", "block"))
def _log_normaliser(key: Array, psi: Potential, sigma: Array, proposal: Law, count: int, block: int) -> LogNormaliser:
    def log_weight(one: Array) -> Array:
        y = proposal.sample(one[None], 1)
        return (psi(y) / sigma.astype(y.dtype) ** 2 - proposal.log_prob(Process(EDM()), y, 0.0))[0]

    keys = keys_lib.sample_keys(key, jnp.arange(count))
    weights = jax.lax.map(log_weight, keys, batch_size=min(block, count))
    log_z = logsumexp(weights) - jnp.log(count)
    relative = jnp.exp(weights - log_z)  # of mean 1
    error = jnp.sqrt(jnp.sum((relative - 1) ** 2) / (count * (count - 1)))
    return LogNormaliser(log_z, error, count**2 / jnp.sum(relative**2))


def log_density(psi: Potential, sigma: ArrayLike, log_z: ArrayLike = 0.0) -> Callable[[Array], Array]:
    """y -> ln p̂(y) = ψ(y)/σ² − ln Z (b,) in nats, a Partial; without ln Z, up to a constant: enough for samplers.

    Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)
    return Partial(_log_density, as_partial(psi), sigma, log_z)


def _log_density(psi: Potential, sigma: ArrayLike, log_z: ArrayLike, y: Array) -> Array:
    return psi(y) / jnp.asarray(sigma, y.dtype) ** 2 - jnp.asarray(log_z, y.dtype)
