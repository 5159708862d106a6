"""Residual denoising autoencoders: r(y) = y + ∇ψ(y) for a potential ψ, and the score that goes with them.

The best denoiser of x from y = x + ε, ε ~ N(0, σ²I), is y + σ² ∇ln p̂(y) with p̂ = p * N(0, σ²I) (Miyasawa 1961; Alain
& Bengio 2014, arXiv:1211.4246), which is a gradient: it is the residual autoencoder of ψ = σ² ln p̂ + C, and with any ψ
in its place, such as a network's, there is still a density, e^{ψ/σ²}/Z. One convention serves all of this package:

    denoising density estimator (Bigdeli et al. 2020, arXiv:2001.02728), trained at one σ       ln p̂ = ψ/σ² − ln Z
    multiscale denoising score matching (Li et al. 2019, arXiv:1910.07762), reference level σ_0   E = −ψ/σ_0²

so r(y) = y + σ² ∇ln p̂(y) for the first and y − σ_0² ∇E(y) for the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.oracles.law import Law
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import as_partial, is_concrete
from diffusion.schedules import EDM

Potential = Callable[[Array], Array]
"""ψ: y (b, *event) -> (b,), each element by itself. A Partial, with a network's parameters as leaves, crosses jit."""


def potential_gradient(psi: Potential, y: Float[Array, "b *event"]) -> Float[Array, "b *event"]:
    """∇ψ(y): what the denoiser adds."""
    values, pull = jax.vjp(psi, y)
    return pull(jnp.ones_like(values))[0]


def residual_denoiser(psi: Potential) -> Denoiser:
    """(y, t) -> y + ∇ψ(y), blind to the noise level: a denoiser under Process(EDM()), a Partial with ψ as a leaf."""
    return Partial(_residual, as_partial(psi))


def _residual(psi: Potential, y: Array, t: ArrayLike) -> Array:
    del t
    return y + potential_gradient(psi, y)


def smoothed_score(psi: Potential, sigma: ArrayLike) -> Callable[[Array], Array]:
    """y -> ∇ln p̂(y) = ∇ψ(y)/σ² = (r(y) − y)/σ², the score of the density e^{ψ/σ²}/Z; a Partial.

    With σ_0 for σ it is −∇E. Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)
    return Partial(_smoothed_score, as_partial(psi), sigma)


def _smoothed_score(psi: Potential, sigma: ArrayLike, y: Array) -> Array:
    return potential_gradient(psi, y) / jnp.asarray(sigma, y.dtype) ** 2


def energy(psi: Potential, sigma: ArrayLike) -> Callable[[Array], Array]:
    """y -> E(y) = −ψ(y)/σ² (b,) in nats, so that the density is e^{−E}/Z; a Partial.

    Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)
    return Partial(_energy, as_partial(psi), sigma)


def _energy(psi: Potential, sigma: ArrayLike, y: Array) -> Array:
    return -psi(y) / jnp.asarray(sigma, y.dtype) ** 2


def exact_potential(law: Law, sigma: ArrayLike) -> Potential:
    """ψ = σ² ln p̂ of a law, p̂ = law * N(0, σ²I), for which ln Z = 0; a Partial with the law and σ as leaves.

    For finite data, `Atoms`, p̂ is their kernel density estimate, the best that training at σ can reach. At σ = 0
    there is none. Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)
    return Partial(_exact_potential, law, sigma)


def _exact_potential(law: Law, sigma: ArrayLike, y: Array) -> Array:
    return jnp.asarray(sigma, y.dtype) ** 2 * law.log_prob(Process(EDM()), y, sigma)


def check_level(name: str, sigma: Any) -> None:
    """Raise ValueError unless the noise level is positive; a traced one is not checked."""
    if is_concrete(sigma) and not sigma > 0:
        raise ValueError(f"{name} = {sigma}; a noise level must be positive, in the units of the data.")
