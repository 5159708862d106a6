"""Multistep exponential integrators: one denoiser call a step, and a polynomial through the last predictions."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import safe_sqrt
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree, static
from samplers.exponential import (
    Form,
    Variable,
    exponential_step,
    half_log_snr,
    integral_weights,
    last_values,
    node,
    remember,
    single_step,
    transfer,
)
from samplers.sample import Sampler, require_continuous

Start = Literal["single-step", "lower-order"]


class Multistep(Sampler):
    """What the multistep methods share: the history, the start, and the first order at the ends of time.

    A method of order p needs p − 1 predictions before this one. It starts, with `start` "single-step", by one step of
    order p − 1 that costs p − 2 more denoiser calls, so that it has order p as a whole; with "lower-order" the first
    steps are those of the lower orders, which is free and leaves order 2 for any p > 2, as the first step's error
    does not vanish.
    """

    start: Start

    @property
    def form(self) -> Form:
        """The prediction that is integrated."""
        raise NotImplementedError

    @property
    def variable(self) -> Variable:
        """The polynomial's variable."""
        raise NotImplementedError

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """The weight of each prediction, this step's first."""
        return integral_weights(process, self.form, self.variable, t, s, nodes, used)

    @property
    def extra(self) -> int:
        """Denoiser calls that the start costs."""
        return max(self.order - 2, 0) if self.start == "single-step" else 0

    @property
    def stated_order(self) -> int:
        """`order`, or 2 at most when it starts by the lower orders."""
        return self.order if self.start == "single-step" else min(self.order, 2)

    def nfe(self, steps: int, to_data: bool) -> int:
        """One a step, and those of the start unless the only step is the one onto the data."""
        return steps + (self.extra if steps - int(to_data) > 0 else 0)

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for fewer steps than the order needs."""
        del process
        if len(grid) - 1 < self.order:
            raise ValueError(
                f"grid has {len(grid) - 1} step(s), and order {self.order} needs at least {self.order}; "
                f"add steps or use a lower order."
            )

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """No predictions yet."""
        del grid
        return last_values(x.shape, self.order - 1, x.dtype)

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
        x_0 = denoise(x, t)
        value = x_0 if self.form == "x0" else (x - process.alpha(t) * x_0) / process.sigma(t)
        places, values, count = carry
        here, starts = node(process, self.variable, t), jnp.isfinite(half_log_snr(process, t))
        inside = starts & (process.sigma(s) > 0)
        # Where λ is infinite the weights are not numbers; what stands there instead is thrown away.
        safe_t, safe_s = jnp.where(inside, t, 0.7 * process.t_max), jnp.where(inside, s, 0.6 * process.t_max)

        def multistep() -> tuple[Array, Any]:
            nodes = jnp.concatenate([node(process, self.variable, safe_t)[None], places])
            used = jnp.arange(self.order) <= count
            weights = self.coefficients(process, safe_t, safe_s, nodes, used)
            moved = self.advance(keys, x, value, values, weights, safe_t, safe_s, process)
            return jnp.where(inside, moved, self.at_an_end(x, x_0, t, s, process)), remember(carry, here, value, starts)

        if self.extra == 0:
            return multistep()

        def begin() -> tuple[Array, Any]:
            moved, place, there = single_step(process, denoise, self.form, x, value, safe_t, safe_s, self.order - 1)
            history = remember(carry, here, value, starts)
            if self.order > 3:  # two predictions, of which the nearer one is remembered last
                history = remember(history, node(process, self.variable, place), there, starts)
            return moved, history

        return jax.lax.cond(inside & (count == 0), begin, multistep)

    def advance(
        self, keys: Array, x: Array, value: Array, values: Array, weights: Array, t: Array, s: Array, process: Process
    ) -> Array:
        """x_s from this prediction and the last ones."""
        del keys
        return transfer(process, self.form, x, t, s, weights, jnp.concatenate([value[None], values]))

    def at_an_end(self, x: Array, x_0: Array, t: Array, s: Array, process: Process) -> Array:
        """The step where λ is infinite at one end: DDIM's."""
        return exponential_step(process, x, x_0, t, s)


def _check_order(name: str, order: Any, highest: int) -> None:
    if isinstance(order, int) and not 1 <= order <= highest:
        raise ValueError(f"order = {order}; {name} has the orders 1 to {highest}.")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if isinstance(value, str) and value not in choices:
        raise ValueError(f"{name} = {value!r}; choose {' or '.join(choices)}.")


@pytree
class DEIS(Multistep):
    """Adams-Bashforth on ε̂: x_s = (α_s/α_t) x_t + α_s ∫ P dρ, ρ = σ/α, P the polynomial through the last ε̂.

    (Zhang & Chen 2023, arXiv:2204.13902, eq. 15, the integral exact.) `polynomial` says in what P is a polynomial:
    time (tAB-DEIS), rho (ρAB) or log-rho.
    """

    order: int = static(default=3)  # pyright: ignore[reportIncompatibleVariableOverride]
    """1 is DDIM; up to 4."""
    polynomial: Literal["time", "rho", "log-rho"] = static(default="time")
    """The variable of the polynomial."""
    start: Start = static(default="single-step")
    """How it starts: by a step of one order less, or by the lower orders."""

    def __post_init__(self) -> None:
        _check_order("DEIS", self.order, 4)
        _check_choice("polynomial", self.polynomial, ("time", "rho", "log-rho"))
        _check_choice("start", self.start, ("single-step", "lower-order"))

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for too few steps, and TypeError for a polynomial in the time of a discrete chain."""
        super().check(process, grid)
        if self.polynomial == "time":
            require_continuous(process, "DEIS with a polynomial in time")

    @property
    def form(self) -> Form:
        """ε̂."""
        return "eps"

    @property
    def variable(self) -> Variable:
        """As chosen."""
        return self.polynomial


# Adams-Bashforth with equal steps, this step's prediction first.
_ADAMS_BASHFORTH = np.asarray(
    [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
)


@pytree
class IPNDM(Multistep):
    """Adams-Bashforth's fixed coefficients on ε̂, in DDIM's step: x_s = (α_s/α_t) x_t + α_s (ρ_s − ρ_t) Σ a_j ε̂_j.

    (Zhang & Chen 2023, arXiv:2204.13902, section 3.3, after Liu et al. 2022, arXiv:2202.09778.) The coefficients are
    those of equal steps in ρ = σ/α; on such a grid this is `DEIS` in ρ, on any other the order is 2 at most.
    """

    order: int = static(default=4)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Number of predictions in the sum, 1 (DDIM) to 4."""

    def __post_init__(self) -> None:
        _check_order("iPNDM", self.order, 4)

    @property
    def start(self) -> Start:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the lower orders, as published."""
        return "lower-order"

    @property
    def stated_order(self) -> int:
        """2 at most, on a grid of any shape."""
        return min(self.order, 2)

    @property
    def form(self) -> Form:
        """ε̂."""
        return "eps"

    @property
    def variable(self) -> Variable:
        """ρ."""
        return "rho"

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """(ρ_s − ρ_t) a_j, with as many predictions as there are."""
        del nodes
        table = jnp.asarray(_ADAMS_BASHFORTH[: self.order, : self.order], half_log_snr(process, t).dtype)
        return (node(process, "rho", s) - node(process, "rho", t)) * table[jnp.sum(used) - 1]


@pytree
class DPMSolverMultistep(Multistep):
    """DPM-Solver++ (2M, 3M), exponential Adams-Bashforth on x̂_0: x_s = (σ_s/σ_t) x_t + α_s (1 − e^{−h}) D.

    2M: D = x̂_0 + (h/2h₋)(x̂_0 − x̂_0₋), with h = λ_s − λ_t and h₋ the last step's (Lu et al. 2022, arXiv:2211.01095,
    algorithm 2). 3M integrates the parabola through the last three x̂_0 exactly and has order 3; the coefficients in use
    elsewhere halve its second difference and have order 2: `published` takes those. Of first order, as DDIM, are the
    steps that touch σ = 0 or α = 0, where λ is infinite.
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """1 is DDIM, 2 is 2M, 3 is 3M."""
    published: bool = static(default=False)
    """At order 3, take the coefficients of other libraries, which have order 2."""
    start: Start = static(default="single-step")
    """How order 3 starts: by a step of order 2, or by one of order 1."""

    def __post_init__(self) -> None:
        _check_order("DPMSolverMultistep", self.order, 3)
        _check_choice("start", self.start, ("single-step", "lower-order"))

    @property
    def stated_order(self) -> int:
        """That of the rule and of the start, whichever is less."""
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
class SDEDPMSolver(Multistep):
    """SDE-DPM-Solver++ (1, 2M, 3M): DPM-Solver++ on the reverse SDE with σ̃ = level · g.

    With h = λ_s − λ_t, η = level² and D as in `DPMSolverMultistep` with (1 + η)h in the place of h,

        x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s (1 − e^{−(1+η)h}) D + σ_s √(1 − e^{−2ηh}) n

    (Lu et al. 2022, arXiv:2211.01095, appendix A, at η = 1.) The weak order is 1, whatever `order`: x̂_0 is rough along
    a noisy path. A higher `order` has a smaller error all the same.
    """

    order: int = static(default=2)  # pyright: ignore[reportIncompatibleVariableOverride]
    """1, 2 (2M) or 3 (3M)."""
    level: float = 1.0
    """How noisy: σ̃/g. 0 is the ODE, 1 the reverse SDE."""

    def __post_init__(self) -> None:
        _check_order("SDEDPMSolver", self.order, 3)
        if is_concrete(self.level) and not self.level >= 0:
            raise ValueError(f"level = {self.level}; it must be 0 (the ODE) or more, 1 is the reverse SDE.")

    @property
    def stochastic(self) -> bool:
        """Whether level > 0."""
        return bool(self.level > 0)

    @property
    def stated_order(self) -> int:
        """1, weakly."""
        return 1

    @property
    def start(self) -> Start:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the lower orders."""
        return "lower-order"

    @property
    def form(self) -> Form:
        """x̂_0."""
        return "x0"

    @property
    def variable(self) -> Variable:
        """λ."""
        return "log-snr"

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, "SDE-DPM-Solver++")

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """2M's rule, or the exact integral of the parabola, at (1 + η)h."""
        return _data_weights(process, t, s, nodes, used, 1 + jnp.asarray(self.level, nodes.dtype) ** 2, False)

    def advance(
        self, keys: Array, x: Array, value: Array, values: Array, weights: Array, t: Array, s: Array, process: Process
    ) -> Array:
        """The exponential step, and its noise."""
        exponent = jnp.asarray(self.level, t.dtype) ** 2 * (half_log_snr(process, s) - half_log_snr(process, t))
        stacked = jnp.concatenate([value[None], values])
        moved = transfer(process, "x0", x, t, s, weights, stacked, decay=jnp.exp(-exponent))
        noise = keys_lib.normal(keys, x.shape[1:], x.dtype)
        return moved + process.sigma(s) * safe_sqrt(-jnp.expm1(-2 * exponent)) * noise


def _data_weights(
    process: Process, t: Array, s: Array, nodes: Array, used: Array, growth: Any, published: bool
) -> Array:
    """The weights of DPM-Solver++ for as many predictions as there are nodes, with h `growth` times λ's."""
    h = growth * (half_log_snr(process, s) - half_log_snr(process, t))
    total = -jnp.expm1(-h)
    if len(nodes) == 1:
        return total[None]
    past = jnp.where(used[1], (nodes[0] - nodes[1]) * growth, 1.0)
    slope = jnp.where(used[1], 0.5 * h / past, 0.0)
    two = total * jnp.stack([1 + slope, -slope])
    if len(nodes) == 2:
        return two
    if published:
        three = _published_3m(h, past, jnp.where(used[2], (nodes[1] - nodes[2]) * growth, 1.0))
    else:
        three = integral_weights(process, "x0", "log-snr", t, s, nodes, used, growth)
    return jnp.where(used[2], three, jnp.append(two, 0.0))


def _published_3m(h: Array, past: Array, before: Array) -> Array:
    """3M as other libraries have it: its second difference is a divided one, f''/2, in the place of f''."""
    total = -jnp.expm1(-h)
    first_moment = 1 - total / h
    second_moment = first_moment / h - 0.5
    r0, r1 = past / h, before / h
    # With d0 = (m0 − m1)/r0 and d1 = (m1 − m2)/r1, the derivative is d0 + (d0 − d1) r0/(r0 + r1).
    mix = 1 / (r0 + r1)
    d0 = first_moment * (1 + r0 * mix) - second_moment * mix
    d1 = second_moment * mix - first_moment * r0 * mix
    return jnp.stack([total + d0 / r0, -d0 / r0 + d1 / r1, -d1 / r1])
