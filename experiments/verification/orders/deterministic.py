"""The orders of ODE samplers, from the distance to the exact end of the flow on grids of more and more steps."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array

from diffusion import Process
from experiments.verification.orders.problems import (
    LONG,
    PROCESSES,
    Spacing,
    apart,
    chosen,
    denoiser_of_both,
    grid_of,
    loop,
    observed_order,
    padded,
    problem,
    root_mean_square,
    side_by_side,
)
from samplers import (
    DDIM,
    DEIS,
    IPNDM,
    RK4,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    Heun,
    Midpoint,
    UniPC,
)
from samplers.sample import Sampler

STEPS = (40, 80, 160, 320)
PLACES = tuple((process, dimensions) for dimensions in (1, LONG) for process in PROCESSES)
"""The flows on which every sampler is measured, as (process, dimension)."""
COLUMNS = {"VP": ("VP", 1), "EDM": ("EDM", 1), "RectifiedFlow": ("RectifiedFlow", 1), "VP in 8-D": ("VP", LONG)}
"""The flows that are printed, by the heads of their columns."""


@dataclass(frozen=True)
class Case:
    """A sampler, and the grids on which its order shows."""

    name: str
    sampler: Sampler
    steps: tuple[int, ...] = STEPS
    """The numbers of steps, larger for a sampler that reaches its asymptote late."""
    even_in: Spacing = "log-snr"
    """The variable in which all steps of a grid are equal."""


_FINER = tuple(2 * steps for steps in STEPS)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("Euler", Euler()),
        Case("DDIM", DDIM()),
        Case("Midpoint (DPM-Solver-2)", Midpoint()),
        Case("Heun", Heun()),
        Case("RK4", RK4(), steps=(20, 40, 80, 160)),  # 320 steps reach the reference's own error
        Case("DPM-Solver-3", DPMSolverSinglestep(order=3, prediction="eps")),
        Case("DPM-Solver++(2S)", DPMSolverSinglestep(order=2)),
        Case("DPM-Solver++(3S)", DPMSolverSinglestep(order=3)),
        Case("DPM-Solver++(2M)", DPMSolverMultistep(order=2)),
        Case("DPM-Solver++(3M)", DPMSolverMultistep(order=3)),
        Case("DPM-Solver++ (order 4)", DPMSolverMultistep(order=4), steps=(160, 320, 640, 1280)),
        Case("DPM-Solver++(3M), published", DPMSolverMultistep(order=3, published=True)),
        Case("DEIS-2 (t)", DEIS(order=2, polynomial="time"), steps=_FINER),
        Case("DEIS-3 (t)", DEIS(order=3, polynomial="time"), steps=_FINER),
        Case("DEIS-4 (t)", DEIS(order=4, polynomial="time"), steps=_FINER),
        Case("DEIS-3 (ρ)", DEIS(order=3, polynomial="rho"), steps=_FINER),
        Case("DEIS-4 (ρ)", DEIS(order=4, polynomial="rho"), steps=_FINER),
        Case("DEIS-3 (ln ρ)", DEIS(order=3, polynomial="log-rho")),
        Case("DEIS-4 (ln ρ)", DEIS(order=4, polynomial="log-rho")),
        Case("iPNDM-2", IPNDM(order=2)),
        # Its fixed coefficients are those of even steps in ρ.
        Case("iPNDM-4", IPNDM(order=4), steps=(320, 640, 1280, 2560), even_in="rho"),
        Case("UniPC-1 (bh2)", UniPC(order=1)),
        Case("UniPC-2 (bh1)", UniPC(order=2, variant="bh1")),
        Case("UniPC-2 (bh2)", UniPC(order=2)),
        Case("UniPC-3 (bh2)", UniPC(order=3)),
        Case("UniPC-3 (varying)", UniPC(order=3, variant="varying")),
    )
}
"""All cases, by the names that are printed. A new sampler needs a line here or among the stochastic ones."""


def errors(case: Case) -> dict[tuple[str, int], list[float]]:
    """The root-mean-square errors at the end of each grid, by process and dimension; one program for all of them."""
    longest = max(case.steps)

    @jax.jit
    def run(process: Process, x: Array, grid: Array, steps: Array) -> Array:
        return loop(case.sampler, process, denoiser_of_both(process), x, grid, steps)

    found: dict[tuple[str, int], list[float]] = {place: [] for place in PLACES}
    for name, process in PROCESSES.items():
        problems = {dimensions: problem(name, dimensions) for dimensions in (1, LONG)}
        x = side_by_side(problems[1].start, problems[LONG].start)
        for steps in case.steps:
            end = run(chosen(name), x, padded(grid_of(process, steps, case.even_in), longest), steps)
            for dimensions, points in apart(np.asarray(end)).items():
                found[name, dimensions].append(root_mean_square(points, problems[dimensions].end))
    return found


@functools.cache
def measured(name: str) -> dict[tuple[str, int], float]:
    """The observed orders of one of `CASES` in float64, by process and dimension."""
    case = CASES[name]
    with jax.enable_x64(True):
        return {place: observed_order(case.steps, found) for place, found in errors(case).items()}


def cells(name: str) -> list[str]:
    """The row of one of `CASES`: its name, its stated order and its measured orders."""
    case, found = CASES[name], measured(name)
    return [name, f"{case.sampler.stated_order:g}", *(f"{found[place]:.2f}" for place in COLUMNS.values())]
