"""Accuracy for a number of denoiser calls: our ODE samplers on all grids, and those of other libraries on theirs.

The error is the root-mean-square distance from the exact solution of the probability-flow ODE at σ = 0, all from one x
at σ = 80 (`problems`). Everybody's last step goes onto σ = 0. A budget is a limit on calls, which are counted while the
samplers run. What the tables show is the best of everything that was tried, on both sides; the rows behind them,
each sampler on each grid, are in the JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.comparison.others import others, quietly
from benchmarks.comparison.problems import LAWS, PROCESS, Counted, Problem, problem, sibling
from diffusion import VP, Process, RectifiedFlow
from diffusion.prediction import transfer
from experiments.verification.orders.problems import run_on
from samplers import IPNDM, DPMSolverMultistep, grids, optimised_grid
from samplers.grids import Grid, host_float64
from samplers.registry import SAMPLERS, follows_flow
from samplers.sample import Sampler

BUDGETS = (5, 8, 10, 15, 20, 50)
OURS = "scorefield"

GRIDS: dict[str, Callable[[Problem, Sampler, int], Grid]] = {
    name: lambda problem, sampler, steps, make=make: make(problem.process, steps)
    for name, make in grids.GRIDS.items()
    if name not in ("leading", "trailing", "linspace")  # for chains
}
"""The grids that our samplers are tried on, σ from σ_max to 0: add one here. ValueError leaves a sampler out."""

FITTED = (
    DPMSolverMultistep(order=3, start="lower-order"),
    DPMSolverMultistep(order=4, start="lower-order"),
    IPNDM(order=3),
)
"""The samplers whose grid is fitted, for that takes time."""


@functools.cache
def _fitted(name: str, which: int, steps: int) -> Grid:
    denoise = sibling(name).denoiser(PROCESS)
    d = sibling(name).means.shape[-1]
    shape = (int(np.clip(4096 // d, 16, 128)), d)  # many coordinates average the error as many samples do
    return optimised_grid(jax.random.key(2), PROCESS, denoise, FITTED[which], steps, shape, rounds=15).grid


def fitted(problem: Problem, sampler: Sampler, steps: int) -> Grid:
    """The data-driven grid of a sampler, fitted to another law of the problem's kind; ValueError for other samplers."""
    if sampler not in FITTED:
        raise ValueError("not fitted")
    return _fitted(problem.name, FITTED.index(sampler), steps)


FITTED_GRID = "fitted elsewhere"
GRIDS[FITTED_GRID] = fitted

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dpm-singlestep": [{"order": p, "prediction": form} for p, form in itertools.product((2, 3), ("x0", "eps"))],
    "dpmpp-3m": [{}, {"start": "lower-order"}, {"published": True}]
    + [{"order": 4, "start": start} for start in ("single-step", "lower-order")],
    "deis": [{"order": 2, "polynomial": name} for name in ("rho", "log-rho")]
    + [
        {"order": p, "polynomial": name, "start": start}
        for p, name, start in itertools.product((3, 4), ("rho", "log-rho"), ("single-step", "lower-order"))
    ],
    "ipndm": [{"order": p} for p in (2, 3, 4)],
    "unipc": [{"order": p, "variant": kind} for p, kind in itertools.product((1, 2, 3), ("bh1", "bh2", "varying"))],
}
"""The options that each sampler of the registry is tried with, where its defaults are not all there is."""

ELSEWHERE: dict[str, tuple[Process, list[tuple[str, dict[str, Any]]]]] = {
    name: (
        process,
        [("heun", {}), ("rk4", {})] + [("deis", {"order": p, "polynomial": "time"}) for p in (2, 3, 4)],
    )
    for name, process in {"VP": Process(VP()), "RectifiedFlow": Process(RectifiedFlow())}.items()
}
"""Samplers whose result depends on the process's time, tried on other processes by `prediction.transfer`."""


@dataclass(frozen=True)
class Row:
    """One run."""

    problem: str
    origin: str
    sampler: str
    grid: str
    budget: int
    nfe: int
    """Calls that were made."""
    error: float
    """Not finite where the sampler failed."""
    median: float
    """The median over samples of the root-mean-square error of one: blind to the few that end in another hump."""


def variants() -> Iterator[tuple[str, Sampler, Process]]:
    """Our deterministic samplers: (name and options, sampler, the process that it runs on)."""
    for name, entry in SAMPLERS.items():
        sampler = entry.default()
        if follows_flow(sampler):
            for options in VARIANTS.get(name, [{}]):
                yield _label(name, options), entry.make(**{**entry.options, **options}), PROCESS
    for where, (process, samplers) in ELSEWHERE.items():
        for name, options in samplers:
            yield f"{_label(name, options)} on {where}", SAMPLERS[name].make(**options), process


def _label(name: str, options: dict[str, Any]) -> str:
    return name + (f"({', '.join('published' if v is True else str(v) for v in options.values())})" if options else "")


def steps_for(sampler: Sampler, budget: int) -> int:
    """The largest number of steps that needs at most `budget` calls, 0 for none."""
    return max((n for n in range(1, budget + 1) if sampler.nfe(n, True) <= budget), default=0)


def ours(where: Problem, budgets: Sequence[int], chosen: Sequence[str] | None = None) -> Iterator[Row]:
    """Our samplers, those with a label in `chosen` unless it is None, on all grids.

    Raises RuntimeError when the denoiser is called more or less often than the sampler says.
    """
    for label, sampler, process in variants():
        if chosen is not None and label not in chosen:
            continue
        counted = Counted(where)
        denoise = counted.traced if process is PROCESS else transfer(counted.traced, PROCESS, process)
        run = _runner(process, denoise, sampler, where)
        for budget, (name, make) in itertools.product(budgets, GRIDS.items()):
            steps = steps_for(sampler, budget)
            try:
                grid = make(where, sampler, steps)
                sampler.check(process, grid)
            except ValueError:  # fewer steps than the order needs
                continue
            counted.calls = 0
            found = run(np.pad(grid, (0, max(budgets) - steps), mode="edge"), steps)
            jax.effects_barrier()
            if counted.calls != sampler.nfe(steps, True):
                raise RuntimeError(f"{label}: {counted.calls} calls, where it says {sampler.nfe(steps, True)}.")
            yield _row(where, OURS, label, name, budget, counted.calls, found)


def _runner(process: Process, denoise: Any, sampler: Sampler, where: Problem) -> Callable[[Grid, int], np.ndarray]:
    """A function (σ on a padded grid, steps) -> x at σ = 0, on any process: x/α is the same at the same σ/α."""
    with host_float64():
        scale = float(process.alpha(_times(process, np.asarray([where.process.t_max]))[0]))
    run = run_on(process, denoise, sampler, jnp.asarray(scale * where.start))
    return lambda sigmas, steps: np.asarray(run(jnp.asarray(_times(process, sigmas)), steps))


def _times(process: Process, sigmas: np.ndarray) -> np.ndarray:
    if process is PROCESS:
        return sigmas
    with host_float64(), np.errstate(divide="ignore"):
        times = np.asarray(process.schedule.time_from_log_snr(jnp.asarray(-2 * np.log(sigmas))))
    return np.where(sigmas == 0, 0.0, times)


def theirs(where: Problem, budgets: Sequence[int]) -> Iterator[Row]:
    """The samplers of the libraries that are installed.

    Raises RuntimeError when one calls the denoiser more often than it may.
    """
    for other, budget in itertools.product(others()[0], budgets):
        counted = Counted(where)
        try:
            found = quietly(other, counted, where.start, budget)
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            print(f"{other.origin} {other.sampler} failed at {budget}: {error}", file=sys.stderr)
            found = np.full_like(where.start, np.nan)
        if counted.calls > budget:
            raise RuntimeError(f"{other.origin} {other.sampler}: {counted.calls} calls, and {budget} were allowed.")
        yield _row(where, other.origin, other.sampler, other.grid, budget, counted.calls, found)


def _row(where: Problem, library: str, sampler: str, grid: str, budget: int, calls: int, found: np.ndarray) -> Row:
    each = np.sqrt(np.mean((found - where.exact) ** 2, axis=1))
    error, median = math.sqrt(np.mean(each**2)), float(np.median(each))
    return Row(where.name, library, sampler, grid, budget, calls, error, median)


def measure(quick: bool = False) -> list[Row]:
    """All rows; when `quick`, those of two budgets in the plane, of our multistep methods alone and theirs."""
    names, budgets = (["2-D"], BUDGETS[:2]) if quick else (list(LAWS), BUDGETS)
    rows: list[Row] = []
    for line in others()[1]:
        print(line)
    with jax.enable_x64(True):
        for name in names:
            where = problem(name, 16 if quick else None)
            print(f"{name}: the exact answer is known to {where.uncertainty:.0e}", file=sys.stderr)
            rows += ours(where, budgets, ("dpmpp-2m", "ipndm(4)") if quick else None)
            rows += theirs(where, budgets)
    return rows


def best(rows: Sequence[Row], **wanted: Any) -> Row | None:
    """The row of the least error among those that have these values; a tuple of values is a choice."""

    def fits(row: Row) -> bool:
        return all(
            getattr(row, key) in (value if isinstance(value, tuple) else (value,)) for key, value in wanted.items()
        )

    return min((row for row in rows if math.isfinite(row.error) and fits(row)), key=lambda row: row.error, default=None)


def libraries(rows: Sequence[Row]) -> tuple[str, ...]:
    """The other libraries that there are rows of."""
    return tuple(dict.fromkeys(row.origin for row in rows if row.origin != OURS))


def table(rows: Sequence[Row]) -> str:
    """Our best and the others' best for each problem and budget, and their ratios with and without fitted grids."""
    columns = ["problem", "NFE", "ours", "error", "the best other", "error", "ratio", "ratio on fixed grids"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, budget in dict.fromkeys((row.problem, row.budget) for row in rows):
        wanted = {"problem": name, "budget": budget}
        first, second = best(rows, **wanted, origin=OURS), best(rows, **wanted, origin=libraries(rows))
        fixed = best(rows, **wanted, origin=OURS, grid=tuple(name for name in GRIDS if name != FITTED_GRID))
        cells = [name, str(budget), *_described(first, with_library=False), *_described(second)]
        lines.append("| " + " | ".join([*cells, _ratio(first, second), _ratio(fixed, second)]) + " |")
    return "\n".join(lines)


def _described(row: Row | None, with_library: bool = True) -> list[str]:
    if row is None:
        return ["none", ""]
    library = f"{row.origin} " if with_library else ""
    return [f"{library}{row.sampler}, {row.grid}", f"{row.error:.1e}"]


def _ratio(first: Row | None, second: Row | None) -> str:
    return "" if first is None or second is None else f"{first.error / second.error:.2f}"


def report(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for the JSON, which has no numbers that are not finite."""
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in dataclasses.asdict(row).items()
        }
        for row in rows
    ]
