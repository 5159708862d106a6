"""What each solver costs on a trained model, and how near to the model's own flow it comes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import keys as keys_lib
from diffusion.arguments import as_ids
from diffusion.prediction import Denoiser
from diffusion.process import Process, prior_sample
from diffusion.pytree import as_traced
from experiments import streams
from experiments.errors import UsageError
from experiments.progress import tracked
from experiments.runs import fitted_grids
from experiments.runs.load import training_part
from experiments.runs.model import Model, make_denoiser
from experiments.sampling.choice import BESPOKE, SamplerChoice
from experiments.sampling.solver import Solver, build, require_flow
from samplers.dpm_solver import DPMSolverMultistep
from samplers.grid_fit import reference_grid
from samplers.grids import GRIDS, Grid
from samplers.registry import SAMPLERS, follows_flow
from samplers.sample import Sampler, in_type_of

_LEVELS = 127.5
"""Levels of 0..255 in a unit of [-1, 1]."""


@dataclass(frozen=True)
class Row:
    """A solver on a grid: its cost for an image, and its distances from the fine solution."""

    sampler: str
    grid: str
    steps: int
    calls: int
    """Network calls for each image."""
    budget: int
    """The number of calls that it was allowed."""
    rms: float
    """Root mean square over all pixels of all images, in levels of 0..255; of points in their own units."""
    median: float
    """The median over images of that of one image."""
    worst: float
    """The largest distance of a pixel."""
    images_per_second: float


@dataclass(frozen=True)
class WorkPrecision:
    """What `work_precision` returns."""

    rows: tuple[Row, ...]
    """By budget, the least error first."""
    reference: str
    """How the fine solution was made."""
    uncertainty: float
    """The root mean square distance between the fine solution and one of half as many steps, in the rows' unit."""
    unit: str
    """Of the distances."""

    def best(self, budget: int) -> Row:
        """The row of least error among those of at most so many calls."""
        return min((row for row in self.rows if row.calls <= budget), key=lambda row: row.rms)


def work_precision(
    model: Model, budgets: Sequence[int], *, images: int = 32, seed: int = 0, names: Sequence[str] = (), fine: int = 200
) -> WorkPrecision:
    """The distance of every deterministic sampler on every grid from a fine solution of the model's own flow.

    All start from the same `images` draws of the prior, which `seed` decides, and a model with classes is asked for
    each of them in turn. The fine solution is DPM-Solver++(3M) on `fine` even steps in ln(α/σ); a chain is asked
    between its times for it, by `diffusion.continuous`, and for the samplers that `build` asks it there for. A sampler
    takes as many steps as its calls allow for each number in `budgets`; a grid that does not exist for it is left out,
    and one that `scorefield grid` has fitted to the run takes part. `names` chooses samplers, all unless given. Seconds
    are those of the steps alone, compiled before, for a batch of `images`.
    Raises UsageError for a model without a flow, a name that is not a deterministic sampler's, and numbers that nothing
    can be measured with.
    """
    streams.require_seed(seed)
    _check(model, budgets, images, fine, names)
    labels = jnp.asarray(np.resize(model.trained_classes, images), jnp.int32) if model.num_classes else None
    key = jax.random.fold_in(jax.random.key(seed), streams.WORK_PRECISION)
    shape, process = (images, *model.event_shape), model.process
    keys = keys_lib.sample_keys(key, as_ids(None, images))
    start = prior_sample(keys, process, shape, process.t_max)
    flow = _Walk(model.flow.process, make_denoiser(model.flow, labels), keys, start)
    walk = _Walk(process, make_denoiser(model, labels), keys, start) if process.schedule.discrete else flow
    target, coarser, reference = _fine(flow, model.flow.process, fine)
    scale, unit = (1.0, "units of the data") if model.of_points else (_LEVELS, "levels of 0..255")
    rows = []
    for budget, name, grid, solver in tracked(list(_solvers(model, budgets, names)), "solvers and grids"):
        end, seconds = (flow if solver.between else walk)(solver.sampler, solver.grid)
        each = scale * np.abs(np.asarray(end, np.float64) - target).reshape(images, -1)
        squares = np.mean(each**2, axis=1)
        rows.append(
            Row(
                sampler=name,
                grid=grid,
                steps=len(solver.grid) - 1,
                calls=solver.sampler.calls(process, solver.grid),
                budget=budget,
                rms=_finite(math.sqrt(np.mean(squares))),
                median=_finite(math.sqrt(np.median(squares))),
                worst=_finite(float(np.max(each))),
                images_per_second=images / seconds,
            )
        )
    rows.sort(key=lambda row: (row.budget, row.rms))
    apart = scale * math.sqrt(np.mean((coarser - target) ** 2))
    return WorkPrecision(tuple(rows), reference, apart, unit)


def _check(model: Model, budgets: Sequence[int], images: int, fine: int, names: Sequence[str]) -> None:
    for flag, value, least in (("--images", images, 2), ("--reference-steps", fine, 10)):
        if value < least:
            raise UsageError(f"{flag} is {value}; give at least {least}.")
    if not budgets or min(budgets) < 1:
        raise UsageError(
            f"--steps is {', '.join(map(str, budgets)) or 'empty'}; give numbers from 1 on, such as 5,10,20."
        )
    require_flow(model)
    known = [*deterministic(), BESPOKE]
    for name in names:
        if name not in known:
            raise UsageError(f"--samplers has {name}, which is no deterministic sampler; choose {', '.join(known)}.")


def deterministic() -> list[str]:
    """The names of the samplers that follow the probability flow."""
    return [name for name, entry in SAMPLERS.items() if follows_flow(entry.default())]


def _solvers(model: Model, budgets: Sequence[int], names: Sequence[str]) -> Iterator[tuple[int, str, str, Solver]]:
    """(Budget, sampler, grid, solver) of all that go together."""
    for name in names or (*deterministic(), BESPOKE):
        for budget in budgets:
            sampler = None if name == BESPOKE else SAMPLERS[name].default()
            steps = budget if sampler is None else _steps_for(sampler, budget)
            for grid in ("fitted",) if sampler is None else (*GRIDS, "fitted"):
                choice = SamplerChoice.of(model.config, name, steps=max(steps, 1), grid=grid)
                try:
                    solver = build(choice, model, training_part(model), given_class=model.num_classes > 0)
                except UsageError:  # a grid, or a number of steps, that does not exist for it, or was not fitted
                    if grid == "fitted" and _is_kept(choice, model):  # and cannot be used
                        raise
                    continue
                process = (model.flow if solver.between else model).process
                if solver.sampler.calls(process, solver.grid) <= budget:
                    yield budget, name, grid, solver


def _is_kept(choice: SamplerChoice, model: Model) -> bool:
    run = choice.run or model.path
    return run is not None and fitted_grids.is_kept(run, choice.name, choice.options, choice.steps)


def _steps_for(sampler: Sampler, budget: int) -> int:
    """The largest number of steps that needs at most so many calls, 0 for none."""
    return max((steps for steps in range(1, budget + 1) if sampler.nfe(steps, True) <= budget), default=0)


class _Walk:
    """Runs samplers from one start, step by step, so that a sampler is compiled once for all grids and numbers."""

    def __init__(self, process: Process, denoise: Denoiser, keys: Any, start: Array) -> None:
        self.process, self.denoise, self.keys, self.start = as_traced(process), as_traced(denoise), keys, start
        self._compiled: set[Any] = set()

    def __call__(self, sampler: Sampler, grid: Grid) -> tuple[Array, float]:
        """(Where it ends, the seconds that it took once it was compiled)."""
        times = jnp.asarray(grid, self.start.dtype)
        traced = as_traced(sampler)
        kind = jax.tree.structure(traced), tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(traced))
        if kind not in self._compiled:
            self._run(traced, times[: min(3, len(times))])
            self._compiled.add(kind)
        begun = time.perf_counter()
        x = self._run(traced, times)
        return x, time.perf_counter() - begun

    def _run(self, sampler: Any, times: Array) -> Array:
        x, carry = self.start, sampler.init(self.start, times)
        for t, s in itertools.pairwise(times):
            x, carry = _step(self.process, self.denoise, sampler, self.keys, x, carry, t, s)
        return jax.block_until_ready(x)


@jax.jit
def _step(process: Any, denoise: Any, sampler: Any, keys: Any, x: Array, carry: Any, t: Array, s: Array) -> Any:
    return sampler.step(keys, x, carry, t, s, process, in_type_of(x, denoise, sampler))


def _fine(walk: _Walk, process: Process, steps: int) -> tuple[np.ndarray, np.ndarray, str]:
    """(The fine solution, one of half as many steps, how it was made)."""
    sampler = DPMSolverMultistep(order=3, start="lower-order")
    grids = [reference_grid(process, count) for count in (steps, steps // 2)]
    ends = [np.asarray(walk(sampler, grid)[0], np.float64) for grid in grids]
    return ends[0], ends[1], f"DPM-Solver++(3M) in {steps} even steps of ln(α/σ)"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def as_json(found: WorkPrecision) -> dict[str, Any]:
    """JSON values; an error that is not finite is None."""
    rows = [
        {key: None if value == math.inf else value for key, value in dataclasses.asdict(row).items()}
        for row in found.rows
    ]
    return {"rows": rows, "reference": found.reference, "uncertainty": found.uncertainty, "unit": found.unit}
