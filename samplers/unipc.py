"""UniPC: a multistep predictor whose next denoiser call also corrects the step that led there."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.keys import Draws
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import pytree, static
from samplers.exponential import (
    exponential_step,
    half_log_snr,
    integral_weights,
    last_values,
    remember,
    transfer,
)
from samplers.multistep import check_choice, check_order, check_steps
from samplers.sample import Sampler

Variant = Literal["bh1", "bh2", "varying"]


@pytree
class UniPC(Sampler):
    """UniPC-p on x̂_0 (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8): order p, and one more by the correction.

    Predictor and corrector are x_s = (σ_s/σ_t) x_t + α_s [(1 − e^{−h}) m_0 − B Σ_k ρ_k (m_k − m_0)/r_k] with m_k the
    x̂_0 at λ_t + r_k h and ρ from the order conditions, B = −h (bh1) or e^{−h} − 1 (bh2). "varying" integrates the
    polynomial through the m_k exactly; the varying coefficients as published have order 1. UniP-2 with bh2 is 2M.
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """p, 1 to 3: the number of predictions in the predictor."""
    variant: Variant = static(default="bh2")
    """The coefficients: bh1, bh2, or varying ones."""
    corrector: bool = static(default=True)
    """Whether to correct, which costs nothing but memory; without it this is UniP-p."""

    def __post_init__(self) -> None:
        check_order("UniPC", self.order, 3)
        check_choice("variant", self.variant, ("bh1", "bh2", "varying"))

    @property
    def stated_order(self) -> int:
        """p + 1 with the corrector, at most 3 since the first step is that of UniPC-1; likewise UniP-p's at most 2."""
        return min(self.order + 1, 3) if self.corrector else min(self.order, 2)

    @property
    def remembers(self) -> bool:
        """True."""
        return True

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for fewer steps than the order needs."""
        del process
        check_steps(self.order, grid)

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """No predictions yet; the state and the time that the next correction starts from."""
        return last_values(x.shape, self.order, x.dtype), x, grid[0]

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
        """Correct the step that led to x with the denoiser's answer there, and predict the next."""
        history, before, t_before = carry
        places, values, count = history
        m, here = denoise(x, t), half_log_snr(process, t)
        starts = jnp.isfinite(here)
        inside = starts & (process.sigma(s) > 0)
        # Where λ is infinite the weights are not finite: other times stand in, and their result is discarded.
        high, low = 0.7 * process.t_max, 0.6 * process.t_max
        if self.corrector:
            led = (count > 0) & starts
            t_0, t_1 = jnp.where(led, t_before, high), jnp.where(led, t, low)
            weights = self._weights(process, t_0, t_1, places, count - 1, correct=True)
            corrected = transfer(process, "x0", before, t_0, t_1, weights, jnp.concatenate([values, m[None]]))
            x = jnp.where(led, corrected, x)
        t_0, t_1 = jnp.where(inside, t, high), jnp.where(inside, s, low)
        nodes = jnp.concatenate([half_log_snr(process, t_0)[None], places[: self.order - 1]])
        weights = self._weights(process, t_0, t_1, nodes, count, correct=False)
        predicted = transfer(process, "x0", x, t_0, t_1, weights, jnp.concatenate([m[None], values[: self.order - 1]]))
        moved = jnp.where(inside, predicted, exponential_step(process, x, m, t, s))
        return moved, (remember(history, here, m, starts), x, t)

    def _weights(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " p"], past: Array, *, correct: bool
    ) -> Array:
        """The weight of each prediction at `nodes`, `past` of them older than t, and of the one at s to correct."""
        end = half_log_snr(process, s)
        if self.variant == "varying":
            used = jnp.arange(self.order) <= past
            if correct:
                nodes, used = jnp.append(nodes, end), jnp.append(used, True)
            return integral_weights(process, "x0", "log-snr", t, s, nodes, used)
        h = end - half_log_snr(process, t)
        ratios = (nodes[1:] - nodes[0]) / h

        def of_order(p: int) -> Array:
            return self._fixed(h, ratios[: p - 1], correct, self.order)

        branches = [lambda p=p: of_order(p) for p in range(1, self.order + 1)]
        return jax.lax.switch(jnp.clip(past, 0, self.order - 1), branches)

    def _fixed(self, h: Array, ratios: Array, correct: bool, size: int) -> Array:
        """bh1's and bh2's weights: m_0's, those of the `ratios`, zeros up to `size`, and the one at s to correct."""
        r = jnp.append(ratios, 1.0) if correct else ratios
        total, unused = -jnp.expm1(-h), jnp.zeros(size - 1 - len(ratios), h.dtype)
        scale = -h if self.variant == "bh1" else -total
        psi, right, factorial = -total / -h - 1, [], 1.0
        for k in range(1, len(r) + 1):
            right.append(factorial * psi / scale)
            factorial *= k + 1
            psi = psi / -h - 1 / factorial
        if len(r) == 0:
            return jnp.concatenate([total[None], unused])
        if len(r) == 1:  # any ρ = ½ + O(h) will do, and ½ is what is published
            rho = jnp.full(1, 0.5, h.dtype)
        else:
            rho = jnp.linalg.solve(r[None, :] ** jnp.arange(len(r))[:, None], jnp.stack(right))
        others = -scale * rho / r
        first = (total - jnp.sum(others))[None]
        if not correct:
            return jnp.concatenate([first, others, unused])
        return jnp.concatenate([first, others[:-1], unused, others[-1:]])
