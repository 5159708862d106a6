"""Single-step exponential methods: each step starts afresh, with one denoiser call for each order."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.host import host_float64
from diffusion.keys import Draws
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import pytree, static
from samplers.exponential import (
    Form,
    exponential_step,
    half_log_snr,
    in_form,
    single_step,
    starts_in_noise,
    time_between,
)
from samplers.sample import Sampler


class _SingleStep(Sampler):
    """A step of two or three denoiser calls between finite λ; DDIM's one where σ_s = 0 or α_t = 0."""

    prediction: Form
    """The prediction that is integrated."""

    @property
    def one_call_from_noise(self) -> bool:
        """True."""
        return True

    def nfe(self, steps: int, to_data: bool) -> int:
        """`order` calls a step, but one for the step onto the data."""
        return self.order * steps - (self.order - 1) * int(to_data)

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError on a discrete chain without times between those of the grid."""
        if not process.schedule.discrete:
            return
        with host_float64():
            for t, s in itertools.pairwise(grid[grid > 0]):
                if starts_in_noise(process, t):  # a step without stages
                    continue
                between = {float(time_between(process, t, s, k / self.order)) for k in range(1, self.order)}
                if len(between | {float(t), float(s)}) < self.order + 1:
                    raise ValueError(
                        f"the chain has no {self.order - 1} time(s) between {t:g} and {s:g} for a method of order "
                        f"{self.order}; use fewer steps, or a multistep method."
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
        """One step."""
        x_0 = denoise(x, t)
        # Both ends: an inversion goes up, and may end without signal.
        inside = jnp.isfinite(half_log_snr(process, t)) & jnp.isfinite(half_log_snr(process, s))

        def whole() -> Array:
            value = in_form(process, self.prediction, x, x_0, t)
            return single_step(process, denoise, self.prediction, x, value, t, s, self.order)[0]

        return jax.lax.cond(inside, whole, lambda: exponential_step(process, x, x_0, t, s)), carry


@pytree
class DPMSolverSinglestep(_SingleStep):
    """DPM-Solver (2, 3) on ε̂ and DPM-Solver++ (2S, 3S) on x̂_0: `order` denoiser calls a step, evenly spread in λ.

    (Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095, algorithm 1, with its r₁ = ½.)
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The order, 2 or 3."""
    prediction: Form = static(default="x0")
    """The prediction that is taken to vary slowly: x0 (DPM-Solver++) or eps (DPM-Solver)."""

    def __post_init__(self) -> None:
        if isinstance(self.order, int) and self.order not in (2, 3):
            raise ValueError(f"order = {self.order}; this sampler has the orders 2 and 3.")
        if isinstance(self.prediction, str) and self.prediction not in ("x0", "eps"):
            raise ValueError(f"prediction = {self.prediction!r}; choose x0 or eps.")


@pytree
class Midpoint(_SingleStep):
    """The midpoint rule in ρ = σ/α, its middle taken in ln ρ: x_s/α_s = x_t/α_t + (ρ_s − ρ_t) ε̂ at √(ρ_t ρ_s).

    DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927, algorithm 1), and the second-order sampler after Karras et al. 2022
    that others call KDPM2.
    """

    order: ClassVar[int] = 2

    @property
    def prediction(self) -> Form:  # pyright: ignore[reportIncompatibleVariableOverride]
        """ε̂."""
        return "eps"
