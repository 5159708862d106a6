"""Explicit Runge-Kutta rules for the probability-flow ODE, run along the clock of `Cosine`.

Time itself is a poor variable: under VP and VE σ' is infinite at t = 0. But every process is Cosine's up to a factor
and a clock: with c = √(α² + σ²) and τ = (2/π) atan(σ/α), y = x/c is cos(πτ/2) x_0 + sin(πτ/2) z, whose velocity

    dy/dτ = (π/2) (cos(πτ/2) E[z|x] − sin(πτ/2) E[x_0|x])

is smooth from the data, τ = 0, to pure noise, τ = 1 (for Gaussian noise, and data with a smooth density). So users
name times t, and the rules step in τ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from diffusion.arrays import expand, safe_sqrt
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree, short_repr, static
from diffusion.schedules import Cosine

State = tuple[Array, Array]
"""y (b, *event) and the k running integrals of the divergence (k, b)."""
Field = Callable[[State, Array], State]
"""d state/dτ at τ, a scalar or (b,)."""
Method = Literal["heun", "rk4"]


def clock(process: Process, t: ArrayLike) -> Float[Array, "..."]:
    """τ = (2/π) atan(σ/α), from 0 at the data to 1 where α = 0."""
    return Cosine().time_from_log_snr(process.schedule.log_snr(t))


def even_grid(
    process: Process, steps: int, t_start: float = 0.0, t_end: float | None = None
) -> Float[np.ndarray, " n"]:
    """`steps` + 1 ascending times evenly spaced in τ = (2/π) atan(σ/α), from `t_start` to `t_end`, t_max unless given.

    A good grid for data of unit scale. Raises ValueError when steps < 1 or the span does not fit.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}; a grid has at least one step.")
    t_end = float(process.t_max) if t_end is None else t_end
    require_span(process, t_start, t_end)
    times = np.array(_even_times(process, t_start, t_end, steps), np.float64)
    times[0], times[-1] = t_start, t_end
    return times


@functools.partial(jax.jit, static_argnames="steps")
def _even_times(process: Process, t_start: ArrayLike, t_end: ArrayLike, steps: int) -> Float[Array, " n"]:
    tau = jnp.linspace(clock(process, t_start), clock(process, t_end), steps + 1)
    return process.schedule.time_from_log_snr(Cosine().log_snr(tau))


class Path(NamedTuple):
    """Where an integration ended, for each element."""

    state: State
    """The state at the end of the path."""
    nfe: Int[Array, " b"]
    """The evaluations of the field."""
    finished: Bool[Array, " b"]
    """Whether it reached the end of its span."""

    __repr__ = short_repr


class Solver:
    """Integrates a field over a span of times [t_start, t_end], upwards or back."""

    def span(self, process: Process) -> tuple[Any, Any]:
        """(t_start, t_end)."""
        raise NotImplementedError

    def integrate(self, field: Field, state: State, process: Process, backward: bool = False) -> Path:
        """From t_start to t_end, or from t_end to t_start."""
        raise NotImplementedError


def require_span(process: Process, t_start: Any, t_end: Any) -> None:
    """Raise unless 0 <= t_start < t_end <= t_max: ValueError, or TypeError for a chain without an ODE."""
    if process.schedule.discrete:
        raise TypeError(
            f"the schedule is {type(process.schedule).__name__}, a discrete chain without an ODE; use a continuous "
            "schedule, or the ELBO of diffusion.ddpm."
        )
    if not is_concrete(t_start, t_end):
        return
    if not 0 <= t_start < t_end:
        raise ValueError(f"the span from {t_start:g} to {t_end:g} does not ascend from 0 or above; swap or mend it.")
    if is_concrete(process.t_max) and t_end > process.t_max * (1 + 1e-6):  # type: ignore[operator]
        raise ValueError(f"the span ends at {t_end:g}, beyond the schedule's last time {process.t_max:g}; end there.")


class _Tableau(NamedTuple):
    """Butcher's: stage i is at τ + c_i h and y + h Σ_j a_ij k_j, the step is y + h Σ b_i k_i."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray


def _tableau(rows: list[list[int | float]], b: list[int | float]) -> _Tableau:
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return _Tableau(a, np.asarray(b), a.sum(axis=1))


_RULES = {
    "heun": _tableau([[], [1]], [1 / 2, 1 / 2]),
    "rk4": _tableau([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}
_FIFTH = [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0]
_DORMAND_PRINCE = _tableau(
    [
        [],
        [1 / 5],
        [3 / 40, 9 / 40],
        [44 / 45, -56 / 15, 32 / 9],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
        _FIFTH[:-1],
    ],
    _FIFTH,
)
_FOURTH = np.array([5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40])
_ERROR = _DORMAND_PRINCE.b - _FOURTH


def _combine(weights: ArrayLike, slopes: State) -> State:
    """Σ_i weights_i k_i, in full precision, which a product of matrices would not have on an accelerator."""

    def one(k: Array) -> Array:
        return jnp.sum(jnp.asarray(weights, k.dtype).reshape((-1,) + (1,) * (k.ndim - 1)) * k, axis=0)

    return one(slopes[0]), one(slopes[1])


def _move(state: State, h: Array, slope: State) -> State:
    """state + h · slope, h a scalar or (b,)."""
    return state[0] + expand(h, state[0]) * slope[0], state[1] + h * slope[1]


def _stages(field: Field, state: State, tau: Array, h: Array, rule: _Tableau, first: State | None = None) -> State:
    """The slopes k_i, stacked; `first` is k_0 where it is known. A scan: the field is compiled once, not per stage."""
    count, start = len(rule.b), 0 if first is None else 1
    slopes: State = jax.tree.map(lambda v: jnp.zeros((count, *v.shape), v.dtype), state)
    if first is not None:
        slopes = jax.tree.map(lambda k, v: k.at[0].set(v), slopes, first)

    def stage(slopes: State, now: tuple[Array, Array, Array]) -> tuple[State, None]:
        i, row, c = now
        slope = field(_move(state, h, _combine(row, slopes)), tau + c * h)
        return jax.tree.map(lambda k, v: k.at[i].set(v), slopes, slope), None

    rows = jnp.arange(start, count), jnp.asarray(rule.a[start:], tau.dtype), jnp.asarray(rule.c[start:], tau.dtype)
    return jax.lax.scan(stage, slopes, rows)[0]


@pytree
class FixedStep(Solver):
    """One step of "heun" (order 2) or "rk4" (order 4) between neighbours of `times`, in one scan.

    `times` ascend from t_start to t_end; a sampler's grid is one of these reversed. The result is differentiable in
    either mode, and no error is estimated. Raises ValueError for a grid that does not ascend or another method.
    """

    times: Float[np.ndarray | Array, " n"]
    """The grid, from t_start to t_end."""
    method: Method = static(default="rk4")
    """The rule: "heun" or "rk4"."""

    def __post_init__(self) -> None:
        if isinstance(self.method, str) and self.method not in get_args(Method):
            raise ValueError(f"method = {self.method!r} is no fixed rule; choose one of {', '.join(get_args(Method))}.")
        if isinstance(self.times, (list, tuple)):
            raise TypeError(f"times is a {type(self.times).__name__}; give an array, np.asarray(times).")
        if isinstance(self.times, np.ndarray) and (
            self.times.ndim != 1 or self.times.size < 2 or not np.all(np.diff(self.times) > 0)
        ):
            raise ValueError(f"times = {self.times} do not ascend; give two or more, of a sampler's grid grid[::-1].")

    def span(self, process: Process) -> tuple[Any, Any]:
        """The first and the last time."""
        return self.times[0], self.times[-1]

    def integrate(self, field: Field, state: State, process: Process, backward: bool = False) -> Path:
        """2 or 4 evaluations for each step."""
        rule = _RULES[self.method]
        tau = clock(process, jnp.asarray(self.times, state[0].dtype))
        tau = tau[::-1] if backward else tau

        def step(state: State, ends: tuple[Array, Array]) -> tuple[State, None]:
            h = ends[1] - ends[0]
            return _move(state, h, _combine(rule.b, _stages(field, state, ends[0], h, rule))), None

        state = jax.lax.scan(step, state, (tau[:-1], tau[1:]))[0]
        batch = state[0].shape[0]
        nfe = (self.times.shape[0] - 1) * len(rule.b)
        return Path(state, jnp.full(batch, nfe), jnp.ones(batch, bool))


class _March(NamedTuple):
    """Where every element of a batch is, on its own steps."""

    state: State
    slope: State
    tau: Array
    step: Array
    tried: Array


@pytree
class Adaptive(Solver):
    """Dormand & Prince's 5(4) pair with a step of its own for each element of the batch (Hairer et al. 1993, II.5).

    A step is accepted when the error of y, root mean square over the event, and that of every integral of the
    divergence are below atol + rtol · size. So no element depends on its neighbours; the batch takes as long as its
    slowest element. Six evaluations for each step tried, and one more. Forward-mode differentiable only.
    Errors add up along the way: on mixtures in eight dimensions 1e-5 gives 3e-4 nats in 50 to 80 evaluations, 1e-7
    1.5e-6 nats in twice as many.
    """

    rtol: float = 1e-5
    """The tolerance relative to the size of what is integrated."""
    atol: float = 1e-5
    """The tolerance in the units of what is integrated."""
    t_start: float | None = None
    """The start of the span; None for the schedule's t_min, the smallest time a network is trained at. Known laws take
    0."""
    t_end: float | None = None
    """The end of the span; None for the schedule's t_max."""
    max_steps: int = static(default=1000)
    """The number of steps tried before giving up."""

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if is_concrete(value) and not value > 0:
                raise ValueError(f"{name} = {value}; a tolerance must be positive, usually 1e-5.")
        if is_concrete(self.max_steps) and self.max_steps < 1:
            raise ValueError(f"max_steps = {self.max_steps}; at least one step must be allowed, usually 1000.")

    def span(self, process: Process) -> tuple[Any, Any]:
        """(t_start, t_end) with their defaults."""
        start = process.t_min if self.t_start is None else self.t_start
        return start, process.t_max if self.t_end is None else self.t_end

    def integrate(self, field: Field, state: State, process: Process, backward: bool = False) -> Path:
        """From one end of the span to the other, by `between`."""
        start, end = (clock(process, jnp.asarray(t, state[0].dtype)) for t in self.span(process))
        return self.between(field, state, *((end, start) if backward else (start, end)))

    def between(self, field: Field, state: State, start: Float[Array, "..."], end: Float[Array, "..."]) -> Path:
        """From τ = `start` to τ = `end`, either of them a scalar or (b,).

        One `while_loop` over the batch; elements that have arrived, or given up, stay where they are.
        """
        batch = state[0].shape[0]
        tau, end = (jnp.broadcast_to(time, (batch,)) for time in (start, end))
        # A hundredth of the way: the controller corrects it within a few steps.
        march = _March(state, field(state, tau), tau, 0.01 * (end - tau), jnp.zeros(batch, int))

        def moving(march: _March) -> Array:
            return (march.tau != end) & (march.tried < self.max_steps)

        def advance(march: _March) -> _March:
            return self._advance(field, march, end, moving(march))

        march = jax.lax.while_loop(lambda march: jnp.any(moving(march)), advance, march)
        arrived = march.tau == end
        # No way at all for those that have arrived; of a path without length it is the derivative by its end.
        slope = jax.tree.map(lambda rate: jnp.where(jnp.isfinite(rate), rate, 0.0), march.slope)
        left = _move(march.state, jnp.where(arrived, end - march.tau, 0.0), slope)
        return Path(_where(arrived, left, march.state), 1 + 6 * march.tried, arrived)

    def _advance(self, field: Field, march: _March, end: Array, moving: Array) -> _March:
        """Try a step everywhere; take it where it is good enough."""
        left = end - march.tau
        last = jnp.abs(march.step) >= jnp.abs(left)
        h = jnp.where(moving, jnp.where(last, left, march.step), 0.0)
        slopes = _stages(field, march.state, march.tau, h, _DORMAND_PRINCE, march.slope)
        there = _move(march.state, h, _combine(_DORMAND_PRINCE.b, slopes))
        error = self._error(march.state, there, h, _combine(_ERROR, slopes))
        accept = moving & (error <= 1)
        # A step that is not finite is rejected, and tried again much smaller.
        grow = jnp.clip(0.9 * jnp.maximum(error, 1e-10) ** -0.2, 0.2, 5.0)
        grow = jnp.where(jnp.isfinite(grow), jnp.where(accept, grow, jnp.minimum(grow, 0.9)), 0.2)
        # A derivative is that of the steps as they are: that of their lengths is noise as large as the tolerance.
        grow = jax.lax.stop_gradient(grow)

        state = _where(accept, there, march.state)
        slope = _where(accept, (slopes[0][-1], slopes[1][-1]), march.slope)
        tau = jnp.where(accept, jnp.where(last, end, march.tau + h), march.tau)
        return _March(state, slope, tau, jnp.where(moving, h * grow, march.step), march.tried + moving)

    def _error(self, old: State, new: State, h: Array, slope: State) -> Float[Array, " b"]:
        """The largest of the errors over their tolerances, (b,)."""

        def scaled(old: Array, new: Array, error: Array) -> Array:
            return error / (self.atol + self.rtol * jnp.maximum(jnp.abs(old), jnp.abs(new)))

        y = scaled(old[0], new[0], expand(h, old[0]) * slope[0]).reshape(h.shape[0], -1)
        of_y = safe_sqrt(jnp.mean(y**2, axis=1))
        if not old[1].shape[0]:  # the derivative of a maximum over nothing is NaN
            return of_y
        return jnp.maximum(of_y, jnp.max(jnp.abs(scaled(old[1], new[1], h * slope[1])), axis=0))


def _where(mask: Array, new: State, old: State) -> State:
    """`new` for the elements in `mask`."""
    return jnp.where(expand(mask, old[0]), new[0], old[0]), jnp.where(mask, new[1], old[1])
