"""The orders of SDE samplers: weakly, by exact moments on a Gaussian law; strongly, along one Brownian path.

On a Gaussian law every step is linear, x_s = c x_t + d + w n. So the mean and the variance of a sampler's output follow
a recursion, m <- c m + d and v <- c² v + w², and are compared with those of the law at the last time: no random number
enters the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import Process
from diffusion import keys as keys_lib
from diffusion.brownian import BrownianIncrement
from diffusion.ddpm.reverse_steps import FixedLarge
from diffusion.oracles import GaussianLaw
from diffusion.oracles.examples import line
from experiments.verification.orders.problems import PROCESSES, chosen, grid_of, observed_order, padded
from samplers import (
    DDIM,
    ERSDE,
    Ancestral,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    SDEDPMSolver,
    StochasticHeun,
    streams,
)
from samplers.grids import Grid
from samplers.sample import Sampler, path_clock

MEAN, STD = 0.7, 0.6
WEAK_STEPS = (40, 80, 160, 320)
STRONG_STEPS, REFERENCE = (16, 32, 64, 128), 1024
STRONG_PROCESSES = ("VP", "EDM")
KEY, BATCH = jax.random.key(0), 64


@dataclass(frozen=True)
class Case:
    """A sampler, and the orders that are measured of it."""

    name: str
    sampler: Sampler
    weak: bool = True
    strong: bool = False
    own_limit: bool = False
    """Whether the sampler solves an SDE of its own, so that its path ends elsewhere than that of the reverse SDE."""


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("Ancestral (β̃)", Ancestral(), strong=True),
        Case("Ancestral (β)", Ancestral(FixedLarge())),
        Case("DDIM (η = 0.5)", DDIM(eta=0.5)),
        Case("Euler-Maruyama", EulerMaruyama(), strong=True),
        Case("Euler-Maruyama (level 1.5)", EulerMaruyama(level=1.5)),
        Case("Heun with churn", Heun(S_churn=4.0)),
        Case("Reverse diffusion", PredictorCorrector(corrections=0)),
        Case("Stochastic Heun", StochasticHeun(), strong=True),
        Case("Stochastic Heun (level 1.4)", StochasticHeun(level=1.4)),
        Case("SDE-DPM-Solver++(1)", SDEDPMSolver(order=1)),
        Case("SDE-DPM-Solver++(1) (level 0.5)", SDEDPMSolver(order=1, level=0.5)),
        Case("ER-SDE-1", ERSDE(order=1)),
        Case("DDIM (η = 1)", DDIM(eta=1.0), weak=False, strong=True),
        Case("SDE-DPM-Solver++(2M)", SDEDPMSolver(), weak=False, strong=True),
        Case("ER-SDE-3", ERSDE(), weak=False, strong=True, own_limit=True),
    )
}
"""All cases, by the names that are printed. A new sampler needs a line here or among the deterministic ones."""


def _coefficients(sampler: Sampler) -> Callable[[str, Grid], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function (process, grid) -> (c, d, w) of every step, from three starts, two of which share their noise."""
    x, keys = jnp.asarray([[0.0], [1.0], [0.0]]), keys_lib.sample_keys(jax.random.key(0), jnp.asarray([0, 0, 1]))
    draws = keys_lib.normal(keys, (1,))[:, 0]
    law = GaussianLaw.isotropic(np.asarray([MEAN]), STD)

    @jax.jit
    def ends_of_steps(process: Process, starts: Array, stops: Array, carry: Any) -> Array:
        denoise = law.denoiser(process)
        return jax.vmap(lambda t, s: sampler.step(keys, x, carry, t, s, process, denoise)[0][:, 0])(starts, stops)

    def of_grid(process_name: str, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        times, carry = padded(grid, max(WEAK_STEPS)), sampler.init(x, jnp.asarray(grid))
        ends = ends_of_steps(chosen(process_name), times[:-1], times[1:], carry)[: len(grid) - 1]
        w = (ends[:, 2] - ends[:, 0]) / (draws[2] - draws[0])
        return np.asarray(ends[:, 1] - ends[:, 0]), np.asarray(ends[:, 0] - w * draws[0]), np.asarray(w)

    return of_grid


def weak_errors(sampler: Sampler) -> dict[str, np.ndarray]:
    """|mean − exact| and |variance − exact| at the end of each grid, (4, 2), by process; all share one program."""
    step_coefficients, found = _coefficients(sampler), {}
    for name, process in PROCESSES.items():
        errors = []
        for grid in (grid_of(process, steps) for steps in WEAK_STEPS):
            alphas, sigmas = np.asarray(process.alpha(grid)), np.asarray(process.sigma(grid))
            means, variances = alphas * MEAN, alphas**2 * STD**2 + sigmas**2
            mean, variance = means[0], variances[0]
            for c, d, w in zip(*step_coefficients(name, grid), strict=True):
                mean, variance = c * mean + d, c**2 * variance + w**2
            errors.append([abs(mean - means[-1]), abs(variance - variances[-1])])
        found[name] = np.asarray(errors)
    return found


def weak_orders(errors: np.ndarray) -> tuple[float, float]:
    """The observed orders of the mean and of the variance."""
    mean, variance = (observed_order(WEAK_STEPS, np.maximum(column, 1e-16)) for column in errors.T)
    return mean, variance


def start(process_name: str) -> Array:
    """Points of a mixture's marginal at the first time, (64, 1)."""
    process = PROCESSES[process_name]
    return line().sample_marginal(jax.random.key(1), process, BATCH, grid_of(process, 1)[0])


@functools.cache
def run_on_paths(sampler: Sampler) -> Callable[[str, int], Array]:
    """A function (process, steps) -> x after these steps, compiled once: `sample` on a padded grid."""
    keys = keys_lib.sample_keys(KEY, jnp.arange(BATCH))
    paths = keys_lib.fold(keys, streams.PATH)

    @jax.jit
    def run(process: Process, x: Array, grid: Array, steps: Array) -> Array:
        clock, denoise = path_clock(process, grid), line().denoiser(process)

        def body(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            draws = BrownianIncrement(keys_lib.fold(keys, i + 1), paths, clock[i], clock[i + 1])
            return sampler.step(draws, *state, grid[i], grid[i + 1], process, denoise)

        return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]

    def of_steps(process_name: str, steps: int) -> Array:
        grid = padded(grid_of(PROCESSES[process_name], steps), REFERENCE)
        return run(chosen(process_name), start(process_name), grid, steps)

    return of_steps


@functools.cache
def reference(process_name: str, of_its_own: Sampler | None = None) -> Array:
    """x at the end of the path of the reverse SDE, or of the SDE that this sampler solves."""
    return run_on_paths(of_its_own or StochasticHeun())(process_name, REFERENCE)


def strong_errors(case: Case, process_name: str) -> list[float]:
    """The median distances from the path's end; not the means, as some paths pass between the humps."""
    run, exact = run_on_paths(case.sampler), reference(process_name, case.sampler if case.own_limit else None)
    return [float(jnp.median(jnp.abs(run(process_name, steps) - exact))) for steps in STRONG_STEPS]


@dataclass(frozen=True)
class Errors:
    """The measured errors of a case, by process; empty for an order that is not measured."""

    weak: dict[str, np.ndarray]
    """The errors of the mean and of the variance, (4, 2)."""
    strong: dict[str, list[float]]
    """The median distances from the path's end."""


@functools.cache
def measured(name: str) -> Errors:
    """The errors of one of `CASES`, in float64."""
    case = CASES[name]
    with jax.enable_x64(True):
        weak = weak_errors(case.sampler) if case.weak else {}
        strong = {process: strong_errors(case, process) for process in STRONG_PROCESSES} if case.strong else {}
    return Errors(weak, strong)


def cells(name: str) -> list[str]:
    """The row of one of `CASES`: stated weak order and that of the variance, stated strong order and the measured ones.

    An order that is not measured leaves its cell empty.
    """
    sampler, found = CASES[name].sampler, measured(name)
    weak = {process: f"{weak_orders(errors)[1]:.2f}" for process, errors in found.weak.items()}
    strong = {process: f"{observed_order(STRONG_STEPS, errors):.2f}" for process, errors in found.strong.items()}
    return [
        name,
        f"{sampler.stated_order:g}",
        *(weak.get(process, "") for process in PROCESSES),
        f"{sampler.strong_order:g}" if sampler.strong_order else "none",
        *(strong.get(process, "") for process in STRONG_PROCESSES),
    ]
