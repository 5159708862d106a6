"""Exponential integrators: the linear part of the probability-flow ODE solved exactly.

With x̂_0(x, t) the denoiser, d(x/σ) = x̂_0 d(α/σ) for any schedule and any noise, so that

    x_s = (σ_s/σ_t) x_t + σ_s ∫ x̂_0 e^λ dλ,   λ = ln(α/σ)

and a method is a rule for x̂_0 between the grid's points (Lu et al. 2022, arXiv:2211.01095, eq. 8).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import pytree, static
from samplers.sample import Sampler


@pytree
class DPMSolverMultistep(Sampler):
    """DPM-Solver++ (2M): x_s = (σ_s/σ_t) x_t − α_s (e^{−h} − 1) D, with h = λ_s − λ_t.

    D = (1 + h/2h₋) x̂_0 − (h/2h₋) x̂_0₋ extrapolates from this step's denoiser output and the last one's, h₋ being
    the last step's h (Lu et al. 2022, arXiv:2211.01095, algorithm 2). Of first order, as DDIM, are the first step
    and those that touch σ = 0 or α = 0, where λ is infinite.
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """1 is DDIM, 2 is 2M."""

    def __post_init__(self) -> None:
        if isinstance(self.order, int) and self.order not in (1, 2):
            raise ValueError(f"order = {self.order}; this sampler has orders 1 and 2.")

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for fewer steps than the order needs."""
        del process
        if len(grid) - 1 < self.order:
            raise ValueError(
                f"grid has {len(grid) - 1} step, and order {self.order} needs at least {self.order}; "
                "add steps or use order=1."
            )

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """The last denoiser output and the last h; an infinite h makes the first step first-order."""
        return jnp.zeros_like(x), jnp.asarray(jnp.inf, grid.dtype)

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
        """One multistep update."""
        last_x_0, last_h = carry
        x_0 = denoise(x, t)
        h = 0.5 * (process.schedule.log_snr(s) - process.schedule.log_snr(t))
        use_history = jnp.isfinite(h) & jnp.isfinite(last_h) & (self.order == 2)
        slope = jnp.where(use_history, h, 0.0) / (2 * jnp.where(use_history, last_h, 1.0))
        return exponential_step(process, x, x_0 + slope * (x_0 - last_x_0), t, s), (x_0, h)


def exponential_step(process: Process, x: Array, x_0: Array, t: Array, s: Array) -> Array:
    """(σ_s/σ_t) x + (α_s − α_t σ_s/σ_t) x̂_0: exact for a constant x̂_0, finite at σ_s = 0 and α_t = 0."""
    ratio = process.sigma(s) / process.sigma(t)
    return ratio * x + (process.alpha(s) - process.alpha(t) * ratio) * x_0
