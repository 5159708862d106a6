"""Euler-Maruyama on the family of reverse SDEs."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import safe_sqrt
from diffusion.dynamics import reverse_drift_from_x0
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree
from samplers.grids import host_float64
from samplers.sample import Sampler, require_continuous


@pytree
class EulerMaruyama(Sampler):
    """x_s = x_t + (s − t) [f x − ½(g² + σ̃²)∇ln p_t] + σ̃ √(t − s) n, with σ̃ = `level` · g.

    Level 1 is Anderson's reverse SDE, 0 the probability-flow ODE (Song et al. 2021, eq. 6 and 13). The step onto
    σ = 0 returns the denoiser's output.
    """

    level: float = 1.0
    """How noisy: σ̃/g."""

    def __post_init__(self) -> None:
        if is_concrete(self.level) and not self.level >= 0:
            raise ValueError(f"level = {self.level}; it must be 0 (the ODE) or more, 1 is the reverse SDE.")

    order: ClassVar[float] = 1

    @property
    def stochastic(self) -> bool:
        """Whether level > 0."""
        return bool(self.level > 0)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, "EulerMaruyama")

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for a start at α = 0, where g is infinite, and TypeError on a discrete chain."""
        require_continuous(process, "EulerMaruyama")
        if self.level == 0:
            return
        with host_float64():
            start = float(process.alpha(grid[0]))
        if start == 0:
            raise ValueError(
                f"grid starts at t = {grid[0]:g}, where α = 0 and g is infinite; "
                f"start just below, such as uniform_time(process, {len(grid) - 1}, t_start={0.999 * grid[0]:g})."
            )

    def step(
        self,
        keys: Key[Array, " b"],
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
