"""DDIM: a family of samplers with DDPM's marginals, from deterministic to ancestral."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import keys as keys_lib
from diffusion.arrays import safe_sqrt
from diffusion.host import host_float64
from diffusion.keys import Draws
from diffusion.noises import Gaussian, require_gaussian
from diffusion.prediction import Denoiser, eps_from_x0
from diffusion.process import Process, posterior_coefficients
from diffusion.pytree import is_concrete, pytree
from samplers.sample import Sampler


@pytree
class DDIM(Sampler):
    """x_s = α_s x̂_0 + √(σ_s² − σ̃²) ε̂ + σ̃ n, with σ̃ = η times the posterior's standard deviation.

    (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16.) η = 0 is the deterministic first-order solver of the
    probability-flow ODE, for any noise; η = 1 is ancestral sampling with β̃.
    """

    eta: float = 0.0
    """η: 0 is deterministic, 1 is DDPM; more is allowed while σ̃ <= σ_s."""
    clip: float | None = None
    """c for x̂_0 in [−c, c] while ε̂ stays that of the denoiser's own answer, as in diffusers' pipelines; None leaves
    x̂_0 as it is."""

    def __post_init__(self) -> None:
        if is_concrete(self.eta) and not self.eta >= 0:
            raise ValueError(f"eta = {self.eta}; it must be 0 (deterministic) or more.")
        if self.clip is not None and is_concrete(self.clip) and not self.clip > 0:
            raise ValueError(f"clip = {self.clip}; give a positive number, such as 1 for images, or None.")

    order: ClassVar[float] = 1

    @property
    def stochastic(self) -> bool:
        """Whether η > 0."""
        return bool(self.eta > 0)

    @property
    def strong_order(self) -> int:
        """1: the noise is additive."""
        return int(self.stochastic)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError for an η that is positive or traced, with a noise that is not Gaussian."""
        if not is_concrete(self.eta) or self.eta > 0:
            require_gaussian(process.noise, "DDIM with eta > 0")

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError where σ̃ > σ_s."""
        if not self.eta > 0:
            return
        with host_float64():
            variance = np.asarray(posterior_coefficients(process, grid[1:], grid[:-1])[2])
            room = np.asarray(process.schedule.variance(grid[1:]))
        bad = float(self.eta) ** 2 * variance > room * (1 + 1e-9)
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"eta = {float(self.eta):g} asks for more noise than there is room for in the step "
                f"{grid[i]:g} -> {grid[i + 1]:g}; use eta <= {float(np.sqrt(room[i] / variance[i])):.4g} there, or 1."
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
        """α_s x̂_0 + √(σ_s² − σ̃²) ε̂ + σ̃ n."""
        x_0 = denoise(x, t)
        eps = eps_from_x0(process, x, x_0, t)
        x_0 = x_0 if self.clip is None else jnp.clip(x_0, -self.clip, self.clip)
        if not isinstance(process.noise, Gaussian):  # deterministic: `check_noise` has refused the rest
            return process.alpha(s) * x_0 + process.sigma(s) * eps, carry
        spread = self.eta * safe_sqrt(posterior_coefficients(process, s, t)[2])
        room = process.schedule.variance(s)
        # A traced η cannot be refused: too large a one gives NaN, not another law.
        left = jnp.where(spread**2 > room * (1 + 1e-5), jnp.nan, jnp.maximum(room - spread**2, 0.0))
        direction = jnp.where(jnp.isnan(left), jnp.nan, safe_sqrt(left))
        # Noise is drawn only where it is added: beside a small network the draw is most of a step.
        noise = jax.lax.cond(
            jnp.asarray(self.eta) > 0, lambda: keys_lib.normal(keys, x.shape[1:], x.dtype), lambda: jnp.zeros_like(x)
        )
        return process.alpha(s) * x_0 + direction * eps + spread * noise, carry
