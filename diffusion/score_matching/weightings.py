"""Weightings of the denoising loss, all in units of x_0: the loss is w(t) |x_0 − D(x_t, t)|²/d.

With SNR = α²/σ², the errors of the other predictions are multiples of the error in x_0, whatever the network predicts:

    the mean square in      w                      weighting               under RectifiedFlow
    x_0                     1                      UniformWeighting        1
    ε                       α²/σ²                  SNRWeighting            (1 − t)²/t²
    v = α ε − σ x_0         ((α² + σ²)/σ)²         VWeighting              ((1 − t)² + t²)²/t²
    velocity α' x_0 + σ' ε  ((ασ' − σα')/σ)²       VelocityWeighting       1/t²
    score                   α²/σ⁴                  –                       (1 − t)²/t⁴

The v of flow matching is the velocity, that of progressive distillation is v. All but the first divide by σ, and so
grow without bound as t → 0: a `floor` under that σ bounds them, max(σ, floor). JiT divides by max(t, 0.05) under
RectifiedFlow (Li & He 2025, arXiv:2511.13720), which is VelocityWeighting(floor=0.05).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.noises import require_gaussian
from diffusion.prediction import noise_level
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree


def signal_to_noise(process: Process, t: ArrayLike) -> Float[Array, "..."]:
    """α²/σ²."""
    return (process.alpha(t) / process.sigma(t)) ** 2


class Weighting:
    """w(t), a positive function of time."""

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """w(t), of the shape of t."""
        raise NotImplementedError

    def weight_at(self, process: Process, x_t: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, "..."]:
        """w(x_t, t), which is w(t) unless overridden: that x_t enters the weight does not move the best denoiser."""
        del x_t
        return self.weight(process, t)

    @property
    def per_unit_time(self) -> bool:
        """Whether the loss is an integral over t, to be divided by the density that t is drawn from."""
        return False


@pytree
class UniformWeighting(Weighting):
    """w = 1: every denoising error counts alike."""

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """1."""
        return jnp.ones_like(process.alpha(t))


def _bounded(sigma: Float[Array, "..."], floor: float | Array) -> Float[Array, "..."]:
    """max(σ, floor)."""
    return sigma if is_concrete(floor) and floor == 0 else jnp.maximum(sigma, floor)


def _check_floor(floor: float | Array) -> None:
    if is_concrete(floor) and not floor >= 0:
        raise ValueError(f"floor = {floor}; what σ is bounded by from below is at least 0 (for none), usually 0.05.")


@pytree
class SNRWeighting(Weighting):
    """w = α²/σ²: the plain mean square in ε, DDPM's simplified loss (Ho et al. 2020, eq. 14)."""

    floor: float = 0.0
    """The least σ that is divided by; 0 for σ itself."""

    def __post_init__(self) -> None:
        _check_floor(self.floor)

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """α²/max(σ, floor)²."""
        return (process.alpha(t) / _bounded(process.sigma(t), self.floor)) ** 2


@pytree
class VWeighting(Weighting):
    """w = ((α² + σ²)/σ)²: the plain mean square in v = α ε − σ x_0 (Salimans & Ho 2022, arXiv:2202.00512).

    For a schedule that keeps the variance it is 1 + α²/σ², their "SNR + 1".
    """

    floor: float = 0.0
    """The least σ that is divided by; 0 for σ itself."""

    def __post_init__(self) -> None:
        _check_floor(self.floor)

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """((α² + σ²)/max(σ, floor))²."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        return ((alpha**2 + sigma**2) / _bounded(sigma, self.floor)) ** 2


@pytree
class MinSNRWeighting(Weighting):
    """w = min(α²/σ², γ) (Hang et al. 2023, arXiv:2303.09556)."""

    gamma: float = 5.0
    """The largest weight."""

    def __post_init__(self) -> None:
        if is_concrete(self.gamma) and not self.gamma > 0:
            raise ValueError(f"gamma = {self.gamma}; the cap of the signal-to-noise ratio must be positive, usually 5.")

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """min(α²/σ², γ)."""
        return jnp.minimum(signal_to_noise(process, t), self.gamma)


@pytree
class LikelihoodWeighting(Weighting):
    """w = ½ g² α²/σ⁴ = −½ dSNR/dt, per unit of time: the loss is the diffusion term of the ELBO, in nats/dim.

    (Song et al. 2021, arXiv:2101.09258, theorem 1; Kingma et al. 2021, eq. 13.) Raises TypeError on the discrete
    chain, which has no derivative, and for a noise that is not Gaussian.
    """

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """½ g² α²/σ⁴."""
        require_gaussian(process.noise, "the likelihood weighting")
        t = jnp.asarray(t, jnp.result_type(float, t))
        # As a slope of the SNR it is finite where α = 0 and g is not.
        return -0.5 * jax.jvp(lambda u: signal_to_noise(process, u), (t,), (jnp.ones_like(t),))[1]

    @property
    def per_unit_time(self) -> bool:
        """True: the ELBO is an integral over time."""
        return True


@pytree
class EDMWeighting(Weighting):
    """w = (ρ² + σ_d²)/(ρ σ_d)² = 1/σ_d² + SNR with ρ = σ/α: unit loss for every t at the start (Karras et al. 2022).

    Under Student-t noise `weight_at` takes ρ from the level that is estimated from x_t (`noise_level`), as the
    preconditioning does: with σ alone the loss of an untrained network would have no mean for df <= 2. At df = 1 that
    loss is of the order σ_d/σ.
    """

    sigma_data: float = 0.5
    """The standard deviation of the data."""

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """1/σ_d² + α²/σ²."""
        return 1 / jnp.asarray(self.sigma_data) ** 2 + signal_to_noise(process, t)

    def weight_at(self, process: Process, x_t: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, "..."]:
        """1/σ_d² + α²/level²."""
        level = noise_level(process, self.sigma_data, x_t, t)
        return 1 / jnp.asarray(self.sigma_data) ** 2 + (process.alpha(t) / level) ** 2


@pytree
class VelocityWeighting(Weighting):
    """w = ((ασ' − σα')/σ)²: the plain mean square in the velocity, the flow-matching loss (Lipman et al. 2023)."""

    floor: float = 0.0
    """The least σ that is divided by; 0 for σ itself, 0.05 for JiT's v-loss."""

    def __post_init__(self) -> None:
        _check_floor(self.floor)

    def weight(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """((ασ' − σα')/max(σ, floor))²."""
        schedule = process.schedule
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        determinant = alpha * schedule.sigma_dot(t) - sigma * schedule.alpha_dot(t)
        return (determinant / _bounded(sigma, self.floor)) ** 2
