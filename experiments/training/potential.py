"""The potential of a conservative network that is not told the noise level: what a denoiser adds is its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from diffusion.energy.residual import Potential
from diffusion.networks.conservative import Conservative


def potential(network: Conservative, params: Any, sigma_data: float) -> Potential:
    """y -> ψ(y) = σ_d² ψ_F(y/σ_d), a Partial with the parameters as leaves.

    Its residual denoiser y + ∇ψ(y) is the network's, y + σ_d ∇ψ_F(y/σ_d), by the preconditioning "residual".
    """
    return Partial(_Scaled(network, sigma_data), params)


@dataclass(frozen=True)
class _Scaled:
    """The static part: equal networks are equal functions, and are not compiled twice."""

    network: Conservative
    sigma_data: float

    def __call__(self, params: Any, y: Float[Array, "b *event"]) -> Float[Array, " b"]:
        blind = jnp.zeros(y.shape[0], y.dtype)
        return self.sigma_data**2 * self.network.potential(params, y / self.sigma_data, blind)
