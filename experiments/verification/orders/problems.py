"""The problems on which orders are measured: laws whose flow is known, processes, grids, and one compiled loop.

`samplers.sample` compiles for each process and each number of steps. Here the process is chosen by a traced number and
a grid is padded to the longest, so that a sampler takes one program; `tests/samplers/test_order.py` shows that its
steps are those of `sample`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from diffusion import EDM, VP, Process, RectifiedFlow, velocity
from diffusion import keys as keys_lib
from diffusion.oracles import GaussianMixture, flow_map_1d
from diffusion.oracles.examples import line, space
from diffusion.prediction import Denoiser
from diffusion.pytree import short_repr
from diffusion.schedules import Schedule
from experiments.verification.chosen import OneOf
from samplers.grids import Grid, host_float64
from samplers.sample import Sampler

Spacing = Literal["log-snr", "rho"]

SCHEDULES: dict[str, Schedule] = {"VP": VP(), "EDM": EDM(), "RectifiedFlow": RectifiedFlow()}
PROCESSES = {name: Process(schedule) for name, schedule in SCHEDULES.items()}
START, END = 5.0, 0.05
"""σ/α at the two ends of every grid: finite, so that only the rule of the sampler is measured."""
LONG = 8
"""The dimension of the space that is used besides the line."""
POINTS = {1: 16, LONG: 4}
"""How many points are taken down the flow, by dimension."""
LONGEST = 2560
"""The steps of the longest grid that an order is measured on."""


class Problem(NamedTuple):
    """A denoiser, points at the first time of every grid, and the points to which the exact flow takes them."""

    process: Process
    denoise: Denoiser
    start: Array
    """The points at the first time, (n, d)."""
    end: Array
    """The exact points at the last time, (n, d)."""

    __repr__ = short_repr


def law_in(dimensions: int) -> GaussianMixture:
    """The law on the line, or in space."""
    return line() if dimensions == 1 else space(dimensions)


def grid_of(process: Process, steps: int, even_in: Spacing = "log-snr", high: float = START, low: float = END) -> Grid:
    """`steps` even steps in log-SNR, or in ρ = σ/α, between two values of ρ: times (steps + 1,)."""
    spaced = np.geomspace if even_in == "log-snr" else np.linspace
    log_snr = -2 * np.log(spaced(high, low, steps + 1))
    with host_float64():
        # All as long as the longest, so that a schedule takes one program.
        times = _times(process.schedule, np.pad(log_snr, (0, max(0, LONGEST - steps)), mode="edge"))
    return np.asarray(times)[: steps + 1]


@jax.jit
def _times(schedule: Schedule, log_snr: Array) -> Array:
    return schedule.time_from_log_snr(log_snr)


def padded(grid: Grid, steps: int) -> Array:
    """A grid with its last time repeated, as long as one of `steps` steps: (steps + 1,)."""
    return jnp.asarray(np.pad(grid, (0, steps + 1 - len(grid)), mode="edge"))


@functools.cache
def problem(process_name: str, dimensions: int) -> Problem:
    """The problem with its exact end: by the quantile map on the line, in space by SciPy's DOP853, to 1e-12."""
    process, law, one = PROCESSES[process_name], law_in(dimensions), chosen(process_name)
    t, s = grid_of(process, 1)
    x = _drawn(law, one, POINTS[dimensions], t)
    denoise = law.denoiser(process)
    if dimensions == 1:
        return Problem(process, denoise, x, _carried(law, one, x, t, s))
    import scipy.integrate  # of the extras "bench" and "test"

    solution = scipy.integrate.solve_ivp(
        lambda u, y: np.asarray(_slope(law, one, y.reshape(x.shape), np.float64(u))).ravel(),
        (t, s),
        np.asarray(x).ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return Problem(process, denoise, x, jnp.asarray(solution.y[:, -1].reshape(x.shape)))


@functools.partial(jax.jit, static_argnames="count")
def _drawn(law: GaussianMixture, process: Process, count: int, t: Array) -> Array:
    return law.sample_marginal(jax.random.key(1), process, count, t)


_carried = jax.jit(flow_map_1d)


@jax.jit
def _slope(law: GaussianMixture, process: Process, x: Array, t: Array) -> Array:
    return velocity(process, law.denoiser(process))(x, t)


def chosen(process_name: str) -> Process:
    """One of `PROCESSES` as a `OneOf`, so that one program serves all of them."""
    return Process(OneOf(tuple(SCHEDULES.values()), jnp.asarray(list(SCHEDULES).index(process_name))))


def side_by_side(on_the_line: Any, in_space: Any) -> Array:
    """The points on the line (16, 1) and those in space (4, 8) as one array (4, 12).

    The numbers of a row are independent, four on the line and the eight of a point in space, so a sampler that takes
    every number by itself moves both laws' points in one program.
    """
    return jnp.concatenate([on_the_line.reshape(POINTS[LONG], -1), in_space], axis=1)


def apart(x: Any) -> dict[int, Array]:
    """The points that are `side_by_side` in x, by dimension."""
    return {1: x[:, :-LONG].reshape(-1, 1), LONG: x[:, -LONG:]}


def denoiser_of_both(process: Process) -> Denoiser:
    """The denoiser of points that are `side_by_side`; t is a scalar."""

    def denoise(x: Array, t: ArrayLike) -> Array:
        answers = {dim: law_in(dim).denoiser(process)(points, t) for dim, points in apart(x).items()}
        return side_by_side(answers[1], answers[LONG])

    return denoise


def loop(sampler: Sampler, process: Process, denoise: Denoiser, x: Array, grid: Array, steps: Any) -> Array:
    """x after `steps` steps of a sampler down a grid, which may be padded; `steps` may be traced."""
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(x.shape[0]))

    def body(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        moved, carry = state
        return sampler.step(keys_lib.fold(keys, i + 1), moved, carry, grid[i], grid[i + 1], process, denoise)

    return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]


def run_on(process: Process, denoise: Denoiser, sampler: Sampler, x: Array) -> Callable[[Array, Any], Array]:
    """A function (padded grid, its number of steps) -> x at its end, compiled once for each padded length."""
    return jax.jit(lambda grid, steps: loop(sampler, process, denoise, x, grid, steps))


def root_mean_square(found: Array, exact: Array) -> float:
    """√(mean of |found − exact|²), over samples and coordinates."""
    return float(np.sqrt(np.mean((np.asarray(found, np.float64) - np.asarray(exact, np.float64)) ** 2)))


def observed_order(steps: Sequence[int], errors: Sequence[float] | np.ndarray) -> float:
    """The slope of ln(error) against ln(1/steps), by least squares."""
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])
