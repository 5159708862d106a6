"""Solvers of the family of reverse SDEs: Euler-Maruyama, and Heun's method of weak order 2."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import keys as keys_lib
from diffusion.arrays import safe_sqrt
from diffusion.dynamics import reverse_drift_from_x0
from diffusion.keys import Draws
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree
from samplers.exponential import exponential_step, half_log_snr, integral_weights, reverse_noise, transfer
from samplers.sample import Sampler, require_continuous


def check_level(level: Any) -> None:
    """Raise ValueError for a level σ̃/g below 0, or NaN."""
    if is_concrete(level) and not level >= 0:
        raise ValueError(f"level = {level}; it must be 0 (the ODE) or more, 1 is the reverse SDE.")


class ReverseSDE(Sampler):
    """What the solvers of the reverse SDE with σ̃ = level · g share: noise of that level, which is additive."""

    level: float
    """The noise level σ̃/g."""

    @property
    def stochastic(self) -> bool:
        """Whether level > 0."""
        return bool(self.level > 0)

    @property
    def strong_order(self) -> int:
        """1: the noise is additive."""
        return int(self.stochastic)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, type(self).__name__)


@pytree
class EulerMaruyama(ReverseSDE):
    """x_s = x_t + (s − t) [f x − ½(g² + σ̃²)∇ln p_t] + σ̃ √(t − s) n, with σ̃ = `level` · g.

    Level 1 is Anderson's reverse SDE, 0 the probability-flow ODE (Song et al. 2021, eq. 6 and 13). The step onto
    σ = 0 returns the denoiser's output.
    """

    level: float = 1.0
    """The noise level σ̃/g: 0 is the ODE, 1 the reverse SDE."""

    def __post_init__(self) -> None:
        check_level(self.level)

    order: ClassVar[float] = 1

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for a start at α = 0, where g is infinite, and TypeError on a discrete chain."""
        require_continuous(process, "EulerMaruyama")
        if self.level == 0:
            return
        if process.schedule.is_noise_at(grid[0]):
            raise ValueError(
                f"grid starts at t = {grid[0]:g}, where α = 0 and g is infinite; "
                f"start just below, such as uniform_time(process, {len(grid) - 1}, t_start={0.999 * grid[0]:g})."
            )

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
        """One Euler-Maruyama step."""
        x_0 = denoise(x, t)
        drift = reverse_drift_from_x0(process, x, x_0, t, self.level)
        diffusion_squared = jnp.where(jnp.asarray(self.level) == 0, 0.0, process.schedule.diffusion_squared(t))
        spread = self.level * safe_sqrt(diffusion_squared * (t - s))
        moved = x + (s - t) * drift + spread * keys_lib.normal(keys, x.shape[1:], x.dtype)
        return jnp.where(process.sigma(s) == 0, process.alpha(s) * x_0, moved), carry


@pytree
class StochasticHeun(ReverseSDE):
    """Heun's method on the reverse SDE with σ̃ = level · g, its linear part exact: weak order 2.

    With h = λ_s − λ_t, η = level² and one n for both lines,

        x* = (σ_s/σ_t) e^{−ηh} x_t + α_s (1 − e^{−(1+η)h}) x̂_0(x_t, t) + σ_s √(1 − e^{−2ηh}) n
        x_s = x* with, in place of x̂_0(x_t, t), the line in λ through x̂_0(x_t, t) and x̂_0(x*, s), integrated exactly

    The noise is additive in these variables, where Heun's method has weak order 2 (Kloeden & Platen 1992, section
    15.1); the first line is SDE-DPM-Solver++(1) (Lu et al. 2022, arXiv:2211.01095). The step onto σ = 0 returns x̂_0.
    """

    level: float = 1.0
    """The noise level σ̃/g: 0 is the ODE, 1 the reverse SDE."""

    def __post_init__(self) -> None:
        check_level(self.level)

    order: ClassVar[float] = 2

    @property
    def one_call_from_noise(self) -> bool:
        """True."""
        return True

    def nfe(self, steps: int, to_data: bool) -> int:
        """Two calls a step, but one for the step onto the data."""
        return 2 * steps - int(to_data)

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
        """One step of two stages."""
        x_0, start, end = denoise(x, t), half_log_snr(process, t), half_log_snr(process, s)

        def whole() -> Array:
            eta = jnp.asarray(self.level, start.dtype) ** 2
            decay, spread = reverse_noise(process, self.level, t, s)
            noise = spread * keys_lib.normal(keys, x.shape[1:], x.dtype)

            def moved(values: tuple[Array, ...]) -> Array:
                nodes = jnp.stack([start, end][: len(values)])
                used = jnp.ones(len(values), bool)
                weights = integral_weights(process, "x0", "log-snr", t, s, nodes, used, 1 + eta)
                return transfer(process, "x0", x, t, s, weights, jnp.stack(values), decay=decay) + noise

            return moved((x_0, denoise(moved((x_0,)), s)))

        inside = jnp.isfinite(start) & (process.sigma(s) > 0)
        return jax.lax.cond(inside, whole, lambda: exponential_step(process, x, x_0, t, s)), carry
