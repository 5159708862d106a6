"""DPM-Solver++: exponential Adams-Bashforth on the denoiser's output, for the ODE and for the reverse SDEs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffusion import keys as keys_lib
from diffusion.keys import Draws
from diffusion.process import Process
from diffusion.pytree import pytree, static
from samplers.exponential import (
    Form,
    Variable,
    half_log_snr,
    integral_weights,
    reverse_noise,
    transfer,
)
from samplers.multistep import Multistep, MultistepSDE, Start, check_choice, check_order
from samplers.sde import ReverseSDE, check_level


@pytree
class DPMSolverMultistep(Multistep):
    """DPM-Solver++ (2M, 3M), exponential Adams-Bashforth on x̂_0: x_s = (σ_s/σ_t) x_t + α_s (1 − e^{−h}) D.

    2M: D = (1 + 1/2r) x̂_0 − (1/2r) x̂_0₋ with h = λ_s − λ_t, r = h₋/h and h₋ that of the step before (Lu et al. 2022,
    arXiv:2211.01095, algorithm 2). 3M integrates the parabola through the last three x̂_0 exactly and has order 3; the
    coefficients in use elsewhere halve its second difference and have order 2: `published` takes those. Order 4
    integrates the cubic. Steps that touch σ = 0 or α = 0, where λ is infinite, are of first order, as in DDIM.

    To read the method from beginning to end: `samplers.sample` has the loop that calls `step`, `samplers.multistep`
    the step with its history and its start, `samplers.exponential` the formula that x_s is computed by; what is left
    for this file is the weights of the predictions, `_data_weights`.
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The order: 1 is DDIM, 2 is 2M, 3 is 3M; 4 goes beyond the paper."""
    published: bool = static(default=False)
    """Whether order 3 takes the coefficients of other libraries, which have order 2."""
    start: Start = static(default="single-step")
    """The start of orders 3 and 4: a step of one order less, or steps of the lower orders, which need no further calls
    and have order 2 as a whole, but the smaller error on few steps."""

    def __post_init__(self) -> None:
        check_order("DPMSolverMultistep", self.order, 4)
        if self.published is True and self.order != 3:
            raise ValueError(f"published = True goes with order = 3, and order is {self.order}; leave it out.")
        check_choice("start", self.start, ("single-step", "lower-order"))

    @property
    def stated_order(self) -> int:
        """The order of the rule or of the start, whichever is less."""
        return 2 if self.published and self.order == 3 else super().stated_order

    @property
    def form(self) -> Form:
        """x̂_0."""
        return "x0"

    @property
    def variable(self) -> Variable:
        """λ."""
        return "log-snr"

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """2M's rule, or the exact integral of the parabola."""
        return _data_weights(process, t, s, nodes, used, 1.0, self.published)


@pytree
class SDEDPMSolver(ReverseSDE, MultistepSDE):
    """SDE-DPM-Solver++ (1, 2M, 3M): DPM-Solver++ on the reverse SDE with σ̃ = level · g.

    With h = λ_s − λ_t, η = level² and D as in `DPMSolverMultistep` with (1 + η)h in place of h,

        x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s (1 − e^{−(1+η)h}) D + σ_s √(1 − e^{−2ηh}) n

    (Lu et al. 2022, arXiv:2211.01095, appendix A, at η = 1.) The weak order is 1, whatever `order`: x̂_0 is rough along
    a noisy path. A higher `order` has a smaller error all the same.
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The order of the polynomial, 1, 2 (2M) or 3 (3M)."""
    level: float = 1.0
    """The noise level σ̃/g: 0 is the ODE, 1 the reverse SDE."""

    def __post_init__(self) -> None:
        check_order("SDEDPMSolver", self.order, 3)
        check_level(self.level)

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """2M's rule, or the exact integral of the parabola, at (1 + η)h."""
        return _data_weights(process, t, s, nodes, used, 1 + jnp.asarray(self.level, nodes.dtype) ** 2, False)

    def advance(
        self, keys: Draws, x: Array, value: Array, values: Array, weights: Array, t: Array, s: Array, process: Process
    ) -> Array:
        """The exponential step, and its noise."""
        decay, spread = reverse_noise(process, self.level, t, s)
        stacked = jnp.concatenate([value[None], values])
        moved = transfer(process, "x0", x, t, s, weights, stacked, decay=decay)
        return moved + spread * keys_lib.normal(keys, x.shape[1:], x.dtype)


def _data_weights(
    process: Process, t: Array, s: Array, nodes: Array, used: Array, growth: Any, published: bool
) -> Array:
    """The weights of the predictions in (1 − e^{−h}) D, the newest first; h is `growth` times the step in λ."""
    h = growth * (half_log_snr(process, s) - half_log_snr(process, t))
    total = -jnp.expm1(-h)
    if len(nodes) == 1:
        return total[None]
    # 2M, algorithm 2: r = h₋/h and D = (1 + 1/2r) x̂_0 − (1/2r) x̂_0₋; in the first step there is no x̂_0₋, and D = x̂_0.
    h_before = jnp.where(used[1], growth * (nodes[0] - nodes[1]), 1.0)
    half_over_r = jnp.where(used[1], 0.5 * h / h_before, 0.0)  # in this order: another would round otherwise
    two = total * jnp.stack([1 + half_over_r, -half_over_r])
    if len(nodes) == 2:
        return two
    if published:
        more = _published_3m(h, h_before, jnp.where(used[2], growth * (nodes[1] - nodes[2]), 1.0))
    else:
        more = integral_weights(process, "x0", "log-snr", t, s, nodes, used, growth)
    return jnp.where(used[2], more, jnp.pad(two, (0, len(nodes) - 2)))


def _published_3m(h: Array, past: Array, before: Array) -> Array:
    """3M as other libraries have it, with the divided second difference, f''/2, in place of f''."""
    total = -jnp.expm1(-h)
    first_moment = 1 - total / h
    second_moment = first_moment / h - 0.5
    r0, r1 = past / h, before / h
    # With d0 = (m0 − m1)/r0 and d1 = (m1 − m2)/r1, the derivative is d0 + (d0 − d1) r0/(r0 + r1).
    mix = 1 / (r0 + r1)
    d0 = first_moment * (1 + r0 * mix) - second_moment * mix
    d1 = second_moment * mix - first_moment * r0 * mix
    return jnp.stack([total + d0 / r0, -d0 / r0 + d1 / r1, -d1 / r1])
