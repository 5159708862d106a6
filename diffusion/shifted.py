"""A schedule for larger images, with the noise restored that averaging takes away.

Averaging blocks of s × s pixels leaves a smooth image as it is and divides the standard deviation of independent noise
by s, so that the same schedule is s² times easier on an image of s times the side. With s times the ratio σ/α

    log SNR'(t) = log SNR(t) − 2 ln s

a large image, seen at the resolution of the small one, is as noisy as the small one is (Hoogeboom et al. 2023,
arXiv:2301.11093, section 3.1; for data scaled by 1/s, Chen 2023, arXiv:2301.10972).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.arrays import safe_sqrt
from diffusion.pytree import is_concrete, pytree
from diffusion.schedules import Cosine, Schedule, Times


@pytree
class Shifted(Schedule):
    """α' = c α, σ' = c s σ with c² = (α² + σ²)/(α² + s² σ²), so that α² + σ² is what it was.

    With `Cosine` this is the shifted cosine schedule. `factor` is s: the side of the images over that of the images
    that the schedule was made for. Raises ValueError unless it is positive, and for a discrete chain.
    """

    schedule: Schedule = Cosine()
    """The schedule that is shifted."""
    factor: float = 2.0
    """The factor s of σ/α: more than 1 for larger images."""

    def __post_init__(self) -> None:
        if is_concrete(self.factor) and not self.factor > 0:
            raise ValueError(f"factor = {self.factor}; it must be positive, such as 4 for images of 4 times the side.")
        if self.schedule.discrete:
            raise ValueError(
                "schedule is a discrete chain, which is its β's; shift a continuous one, such as Cosine()."
            )

    def _log_scale(self, t: Times) -> Array:
        """ln c."""
        variance = self.schedule.variance(t)
        total = self.schedule.alpha(t) ** 2 + self.factor**2 * variance
        return 0.5 * jnp.log1p((1 - self.factor**2) * variance / total)

    @property
    def t_max(self) -> int | float | Array:
        """The time of the schedule's prior."""
        return self.schedule.t_max

    @property
    def t_min(self) -> int | float | Array:
        """The schedule's smallest time worth training at."""
        return self.schedule.t_min

    @property
    def ends_in_noise(self) -> bool:
        """Whether the schedule does: c is neither 0 nor infinite."""
        return self.schedule.ends_in_noise

    def is_noise_at(self, t: Times) -> bool:
        """Whether the schedule is."""
        return self.schedule.is_noise_at(t)

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """ln α + ln c."""
        return self.schedule.log_alpha(t) + self._log_scale(t)

    def alpha(self, t: Times) -> Float[Array, "..."]:
        """c α."""
        return jnp.exp(self._log_scale(t)) * self.schedule.alpha(t)

    def variance(self, t: Times) -> Float[Array, "..."]:
        """c² s² σ²."""
        return self.factor**2 * jnp.exp(2 * self._log_scale(t)) * self.schedule.variance(t)

    def sigma(self, t: Times) -> Float[Array, "..."]:
        """c s σ."""
        return self.factor * jnp.exp(self._log_scale(t)) * self.schedule.sigma(t)

    def sigma_dot(self, t: Times) -> Float[Array, "..."]:
        """c s (σ' + σ d ln c/dt), infinite where σ' is."""
        t = jnp.asarray(t, jnp.result_type(float, t))
        log_scale, slope = jax.jvp(self._log_scale, (t,), (jnp.ones_like(t),))
        return self.factor * jnp.exp(log_scale) * (self.schedule.sigma_dot(t) + self.schedule.sigma(t) * slope)

    def log_snr(self, t: Times) -> Float[Array, "..."]:
        """λ − 2 ln s."""
        return self.schedule.log_snr(t) - 2 * jnp.log(self.factor)

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """The schedule's own at λ + 2 ln s."""
        return self.schedule.time_from_log_snr(jnp.asarray(log_snr) + 2 * jnp.log(self.factor))

    def prior_std(self, t: Times) -> Float[Array, "..."]:
        """√(σ'² + c² (p² − σ²)) with p the schedule's: 1 where that is 1, σ' where that is σ."""
        more = self.schedule.prior_std(t) ** 2 - self.schedule.variance(t)
        return safe_sqrt(self.variance(t) + jnp.exp(2 * self._log_scale(t)) * more)
