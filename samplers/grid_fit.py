"""A time grid fitted to a denoiser: the N steps of one sampler that end nearest to the exact flow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from diffusion import keys as keys_lib
from diffusion.arguments import as_denoiser, as_ids, as_key, as_shape, require_process
from diffusion.prediction import Denoiser
from diffusion.process import Process, prior_sample
from diffusion.pytree import as_traced, short_repr
from samplers.dpm_solver import DPMSolverMultistep
from samplers.grids import Grid, as_times, check_grid, cosine, karras, uniform_log_snr, uniform_time
from samplers.sample import Sampler, require_continuous, require_sampler, run_steps
from samplers.smooth_grids import SmoothGrids, levenberg_marquardt

# The number of fixed grids that the search begins from.
_STARTS = 3


class OptimisedGrid(NamedTuple):
    """What `optimised_grid` returns."""

    grid: Grid
    """N + 1 descending times."""
    error: float
    """Root mean square, over samples and coordinates, of x(grid) − x(reference), in units of the data."""
    error_before: float
    """The same on the best fixed grid, where the search began."""
    before: str
    """The name of that grid."""

    __repr__ = short_repr


def optimised_grid(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    sampler: Sampler,
    steps: int,
    shape: tuple[int, ...],
    *,
    reference_steps: int = 200,
    rounds: int = 30,
    candidates: Mapping[str, Grid] | None = None,
) -> OptimisedGrid:
    """The grid of `steps` steps that minimises E |x(grid) − x(reference)|², from the same draws x_T of the prior.

    x(grid) are `shape` = (batch, *event) samples of a deterministic `sampler`; x(reference) those of DPM-Solver++(3M)
    on `reference_steps` even steps in ln(α/σ), which stands for the exact flow. The minimum is one over smooth grids,
    whose density in ln(α/σ) is the exponential of a polynomial of degree 4 and which end anywhere above t_min: five
    numbers, found by the Levenberg-Marquardt method with Jacobians in forward mode, from the three best of the fixed
    grids or of `candidates`. So few generalise; one for each time would fit the way in which errors happen to cancel.
    The result is never worse than the candidates on the draws that it was fitted to. (The aim is that of Tong et al.
    2024, arXiv:2405.15506.)

    A grid belongs to the denoiser, the sampler and the number of steps. Costs up to 30 · rounds runs of the sampler,
    half of them with a derivative.
    Raises ValueError for a stochastic sampler, fewer than two steps, or candidates that do not fit; TypeError on a
    discrete chain.
    """
    require_continuous(require_process(process), "optimised_grid")
    require_sampler(sampler, process)
    shape, denoise = as_shape(shape), as_denoiser(denoise)
    if sampler.stochastic:
        raise ValueError(
            f"{type(sampler).__name__} with these options is stochastic, and has no flow to be near to; "
            "fit the grid of a deterministic sampler."
        )
    if steps < 2:
        raise ValueError(f"steps = {steps}; a grid of one step has no time to choose, give 2 or more.")
    keys = keys_lib.sample_keys(as_key(key), as_ids(None, shape[0]))
    given = fixed_grids(process, steps) if candidates is None else candidates
    starts = {name: as_times(grid) for name, grid in given.items()}
    if not starts:
        raise ValueError("candidates is empty; leave it out, or give a grid to begin from.")
    for name, grid in starts.items():
        check_grid(process, grid)
        if len(grid) != steps + 1 or grid[-1] != 0 or not np.isclose(grid[0], float(process.t_max)):
            raise ValueError(
                f"the candidate {name} has {len(grid) - 1} steps from {grid[0]:g} to {grid[-1]:g}; "
                f"give {steps} from {float(process.t_max):g} to 0."
            )
        sampler.check(process, grid)
    x = prior_sample(keys, process, shape, process.t_max)
    fine = jnp.asarray(reference_grid(process, reference_steps))
    target = run_steps(process, denoise, DPMSolverMultistep(order=3), fine, x)
    problem = _Problem(as_traced(process), denoise, as_traced(sampler), x, target)

    errors = {name: problem.cost(grid) for name, grid in starts.items()}
    errors = {name: error if np.isfinite(error) else np.inf for name, error in errors.items()}
    before = min(errors, key=lambda name: errors[name])
    family = SmoothGrids(process, steps)

    def normal_equations(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return problem.normal_equations(family.grid(parameters), family.jacobian(parameters, family.grid))

    def cost_of(parameters: np.ndarray) -> float:
        return problem.cost(family.grid(parameters))

    found = [(errors[before], starts[before])]
    for name in sorted(starts, key=lambda name: errors[name])[:_STARTS]:
        start = family.nearest(starts[name])
        fitted, cost = levenberg_marquardt(start, cost_of(start), cost_of, normal_equations, rounds)
        found.append((cost, family.grid(fitted)))
    cost, grid = min(found, key=lambda pair: pair[0])
    return OptimisedGrid(grid, float(np.sqrt(cost)), float(np.sqrt(errors[before])), before)


def fixed_grids(process: Process, steps: int) -> dict[str, Grid]:
    """The fixed grids that a search begins from: all that exist for the process."""
    makers: dict[str, Callable[[], Grid]] = {"uniform-time": lambda: uniform_time(process, steps)}
    makers["cosine"] = lambda: cosine(process, steps)
    endless = process.schedule.ends_in_noise
    # Where σ/α is infinite at the prior, these begin at the data's 80 times, and the prior's own time is put before.
    limit = {"sigma_max": 80.0} if endless else {}
    count = steps - 1 if endless else steps
    for rho in (3.0, 5.0, 7.0):
        makers[f"karras {rho:g}"] = functools.partial(karras, process, count, rho=rho, **limit)
    makers["uniform-log-snr"] = functools.partial(uniform_log_snr, process, count, **limit)
    grids = {}
    for name, make in makers.items():
        grid = make()
        grids[name] = grid if grid[0] == float(process.t_max) else np.concatenate([[float(process.t_max)], grid])
    return {name: grid for name, grid in grids.items() if len(grid) == steps + 1 and np.all(np.diff(grid) < 0)}


def reference_grid(process: Process, steps: int) -> Grid:
    """Even steps in ln(α/σ), fine enough to stand for the flow; the time of the prior first."""
    if not process.schedule.ends_in_noise:
        return uniform_log_snr(process, steps)
    return np.concatenate([[float(process.t_max)], uniform_log_snr(process, steps, sigma_max=1000.0)])


class _Problem(NamedTuple):
    """Residuals and Jacobian of a grid, compiled once."""

    process: Process
    denoise: Any
    sampler: Sampler
    x: Array
    target: Array

    def cost(self, grid: Grid) -> float:
        """The mean square of the residuals."""
        return float(_residuals(*self, jnp.asarray(grid, self.x.dtype))[1])

    def normal_equations(self, grid: Grid, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(JᵀJ, Jᵀr)/n for the directions `tangents` (m, N + 1)."""
        square, slope = _normal_equations(*self, jnp.asarray(grid, self.x.dtype), jnp.asarray(tangents, self.x.dtype))
        return np.asarray(square, np.float64), np.asarray(slope, np.float64)


@jax.jit
def _residuals(process: Any, denoise: Any, sampler: Any, x: Array, target: Array, grid: Array) -> tuple[Array, Array]:
    residual = run_steps(process, denoise, sampler, grid, x) - target
    return residual, jnp.mean(residual**2)


@jax.jit
def _normal_equations(
    process: Any, denoise: Any, sampler: Any, x: Array, target: Array, grid: Array, tangents: Array
) -> tuple[Array, Array]:
    def run(grid: Array) -> Array:
        return run_steps(process, denoise, sampler, grid, x) - target

    # One direction after another: memory does not grow with their number.
    residual = run(grid)
    jacobian = jax.lax.map(lambda tangent: jax.jvp(run, (grid,), (tangent,))[1], tangents)
    jacobian = jacobian.reshape(tangents.shape[0], -1)
    return jacobian @ jacobian.T / residual.size, jacobian @ residual.reshape(-1) / residual.size
