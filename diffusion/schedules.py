"""Schedules: α(t) and σ(t) of x_t = α(t) x_0 + σ(t) z.

The data are at t = 0, where α = 1 and σ = 0 in every schedule, the prior at t = t_max. Everything else is derived from
the two functions by automatic differentiation:

    f = α'/α                            the drift coefficient
    g² = d(σ²)/dt − 2 f σ²              the diffusion coefficient, squared
    log SNR = 2 (ln α − ln σ)

so that dx = f x dt + g dw has the marginals above (Song et al. 2021, arXiv:2011.13456; Karras et al. 2022,
arXiv:2206.00364, appendix B). A new schedule is one class with α, σ² and the inverse of its log-SNR.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import safe_sqrt, slope
from diffusion.bisection import falling_inverse
from diffusion.host import host_float64
from diffusion.pytree import is_concrete, pytree

Times = ArrayLike


class Schedule:
    """α(t), σ(t) and all that follows from them; `t` may have any shape."""

    def __getattr__(self, name: str) -> Any:
        """Only what is missing is looked for here: a schedule in the place of a process lacks these two."""
        if name not in ("schedule", "noise"):
            return object.__getattribute__(self, name)  # raises what it has raised
        raise AttributeError(f"{self} is a schedule, and a Process is needed; give Process({self}).")

    @property
    def t_max(self) -> int | float | Array:
        """The time of the prior."""
        return 1.0

    @property
    def t_min(self) -> int | float | Array:
        """The smallest time at which training, or a division by σ, makes sense; the data themselves are at 0."""
        return 1e-4

    @property
    def discrete(self) -> bool:
        """Whether time is the integers 0, 1, ..., t_max alone, so that nothing has a derivative in t."""
        return False

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the data is left at the prior: α(t_max)/σ(t_max) = 0, to rounding in float64."""
        return self._rounds_to_noise(self.t_max)

    def is_noise_at(self, t: Times) -> bool:
        """Whether α(t)/σ(t) = 0 to float64's rounding, for one concrete t of a schedule that ends in noise."""
        return self.ends_in_noise and self._rounds_to_noise(t)

    def _rounds_to_noise(self, t: Times) -> bool:
        with host_float64():
            return bool(self.alpha(t) <= np.finfo(np.float64).eps * self.sigma(t))

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """ln α(t). A subclass defines this or `alpha`."""
        self._require_one("log_alpha", "alpha")
        return jnp.log(self.alpha(t))

    def alpha(self, t: Times) -> Float[Array, "..."]:
        """The factor of the data, α(t)."""
        return jnp.exp(self.log_alpha(t))

    def variance(self, t: Times) -> Float[Array, "..."]:
        """σ²(t), smooth at t = 0 where σ itself may have an infinite slope. A subclass defines this or `sigma`."""
        self._require_one("variance", "sigma")
        return self.sigma(t) ** 2

    def sigma(self, t: Times) -> Float[Array, "..."]:
        """The factor of the noise, σ(t)."""
        return safe_sqrt(self.variance(t))

    def log_snr(self, t: Times) -> Float[Array, "..."]:
        """λ(t) = ln(α²/σ²): decreasing, +∞ at the data."""
        variance = self.variance(t)
        # ln 0 = −∞ with the derivative 0, so that a gradient may pass through the data's end.
        log_variance = jnp.where(variance > 0, jnp.log(jnp.where(variance > 0, variance, 1.0)), -jnp.inf)
        return 2 * self.log_alpha(t) - log_variance

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """The time t at which ln(α²/σ²) = `log_snr`, 0 for +∞; by bisection where a schedule has no formula."""
        return falling_inverse(self.log_snr, log_snr, self.t_max)

    def _require_one(self, *names: str) -> None:
        """Raise NotImplementedError when neither of two methods that default to each other is defined."""
        cls = type(self)
        if all(getattr(cls, name) is getattr(Schedule, name) for name in names):
            raise NotImplementedError(f"{cls.__name__} defines neither {' nor '.join(names)}; define one of them.")

    def prior_std(self, t: Times) -> Float[Array, "..."]:
        """Standard deviation of the law that stands for p_t when sampling starts at t: σ(t) unless overridden."""
        return self.sigma(t)

    def alpha_dot(self, t: Times) -> Float[Array, "..."]:
        """α'(t)."""
        return slope(self.alpha, t)

    def sigma_dot(self, t: Times) -> Float[Array, "..."]:
        """σ'(t), infinite at t = 0 where σ grows like √t."""
        if type(self).sigma is not Schedule.sigma:
            return slope(self.sigma, t)
        return slope(self.variance, t) / (2 * self.sigma(t))

    def drift(self, t: Times) -> Float[Array, "..."]:
        """f(t) = α'(t)/α(t)."""
        return slope(self.log_alpha, t)

    def diffusion_squared(self, t: Times) -> Float[Array, "..."]:
        """g²(t) = d(σ²)/dt − 2 f σ²."""
        return slope(self.variance, t) - 2 * self.drift(t) * self.variance(t)


class _LinearBeta(Schedule):
    """β(t) = β_min + t (β_max − β_min), with B(t) its integral from 0."""

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        if is_concrete(self.beta_min, self.beta_max) and not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min = {self.beta_min} and beta_max = {self.beta_max} do not satisfy "
                "0 < beta_min <= beta_max; the usual pair is 0.1 and 20."
            )

    @property
    def ends_in_noise(self) -> bool:
        """False: α = e^{−B/2} > 0."""
        return False

    def integrated_beta(self, t: Times) -> Float[Array, "..."]:
        """B(t) = β_min t + ½ (β_max − β_min) t²."""
        t = jnp.asarray(t)
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def time_from_integrated_beta(self, integral: Times) -> Float[Array, "..."]:
        """The time at which B(t) = `integral`: the positive root, written without cancellation."""
        integral = jnp.asarray(integral)
        return (
            2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral))
        )

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """ln α = −B(t)/2."""
        return -0.5 * self.integrated_beta(t)

    def prior_std(self, t: Times) -> Float[Array, "..."]:
        """1, the stationary law of the forward SDE."""
        return jnp.ones_like(self.sigma(t))


@pytree
class VP(_LinearBeta):
    """Variance preserving, linear β: α = exp(−B/2), σ² = 1 − exp(−B) (Song et al. 2021, eq. 33)."""

    beta_min: float = 0.1
    """β at t = 0."""
    beta_max: float = 20.0
    """β at t = 1."""

    def variance(self, t: Times) -> Float[Array, "..."]:
        """σ² = 1 − e^{−B}, by expm1: at t = 1e-5 the naive form has lost all its digits in float32."""
        return -jnp.expm1(-self.integrated_beta(t))

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """e^{−B} = sigmoid(λ), so B = softplus(−λ)."""
        return self.time_from_integrated_beta(jax.nn.softplus(-jnp.asarray(log_snr)))


@pytree
class SubVP(_LinearBeta):
    """Sub-VP: α = exp(−B/2), σ = 1 − exp(−B), never noisier than VP (Song et al. 2021, eq. 29)."""

    beta_min: float = 0.1
    """β at t = 0."""
    beta_max: float = 20.0
    """β at t = 1."""

    def sigma(self, t: Times) -> Float[Array, "..."]:
        """σ = 1 − e^{−B}."""
        return -jnp.expm1(-self.integrated_beta(t))

    def variance(self, t: Times) -> Float[Array, "..."]:
        """σ² = (1 − e^{−B})²."""
        return self.sigma(t) ** 2

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """σ/α = 2 sinh(B/2), so B = 2 asinh(e^{−λ/2}/2)."""
        return self.time_from_integrated_beta(2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * jnp.asarray(log_snr))))


@pytree
class Cosine(Schedule):
    """Cosine: α = cos(πt/2), σ = sin(πt/2); SNR is 0 at t = 1 (Nichol & Dhariwal 2021, without the offset)."""

    @property
    def ends_in_noise(self) -> bool:
        """True: α(1) = 0."""
        return True

    def alpha(self, t: Times) -> Float[Array, "..."]:
        """cos(πt/2), written as a sine so that α(1) is 0 and not a rounding error."""
        return jnp.sin(0.5 * jnp.pi * (1 - jnp.asarray(t)))

    def sigma(self, t: Times) -> Float[Array, "..."]:
        """sin(πt/2)."""
        return jnp.sin(0.5 * jnp.pi * jnp.asarray(t))

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """t = (2/π) atan(e^{−λ/2})."""
        return 2 / jnp.pi * jnp.arctan(jnp.exp(-0.5 * jnp.asarray(log_snr)))

    def prior_std(self, t: Times) -> Float[Array, "..."]:
        """1, the stationary law of the forward SDE."""
        return jnp.ones_like(self.sigma(t))


@pytree
class VE(Schedule):
    """Variance exploding: α = 1, σ² = σ_min² ((σ_max/σ_min)^{2t} − 1) (Song et al. 2021, eq. 29 and 30).

    This is the exact kernel of their SDE from t = 0, so that σ(0) = 0 and σ²(1) = σ_max² − σ_min²; the
    common σ_min (σ_max/σ_min)^t drops the −1 and starts from data already blurred by σ_min.
    """

    sigma_min: float = 0.01
    """The scale of the geometric progression; the smallest noise that matters."""
    sigma_max: float = 50.0
    """The largest noise: of the order of the largest distance between data points."""

    def __post_init__(self) -> None:
        if is_concrete(self.sigma_min, self.sigma_max) and not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max} do not satisfy "
                "0 < sigma_min < sigma_max; the usual pair is 0.01 and 50."
            )

    @property
    def ends_in_noise(self) -> bool:
        """False: α = 1, and σ is finite."""
        return False

    def _log_ratio(self) -> Array:
        return jnp.log(jnp.asarray(self.sigma_max) / self.sigma_min)

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """0."""
        return 0.0 * jnp.asarray(t, jnp.result_type(float, t))

    def variance(self, t: Times) -> Float[Array, "..."]:
        """σ² = σ_min² expm1(2 t ln(σ_max/σ_min))."""
        return self.sigma_min**2 * jnp.expm1(2 * jnp.asarray(t) * self._log_ratio())

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """t = ln(1 + σ²/σ_min²) / (2 ln(σ_max/σ_min)) with σ² = e^{−λ}."""
        variance = jnp.exp(-jnp.asarray(log_snr))
        return jnp.log1p(variance / self.sigma_min**2) / (2 * self._log_ratio())


@pytree
class EDM(Schedule):
    """Time is the noise level: α = 1, σ = t (Karras et al. 2022, arXiv:2206.00364, table 1)."""

    sigma_min: float = 0.002
    """The smallest noise level of grids and of training."""
    sigma_max: float = 80.0
    """The largest noise level: the time of the prior."""

    def __post_init__(self) -> None:
        if is_concrete(self.sigma_min, self.sigma_max) and not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max} do not satisfy "
                "0 < sigma_min < sigma_max; the usual pair is 0.002 and 80."
            )

    @property
    def ends_in_noise(self) -> bool:
        """False: α = 1, and σ is finite."""
        return False

    @property
    def t_max(self) -> int | float | Array:
        """σ_max."""
        return self.sigma_max

    @property
    def t_min(self) -> int | float | Array:
        """σ_min."""
        return self.sigma_min

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """0."""
        return 0.0 * jnp.asarray(t, jnp.result_type(float, t))

    def sigma(self, t: Times) -> Float[Array, "..."]:
        """σ = t."""
        return jnp.asarray(t, jnp.result_type(float, t))

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """t = e^{−λ/2}."""
        return jnp.exp(-0.5 * jnp.asarray(log_snr))


@pytree
class RectifiedFlow(Schedule):
    """The straight line from data to noise: α = 1 − t, σ = t (Liu et al. 2023, arXiv:2209.03003)."""

    @property
    def t_min(self) -> int | float | Array:
        """1e-3: the interpolant's noise there is an eighth of an 8-bit grey level, 2/255 for images in [−1, 1]."""
        return 1e-3

    @property
    def ends_in_noise(self) -> bool:
        """True: α(1) = 0."""
        return True

    def alpha(self, t: Times) -> Float[Array, "..."]:
        """1 − t."""
        return 1 - jnp.asarray(t, jnp.result_type(float, t))

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """ln(1 − t)."""
        return jnp.log1p(-jnp.asarray(t, jnp.result_type(float, t)))

    def sigma(self, t: Times) -> Float[Array, "..."]:
        """σ = t."""
        return jnp.asarray(t, jnp.result_type(float, t))

    def time_from_log_snr(self, log_snr: Times) -> Float[Array, "..."]:
        """t = sigmoid(−λ/2)."""
        return jax.nn.sigmoid(-0.5 * jnp.asarray(log_snr))
