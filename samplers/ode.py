"""Runge-Kutta on the probability-flow ODE, in the process's own time."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import keys as keys_lib
from diffusion.arrays import safe_sqrt
from diffusion.dynamics import velocity, velocity_from_x0
from diffusion.keys import Draws
from diffusion.noises import Gaussian, require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process, transition_coefficients
from diffusion.pytree import is_concrete, pytree
from samplers.sample import Sampler, require_continuous


@pytree
class Euler(Sampler):
    """x_s = x_t + (s − t) u(x_t, t), with u = α' x̂_0 + σ' ε̂; the step onto σ = 0 returns x̂_0."""

    order: ClassVar[float] = 1

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise TypeError on a discrete chain."""
        del grid
        require_continuous(process, "Euler")

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """One Euler step."""
        x_0 = denoise(x, t)
        return euler_step(process, x, x_0, t, s), carry


def euler_step(process: Process, x: Array, x_0: Array, t: Array, s: Array) -> Array:
    """x + (s − t) u, or x̂_0 itself where σ_s = 0: there σ' may be infinite, and the exact limit is the denoiser."""
    moved = x + (s - t) * velocity_from_x0(process, x, x_0, t)
    return jnp.where(process.sigma(s) == 0, process.alpha(s) * x_0, moved)


@pytree
class RK4(Sampler):
    """The classical Runge-Kutta method of order 4; the step onto σ = 0 is Euler's, so N steps cost 4N − 3 calls."""

    order: ClassVar[float] = 4

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise TypeError on a discrete chain."""
        del grid
        require_continuous(process, "RK4")

    def nfe(self, steps: int, to_data: bool) -> int:
        """Four calls a step, but one for the step onto the data."""
        return 4 * steps - 3 * int(to_data)

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """One step of four stages."""
        slope = velocity(process, denoise)
        x_0, h, middle = denoise(x, t), s - t, 0.5 * (s + t)

        def whole() -> Array:
            k_1 = velocity_from_x0(process, x, x_0, t)
            k_2 = slope(x + 0.5 * h * k_1, middle)
            k_3 = slope(x + 0.5 * h * k_2, middle)
            return x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + slope(x + h * k_3, s))

        to_data = process.sigma(s) == 0
        return jax.lax.cond(to_data, lambda: euler_step(process, x, x_0, t, s), whole), carry


@pytree
class Heun(Sampler):
    """Heun's trapezoid with optional churn: Karras et al. 2022, algorithms 1 and 2.

    With S_churn > 0 each step first adds noise, from t up to the t̂ where σ/α is 1 + γ times larger,
    γ = min(S_churn/N, √2 − 1) while S_min <= σ/α <= S_max. The step onto σ = 0 is Euler's, so that N steps cost
    2N − 1 denoiser calls.
    """

    S_churn: float = 0.0
    """The amount of noise added over all steps; 0 is deterministic."""
    S_min: float = 0.0
    """The smallest σ/α at which noise is added."""
    S_max: float = float("inf")
    """The largest σ/α at which noise is added."""
    S_noise: float = 1.0
    """The standard deviation of the noise that is added, in units of what is due."""

    def __post_init__(self) -> None:
        if is_concrete(self.S_churn, self.S_min, self.S_max, self.S_noise):
            if not self.S_churn >= 0:
                raise ValueError(f"S_churn = {self.S_churn}; it must be 0 (deterministic) or more.")
            if not 0 <= self.S_min < self.S_max:
                raise ValueError(
                    f"S_min = {self.S_min} and S_max = {self.S_max} leave no noise level to churn at; "
                    "use 0 <= S_min < S_max, such as 0.05 and 50."
                )
            if not self.S_noise > 0:
                raise ValueError(f"S_noise = {self.S_noise}; it must be positive, usually 1 to 1.01.")

    order: ClassVar[float] = 2

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise TypeError on a discrete chain."""
        del grid
        require_continuous(process, "Heun")

    @property
    def stochastic(self) -> bool:
        """Whether S_churn > 0."""
        return bool(self.S_churn > 0)

    def nfe(self, steps: int, to_data: bool) -> int:
        """Two calls a step, but one for the step onto the data."""
        return 2 * steps - int(to_data)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError for churn that is positive or traced, with a noise that is not Gaussian."""
        if not is_concrete(self.S_churn) or self.S_churn > 0:
            require_gaussian(process.noise, "Heun with S_churn > 0")

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """γ, the relative rise of σ/α at the levels that are churned."""
        del x
        return jnp.minimum(self.S_churn / (grid.shape[0] - 1), jnp.sqrt(jnp.asarray(2.0, grid.dtype)) - 1)

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """Churn, Euler's step, and the trapezoid unless σ_s = 0."""
        if isinstance(process.noise, Gaussian):
            x, t = self._churn(keys, x, carry, t, process)
        first = velocity(process, denoise)
        x_0 = denoise(x, t)
        predicted = euler_step(process, x, x_0, t, s)

        def trapezoid() -> Array:
            return x + 0.5 * (s - t) * (velocity_from_x0(process, x, x_0, t) + first(predicted, s))

        return jax.lax.cond(process.sigma(s) == 0, lambda: predicted, trapezoid), carry

    def _churn(self, keys: Draws, x: Array, gamma: Array, t: Array, process: Process) -> tuple[Array, Array]:
        schedule = process.schedule
        level = jnp.exp(-0.5 * schedule.log_snr(t))
        # At infinite σ/α there is nothing but noise, and adding more changes nothing.
        churned = (gamma > 0) & (self.S_min <= level) & (level <= self.S_max) & jnp.isfinite(level)

        def add_noise() -> tuple[Array, Array]:
            up = schedule.time_from_log_snr(schedule.log_snr(t) - 2 * jnp.log1p(gamma)).astype(t.dtype)
            scale, variance = transition_coefficients(process, t, up)
            noise = keys_lib.normal(keys, x.shape[1:], x.dtype)
            return scale * x + safe_sqrt(variance) * self.S_noise * noise, up

        return jax.lax.cond(churned, add_noise, lambda: (x, t))
