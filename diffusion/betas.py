"""The discrete chain of DDPM: a schedule on the integers 0, 1, ..., T.

    x_t = a_t x_{t−1} + b_t ε_t,   a_t² = 1 − β_t,   b_t² = β_t
    x_t = α_t x_0 + σ_t ε,         α_t = a_1 ⋯ a_t,  σ_t² = 1 − α_t²

(Ho et al. 2020, arXiv:2006.11239, eq. 2 and 4; their ᾱ_t is our α_t².) Nothing lies between the integers:
asking this schedule for a derivative is an error.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffusion.pytree import pytree
from diffusion.schedules import Schedule, Times


@jax.custom_jvp
def _nearest_integer(t: Array) -> Array:
    return jnp.rint(t)


@_nearest_integer.defjvp
def _no_derivative(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise TypeError(
        "Betas is a discrete chain and has no derivative in t; use a continuous schedule such as VP or Cosine, "
        "or a sampler that steps between the integers (Ancestral, DDIM, DPMSolverMultistep)."
    )


class ChainSchedule(Schedule):
    """What a table of ln α_0, ..., ln α_T says by itself, however it is read between its times."""

    log_alphas: Float[np.ndarray | Array, " T+1"]

    @property
    def steps(self) -> int:
        """T, the length of the chain."""
        return self.log_alphas.shape[0] - 1

    @property
    def t_max(self) -> int | float | Array:
        """T."""
        return float(self.steps)

    @property
    def t_min(self) -> int | float | Array:
        """1, the first noisy time, and the least that a network of the chain knows."""
        return 1.0

    @property
    def ends_in_noise(self) -> bool:
        """False for every β_t < 1; True where the table ends in ln α_T = −∞."""
        return bool(np.isneginf(np.asarray(self.log_alphas[-1])))

    def prior_std(self, t: Times) -> Float[Array, "..."]:
        """1, the stationary law of the chain."""
        return jnp.ones_like(self.sigma(t))


@pytree
class Betas(ChainSchedule):
    """A chain given by its one-step variances β_1..β_T; build it with one of the class methods.

    Times are the integers 0..T; a float is rounded to the nearest of them, and a time out of range to the nearer end.
    """

    log_alphas: Float[np.ndarray | Array, " T+1"]
    """ln α_t for t = 0..T, in float64: the first is 0."""

    @classmethod
    def from_betas(cls, betas: Any) -> Betas:
        """The chain with one-step variances β_1..β_T.

        The last may be 1: then nothing of the data is left at T, as in `zero_terminal_snr`.
        Raises ValueError unless 0 < β_t < 1 for every other t.
        """
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise ValueError(f"betas has shape {betas.shape}; give a non-empty list of one-step variances.")
        wrong = ~((betas > 0) & (betas < 1))
        wrong[-1] &= betas[-1] != 1
        if wrong.any():
            raise ValueError(f"betas contains {betas[wrong][0]:g}; each lies between 0 and 1, and the last may be 1.")
        with np.errstate(divide="ignore"):
            return cls(np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))]))

    @classmethod
    def linear(cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Betas:
        """β_t linear from `beta_min` to `beta_max` (Ho et al. 2020, section 4).

        The values are those of a chain of 1000 steps, and do not change with `steps`: 100 of them end at α_T = 0.60, so
        that N(0, 1) is no prior of theirs. For other lengths take `linear_rate`.
        """
        return cls.from_betas(np.linspace(beta_min, beta_max, _count(steps)))

    @classmethod
    def linear_rate(cls, steps: int, rate_min: float = 0.1, rate_max: float = 20.0) -> Betas:
        """β_t T linear from `rate_min` to `rate_max`: with T = 1000 it is `linear`.

        (The factor 1000/T is that of the code of Nichol & Dhariwal 2021, arXiv:2102.09672.) As T grows it tends to
        `VP` (Song et al. 2021, appendix B), so that long chains end near its α(1) = 0.0066: 0.0064 at T = 1000, 0.0045
        at 100, 0.0011 at 30. Raises ValueError where a step would be larger than everything, for T <= `rate_max`.
        """
        rates = np.linspace(rate_min, rate_max, _count(steps))
        if rate_max >= steps:
            raise ValueError(f"steps = {steps}; a rate of {rate_max:g} needs more, or give a smaller rate_max.")
        return cls.from_betas(rates / steps)

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_min: float = 0.00085, beta_max: float = 0.012) -> Betas:
        """√β_t linear from √`beta_min` to √`beta_max`: latent diffusion (Rombach et al. 2022, arXiv:2112.10752).

        The values are those of a chain of 1000 steps, which ends at α_T = 0.07, and do not change with `steps`: 100 of
        them end at α_T = 0.76, so that N(0, 1) is no prior of theirs. For other lengths take `linear_rate` or `cosine`.
        """
        return cls.from_betas(np.linspace(np.sqrt(beta_min), np.sqrt(beta_max), _count(steps)) ** 2)

    @classmethod
    def sigmoid(cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02, reach: float = 6.0) -> Betas:
        """β_t = β_min + (β_max − β_min) s(u), s the logistic function, u evenly from −`reach` to `reach`.

        (Xu et al. 2022, GeoDiff, arXiv:2203.02923.) The values are those of a chain of 1000 steps, and do not change
        with `steps`: 100 of them end at α_T = 0.60, so that N(0, 1) is no prior of theirs. For other lengths take
        `linear_rate` or `cosine`.
        """
        u = np.linspace(-reach, reach, _count(steps))
        return cls.from_betas(beta_min + (beta_max - beta_min) / (1 + np.exp(-u)))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Betas:
        """α_t ∝ cos(π/2 · (t/T + s)/(1 + s)), β_t clipped (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17)."""
        u = np.arange(_count(steps) + 1) / steps
        alphas_squared = np.cos(np.pi / 2 * (u + offset) / (1 + offset)) ** 2
        return cls.from_betas(np.minimum(1 - alphas_squared[1:] / alphas_squared[:-1], beta_max))

    @classmethod
    def ramp(cls, steps: int = 1000, beta_max: float = 0.02) -> Betas:
        """a_t = √(1 − β_max t/T), b_t = √(β_max t/T): linear from zero.

        The chain of Su (2022), «generative diffusion models» posts, with β_max = 0.02 and T = 1000. `beta_max` does not
        change with `steps`: 100 of them end at α_T = 0.60, so that N(0, 1) is no prior of theirs. For other lengths
        take a `beta_max` of 20/T, or `linear_rate`.
        """
        return cls.from_betas(beta_max * np.arange(1, _count(steps) + 1) / steps)

    def zero_terminal_snr(self) -> Betas:
        """The chain with α_t -> α_1 (α_t − α_T)/(α_1 − α_T): its first step stays, its last leaves none of the data.

        (Lin et al. 2024, arXiv:2305.08891, algorithm 1.) At T neither ε̂ nor the score determines x̂_0: train "v"
        or "x0". Raises ValueError for a chain of one step.
        """
        alphas = np.exp(np.asarray(self.log_alphas, np.float64))
        if len(alphas) < 3:
            raise ValueError("a chain of one step cannot be rescaled; give it two steps or more.")
        moved = alphas[1] * (alphas[1:] - alphas[-1]) / (alphas[1] - alphas[-1])
        with np.errstate(divide="ignore"):
            return Betas(np.log(np.concatenate([[1.0], moved])))

    @property
    def discrete(self) -> bool:
        """True."""
        return True

    def _index(self, t: Times) -> Int[Array, "..."]:
        t = jnp.asarray(t)
        t = t if jnp.issubdtype(t.dtype, jnp.integer) else _nearest_integer(t).astype(jnp.int32)
        return jnp.clip(t, 0, self.steps)

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """ln α_t, read from the table."""
        return jnp.asarray(self.log_alphas, jnp.result_type(float))[self._index(t)]

    def variance(self, t: Times) -> Float[Array, "..."]:
        """σ_t² = 1 − α_t²."""
        return jnp.abs(jnp.expm1(2 * self.log_alpha(t)))

    def beta(self, t: Times) -> Float[Array, "..."]:
        """β_t = 1 − (α_t/α_{t−1})², for t in 1..T."""
        return -jnp.expm1(2 * (self.log_alpha(t) - self.log_alpha(jnp.asarray(t) - 1)))

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """The integer time whose ln(α²/σ²) is nearest to `log_snr`; +∞, that of the data, gives 0, and −∞ gives T."""
        log_snr = jnp.asarray(log_snr, jnp.result_type(float))
        noisy = -self.log_snr(jnp.arange(1, self.steps + 1))
        # Beyond the noisiest time, and far beyond in float32, both of its neighbours would be as far away.
        wanted = jnp.minimum(-log_snr, noisy[-1])
        right = jnp.clip(jnp.searchsorted(noisy, wanted), 1, self.steps - 1) if self.steps > 1 else 0
        left = jnp.maximum(right - 1, 0)
        nearest = jnp.where(jnp.abs(noisy[left] - wanted) <= jnp.abs(noisy[right] - wanted), left, right) + 1
        return jnp.where(jnp.isposinf(log_snr), 0, nearest).astype(log_snr.dtype)


def _count(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps = {steps}; the chain needs at least one step.")
    return steps
