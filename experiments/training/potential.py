"""The potential of a conservative network: what a denoiser adds is its gradient, D(y) = y + ∇ψ(y)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import sum_event
from diffusion.energy.residual import Potential
from diffusion.networks.conservative import Conservative


def potential(network: Conservative, params: Any, sigma_data: float) -> Potential:
    """y -> ψ(y) = σ_d² ψ_F(y/σ_d) of a network that is not told the noise level; a Partial with parameters as leaves.

    Its residual denoiser y + ∇ψ(y) is the network's, y + σ_d ∇ψ_F(y/σ_d), by the preconditioning "residual".
    """
    return Partial(_Blind(network, sigma_data), params)


def level_potential(network: Conservative, params: Any, sigma_data: float, sigma: ArrayLike) -> Potential:
    """y -> ψ(y) at the noise level σ, a number or (b,), of a network that is told it; also a Partial with σ as a leaf.

    ψ = −½ σ²/(σ² + σ_d²) |y|² + σ σ_d ψ_F(y/√(σ² + σ_d²), ln(σ)/4), whose residual denoiser is the network's by the
    preconditioning "edm": without F that of Gaussian data.
    """
    return Partial(_Told(network, sigma_data), params, jnp.asarray(sigma))


@dataclass(frozen=True)
class _Blind:
    """The static part: equal networks are equal functions, and are not compiled twice."""

    network: Conservative
    sigma_data: float

    def __call__(self, params: Any, y: Float[Array, "b *event"]) -> Float[Array, " b"]:
        blind = jnp.zeros(y.shape[0], y.dtype)
        return self.sigma_data**2 * self.network.potential(params, y / self.sigma_data, blind)


@dataclass(frozen=True)
class _Told:
    network: Conservative
    sigma_data: float

    def __call__(self, params: Any, sigma: Array, y: Float[Array, "b *event"]) -> Float[Array, " b"]:
        sigma = jnp.broadcast_to(sigma, y.shape[:1]).astype(y.dtype)
        total = sigma**2 + self.sigma_data**2
        scaled = y / jnp.sqrt(total).reshape((-1,) + (1,) * (y.ndim - 1))
        answer = self.network.potential(params, scaled, jnp.log(sigma) / 4)
        return -0.5 * sigma**2 / total * sum_event(y**2) + sigma * self.sigma_data * answer
