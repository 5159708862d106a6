"""Two uses of a density: which of two laws a sample is from, and how strange it is. Neither needs ln Z."""

from __future__ import annotations

from collections.abc import Callable

from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.energy.residual import Potential, check_level, energy
from diffusion.pytree import as_partial


def log_density_ratio(psi_a: Potential, psi_b: Potential, sigma: ArrayLike) -> Callable[[Array], Array]:
    """y -> (ψ_a(y) − ψ_b(y))/σ² (b,), ln p̂_a(y) − ln p̂_b(y) up to a constant, in nats; a Partial.

    Raises ValueError for a σ that is not positive.
    """
    check_level("sigma", sigma)
    return Partial(_log_density_ratio, as_partial(psi_a), as_partial(psi_b), sigma)


def _log_density_ratio(psi_a: Potential, psi_b: Potential, sigma: ArrayLike, y: Array) -> Array:
    return energy(psi_b, sigma)(y) - energy(psi_a, sigma)(y)


def anomaly_score(psi: Potential, sigma: ArrayLike, x: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """−ψ(x)/σ² = −ln p̂(x) up to a constant, in nats: the higher, the stranger.

    Scores order samples of one kind; in many dimensions a density does not measure how typical a sample is:
    constant pictures may well score below real ones. Raises ValueError for a σ that is not positive.
    """
    return energy(psi, sigma)(x)
