"""PFGM as published: a network regresses the normalised empirical field of a large batch of the data.

    Ê(x, z) = Σ_j w_j ((x, z) − (x_j, 0)),   w = softmax_j(−(N+1) ln d_j),   v = −√N Ê/(|Ê| + γ)        (eq. 4 and 5)

(Xu et al. 2022, arXiv:2209.11178.) v points to the data, and dx/dz = v_x/v_z. Since v_x/v_z = (x − E[y|x, z])/z up to
the finite batch, such a network is a denoiser, D = x − z v_x/v_z, for every sampler and for `log_likelihood`.

It is biased: v is normalised batch by batch before it is averaged, so that E[v] is not along the field of all data
(that of Ê would be). The conditional form is not: (x − x_0)/z, whose mean given (x, z) is dx/dz, is what
`denoising_terms` regresses under `poisson_process()` with `VelocityWeighting` (and, up to its weight, any loss of
EDM's, at any D: that is PFGM++). Its `reference` brings back the large batch, without the bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import event_size, expand, sum_event
from diffusion.noises import StudentT
from diffusion.oracles.laws import Atoms
from diffusion.poisson.field import require_positive
from diffusion.poisson.lines import Flow
from diffusion.poisson.prior import Perturbation, perturb_augmented
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import bound, is_concrete, pytree
from diffusion.schedules import EDM

Direction = tuple[Array, Array]
"""(v_x (b, *event), v_z (b,))."""
FieldNetwork = Callable[[Array, Array], Direction]
"""(x (b, *event), z (b,)) -> (v_x, v_z), of which only the ratio matters to the ODE."""


def empirical_field(
    x: Float[Array, "b *event"], z: Float[Array, " b"], reference: Float[Array, "n *event"]
) -> tuple[Float[Array, "b *event"], Float[Array, " b"]]:
    """Ê at (x, z), away from the charges `reference`: (x − Σ w_j x_j, z). It has the units of x, not of a field.

    A mean of differences: right close to a charge as well (Xu et al. 2022, eq. 4).
    """
    return Atoms(reference).displacement(Process(EDM(), StudentT(1.0)), x, z), z


def normalised_target(
    x: Float[Array, "b *event"], z: Float[Array, " b"], reference: Float[Array, "n *event"], gamma: float = 5.0
) -> tuple[Float[Array, "b *event"], Float[Array, " b"]]:
    """v = −√N Ê/(|Ê| + γ), towards the charges `reference` (Xu et al. 2022, eq. 5).

    `gamma` keeps the target small close to the data. Raises ValueError when it is negative.
    """
    _require_gamma(gamma)
    along_x, along_z = empirical_field(x, z, reference)
    scale = -math.sqrt(event_size(x)) / (jnp.sqrt(sum_event(along_x**2) + along_z**2) + gamma)
    return expand(scale, x) * along_x, scale * along_z


def pfgm_terms(
    key: Key[Array, "..."],
    network: FieldNetwork,
    x_0: Float[Array, "b *event"],
    reference: Float[Array, "n *event"],
    perturbation: Perturbation | None = None,
    gamma: float = 5.0,
) -> Float[Array, " b"]:
    """|v_θ(x, z) − v(x, z)|²/(N + 1) for each element of a small batch, perturbed, v from a large one.

    `reference` should hold x_0 itself, as in the paper, where x_0 is its first rows. One key, or one for each element.
    """
    x, z = perturb_augmented(key, x_0, perturbation)
    target, found = normalised_target(x, z, reference, gamma), network(x, z)
    return (sum_event((found[0] - target[0]) ** 2) + (found[1] - target[1]) ** 2) / (event_size(x) + 1)


@pytree
class SmallZ:
    """PFGM's correction of the ODE close to the data: below `threshold` the network's v_z is replaced by

        v_z = −√N z/(√(ρ² + z²) + γ),   ρ = γ n/(1 − n),   n = |v_x|/√N

    the v_z of a field of length √(ρ² + z²). The published ODE needs it, since its network does not resolve z there.
    Where n >= 0.999, which no field reaches, the network's v_z stays. The formula takes |Ê| to be |Ê_x|, an error of
    the order z²/ρ²: for an exact or unbiased field it only does harm.
    """

    threshold: float = 1.0
    """The largest z at which v_z is replaced."""
    gamma: float = 5.0
    """γ of the target that the network was trained on."""

    def __post_init__(self) -> None:
        require_positive("gamma", self.gamma, "without it a field of this form has no length")
        require_positive("threshold", self.threshold, "below it v_z is corrected")


def network_flow(network: FieldNetwork, small_z: SmallZ | None = None) -> Flow:
    """dx/d ln z = z v_x/v_z of a network for the normalised field; dx/dz is its `velocity_in_r`.

    Nothing is added to v_z, which is negative for every field of charges: a 1/(v_z + 10⁻⁵) is singular at −10⁻⁵.
    """
    return bound(_network_flow, network, small_z)


def _network_flow(network: FieldNetwork, small_z: SmallZ | None, x: Array, z: ArrayLike) -> Array:
    z = jnp.broadcast_to(jnp.asarray(z, x.dtype), (x.shape[0],))
    along_x, along_z = network(x, z)
    if small_z is not None:
        along_z = jnp.where(z < small_z.threshold, _corrected(along_x, along_z, z, small_z.gamma), along_z)
    return expand(z / along_z, x) * along_x


def _corrected(along_x: Array, along_z: Array, z: Array, gamma: float | Array) -> Array:
    root = math.sqrt(event_size(along_x))
    n = jnp.sqrt(sum_event(along_x**2)) / root
    possible = n < 0.999  # else the answer is longer than any field's, and there is no ρ
    rho = gamma * n / jnp.where(possible, 1 - n, 1.0)
    return jnp.where(possible, -root * z / (jnp.sqrt(rho**2 + z**2) + gamma), along_z)


def field_denoiser(network: FieldNetwork, small_z: SmallZ | None = None) -> Denoiser:
    """D(x, t) = x − z v_x/v_z with z = t: a denoiser of `poisson_process()`, of PFGM's network, for every sampler."""
    return bound(_field_denoiser, network, small_z)


def _field_denoiser(network: FieldNetwork, small_z: SmallZ | None, x: Array, t: ArrayLike) -> Array:
    return x - _network_flow(network, small_z, x, t)


def _require_gamma(gamma: float | Array) -> None:
    if is_concrete(gamma) and not gamma >= 0:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"gamma = {gamma}; it must not be negative, and is 5 in PFGM.")
