"""Networks whose output is a gradient: conservative by construction, whatever the architecture.

For a network F whose output has the shape of its input,

    ψ(x, c) = x · F(x, c)

is a scalar, and its gradient ∇_x ψ = F + (∂F/∂x)ᵀ x takes the place of F. The Jacobian of that gradient is a Hessian,
so it is symmetric: a score made of it is the gradient of a log-density, which is then known up to a constant.
(Salimans & Ho 2021, "Should EBMs model the energy or the score?", compare such scalars.) An evaluation costs a forward
and a backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from diffusion.arrays import sum_event
from diffusion.networks.functional import Network, Params


@dataclass(frozen=True)
class Conservative:
    """∇_x ψ(x, c_noise, label) of the potential ψ = x · F, called as a `Network` is.

    Raises ValueError for a network whose output does not have the shape of its input.
    """

    network: Network
    """The network F."""

    def __post_init__(self) -> None:
        if self.network.outputs != 1:
            raise ValueError(f"outputs is {self.network.outputs}; a gradient has the shape of its input, so give 1.")

    def init(self, key: Key[Array, ""]) -> Params:
        """The parameters of F."""
        return self.network.init(key)

    def potential(
        self,
        params: PyTree,
        x: Float[Array, "b *event"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        keys: Key[Array, " b"] | None = None,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, " b"]:
        """ψ(x, c_noise, label), (b,)."""
        answer = self.network(params, x, c_noise, labels, keys, augment)
        return sum_event(x.astype(answer.dtype) * answer)

    def __call__(
        self,
        params: PyTree,
        x: Float[Array, "b *event"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        keys: Key[Array, " b"] | None = None,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b *event"]:
        """∇_x ψ, (b, *event). Raises as `Network` does."""
        return jax.grad(lambda y: jnp.sum(self.potential(params, y, c_noise, labels, keys, augment)))(x)
