"""Times and weights of a solver fitted together to a denoiser: the N steps that end nearest to the exact flow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
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
from samplers.adams import IPNDM
from samplers.bespoke import Bespoke
from samplers.bespoke_polish import Ends, mean_squares, polished, pseudo_huber, typical_square
from samplers.dpm_solver import DPMSolverMultistep
from samplers.grid_fit import fixed_grids, reference_grid
from samplers.grids import Grid, check_grid
from samplers.sample import Sampler, require_continuous, run_steps, sample
from samplers.smooth_grids import SmoothGrids, levenberg_marquardt

FIXED: dict[str, Sampler] = {
    "dpmpp-2m": DPMSolverMultistep(),
    "dpmpp-3m begun by lower orders": DPMSolverMultistep(order=3, start="lower-order"),
    "ipndm of order 3": IPNDM(order=3),
}
"""The solvers of one call a step that a fitted one is compared with."""
_CANDIDATES = 6
"""How many of what was met the held-out draws choose from."""
_RIDGE = 1e-13
"""What the diagonal of normal equations is raised by, of columns of mean square 1: more than rounding in float64."""
_REWEIGHTINGS = 2
"""How often the importance of the draws is found anew in a step."""
_STRIDE = 0.02
"""By how much a parameter of the grid moves for a difference quotient."""
_PATIENCE = 2
"""The number of rounds through all steps that may pass without a gain on the held-out draws."""


class BespokeSolver(NamedTuple):
    """What `bespoke_solver` returns."""

    sampler: Bespoke
    """The solver; its grid is `sampler.times`."""
    error: float
    """Root mean square, over the held-out draws and coordinates, of x(solver) − x(reference), in units of the data."""
    error_of_fit: float
    """The same of the draws that it was fitted to."""
    error_before: float
    """That of the best of the fixed solvers on fixed grids, on the held-out draws."""
    before: str
    """That solver and its grid."""

    __repr__ = short_repr


def bespoke_solver(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    steps: int,
    shape: tuple[int, ...],
    *,
    reference_steps: int = 200,
    rounds: int = 8,
    answers: int = 4,
    fixed: Mapping[str, Sampler] = FIXED,
) -> BespokeSolver:
    """The solver of `steps` steps, one call each, that is nearest to the probability flow from the prior to the data.

    Given its times t_0 > … > t_N = 0, the weights of x_{i+1} = a_i x_i + Σ_j b_ij x̂_0(x_{i−j}, t_{i−j}), j < `answers`,
    follow one step after the other, as the least squares of x_{i+1} − x*(t_{i+1}) over `shape` = (batch, *event) draws:
    x* is the fine solution from the same draw of the prior, by DPM-Solver++(3M) on `reference_steps` even steps in
    ln(α/σ), and x_i what the steps before have made, so that each mends what they have left. The times are those, of
    the smooth grids of `optimised_grid`, whose last step ends nearest to x*(0), found by the Levenberg-Marquardt method
    from each of the fixed grids. From the best solver met on the way all times and weights are then moved
    together, as `samplers.bespoke_polish` says, so that a step may end elsewhere where later ones gain from it. As many
    draws again, which no fit has seen, decide what is returned, and when to stop.

    (Solvers with weights of their own for each step, trained by gradients through all steps: Shaul et al. 2024,
    arXiv:2403.01329.) The solver belongs to the denoiser, the process and the number N of steps. With labels in the
    denoiser the held-out draws have those of the others, row by row. Costs at most some rounds · (30 + 1.5 N `answers`)
    runs of N calls, and holds `reference_steps` states of the draws on the host.
    Raises ValueError for fewer than two steps or no answers; TypeError on a discrete chain.
    """
    require_continuous(require_process(process), "bespoke_solver")
    shape, denoise = as_shape(shape), as_denoiser(denoise)
    for name, value, least in (("steps", steps, 2), ("answers", answers, 1)):
        if value < least:
            raise ValueError(f"{name} = {value}; give {least} or more.")
    key, count = as_key(key), shape[0]
    fitted, held_out = (
        _Flow(key, process, denoise, shape, np.arange(start, start + count), reference_steps, way=start == 0)
        for start in (0, count)
    )
    fit = _Fit(fitted, answers)
    grids, family = fixed_grids(process, steps), SmoothGrids(process, steps)
    # One scale for all that is compared: that of the best fixed grid.
    scale = min(typical_square(fit.on(grid)[1]) for grid in grids.values())
    found: list[tuple[float, Bespoke]] = []

    def residual(grid: Grid) -> np.ndarray:
        solver, end = fit.on(grid)
        found.append((pseudo_huber(end, scale), solver))
        return _rooted(end, scale)

    for grid in grids.values():
        residual(grid)
        _search(family, family.nearest(grid), residual, -(-rounds // 2))
    # A few of the best by the draws that they were fitted to, and of these the best by the others.
    solver = _chosen(held_out, _least(found, _CANDIDATES))
    solver = _chosen(held_out, itertools.chain([solver], polished(fitted.ends, solver, rounds)), _PATIENCE)
    before, name = min(_fixed(process, grids, fixed, held_out), default=(float("nan"), "none"))
    errors = [_root(flow.residual(solver)) for flow in (held_out, fitted)]
    return BespokeSolver(solver, errors[0], errors[1], float(np.sqrt(before)), name)


class _Flow:
    """Draws of the prior and the fine solution from them."""

    def __init__(
        self,
        key: Array,
        process: Process,
        denoise: Any,
        shape: tuple[int, ...],
        ids: np.ndarray,
        steps: int,
        *,
        way: bool = True,
    ) -> None:
        grid = reference_grid(process, steps)
        self.process, self.denoise = process, as_traced(denoise)
        self.start = prior_sample(keys_lib.sample_keys(key, as_ids(ids, len(ids))), process, shape, process.t_max)
        fine = DPMSolverMultistep(order=3)
        run = sample(key, process, denoise, fine, grid, shape, x_init=self.start, keep_every=1 if way else None)
        self.states = np.asarray(run.x[None] if run.trajectory is None else run.trajectory)
        """Those of the fine solution on its way, and the last one alone where the `way` is not wanted."""
        self.coordinate = SmoothGrids(process, 2).coordinate
        self.places = self.coordinate(grid[:-1])

    def along(self, grid: Grid) -> Iterator[np.ndarray]:
        """The fine solution at the times of a grid after its first: the cubic through the four nearest states in y."""
        for place in self.coordinate(grid[1:-1]):
            first = int(np.clip(np.searchsorted(self.places, place) - 2, 0, len(self.places) - 4))
            nodes = self.places[first : first + 4]
            weights = [np.prod((place - np.delete(nodes, j)) / (nodes[j] - np.delete(nodes, j))) for j in range(4)]
            yield np.tensordot(weights, np.asarray(self.states[first : first + 4], np.float64), axes=1)
        yield np.asarray(self.states[-1], np.float64)

    def answer(self, x: np.ndarray, time: float) -> np.ndarray:
        """x̂_0, in float64."""
        kind = self.start.dtype
        return np.asarray(_answer(self.denoise, jnp.asarray(x, kind), jnp.asarray(time, kind)), np.float64)

    @property
    def ends(self) -> Ends:
        """Where the draws begin and where the fine solution ends."""
        return Ends(self.process, self.denoise, self.start, self.states[-1])

    def residual(self, solver: Sampler, grid: Grid | None = None) -> np.ndarray:
        """x(solver) − x(reference) at the data."""
        times = jnp.asarray(solver.times if isinstance(solver, Bespoke) else grid)
        return np.asarray(run_steps(self.process, self.denoise, solver, times, self.start)) - self.states[-1]


@jax.jit
def _answer(denoise: Any, x: Array, time: Array) -> Array:
    return denoise(x, time).astype(x.dtype)


class _Fit:
    """Weights by least squares, one step after the other."""

    def __init__(self, flow: _Flow, answers: int) -> None:
        self.flow, self.answers = flow, answers
        self.prior: np.ndarray | None = None

    def on(self, grid: Grid) -> tuple[Bespoke, np.ndarray]:
        """(The solver on this grid, where it ends minus where the flow does)."""
        steps = len(grid) - 1
        states, weights = np.zeros(steps), np.zeros((steps, self.answers))
        x, known = np.asarray(self.flow.start, np.float64), list[np.ndarray]()
        end = x
        for i, target in enumerate(self.flow.along(grid)):
            known = [self._answer(i, x, float(grid[i])), *known][: self.answers]
            columns = np.stack([x, *known])
            found = _robust_least_squares(columns, target)
            states[i], weights[i, : len(known)] = found[0], found[1:]
            x = np.tensordot(found, columns, axes=1)
            end = x - target
        kind = self.flow.start.dtype
        return Bespoke(*(np.asarray(part, kind) for part in (grid, states, weights))), end

    def _answer(self, step: int, x: np.ndarray, time: float) -> np.ndarray:
        """The denoiser's; the first, at the prior, is the same on every grid."""
        if step:
            return self.flow.answer(x, time)
        if self.prior is None:
            self.prior = self.flow.answer(x, time)
        return self.prior


def _robust_least_squares(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights w that make Σ w_j column_j nearest to the target.

    A draw whose path runs along the border of two basins is led into the other by any small error, and outweighs all
    others in a mean square. In its place the pseudo-Huber loss is minimised, which is linear beyond some three median
    distances: a draw that did not count at all would let its neighbours cross the border too.
    """
    importance = np.ones(columns.shape[1])
    for _ in range(_REWEIGHTINGS):
        residual = np.tensordot(_least_squares(columns, target, importance), columns, axes=1) - target
        importance = 1 / np.sqrt(1 + mean_squares(residual) / typical_square(residual))
    return _least_squares(columns, target, importance)


def _least_squares(columns: np.ndarray, target: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """The weights w that minimise the mean square of Σ w_j column_j − target; those of a zero column are 0."""
    root = np.sqrt(importance)
    flat = (_per_draw(root, target) * columns).reshape(len(columns), -1)
    scale = np.sqrt(np.mean(flat**2, axis=1))
    scale[scale == 0] = 1.0
    flat /= scale[:, None]
    square = flat @ flat.T / flat.shape[1] + _RIDGE * np.eye(len(columns))
    return np.linalg.solve(square, flat @ (_per_draw(root, target) * target).ravel() / flat.shape[1]) / scale


def _rooted(residual: np.ndarray, scale: float) -> np.ndarray:
    """Numbers whose mean square is the pseudo-Huber loss: r √(2/(1 + √(1 + r²/s))), of a draw's mean square r²."""
    factors = np.sqrt(2 / (1 + np.sqrt(1 + mean_squares(residual) / scale)))
    return _per_draw(factors, residual) * residual


def _per_draw(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _search(family: SmoothGrids, start: np.ndarray, residual: Any, rounds: int) -> None:
    """Walk from a grid to one of least error nearby; `residual` notes what was met."""

    def on(parameters: np.ndarray) -> np.ndarray | None:
        grid = family.grid(parameters)
        try:
            check_grid(family.process, grid)
        except ValueError:  # two times have met
            return None
        return residual(grid)

    def cost_of(parameters: np.ndarray) -> float:
        end = on(parameters)
        return np.inf if end is None else _mean_square(end)

    def normal_equations(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        here, slopes = on(parameters), []
        nowhere = np.zeros((len(parameters),) * 2), np.zeros(len(parameters))
        if here is None:
            return nowhere
        for k in range(len(parameters)):
            moved = parameters.copy()
            # The last one, the place of the last time, is at most 1.
            moved[k] += -_STRIDE if k == len(parameters) - 1 else _STRIDE
            there = on(moved)
            if there is None:
                return nowhere
            slopes.append(((there - here) / (moved[k] - parameters[k])).ravel())
        jacobian = np.stack(slopes)
        return jacobian @ jacobian.T / here.size, jacobian @ here.ravel() / here.size

    levenberg_marquardt(start, cost_of(start), cost_of, normal_equations, rounds)


def _fixed(
    process: Process, grids: dict[str, Grid], solvers: Mapping[str, Sampler], flow: _Flow
) -> list[tuple[float, str]]:
    """(Mean square error, name) of every fixed solver on every fixed grid that it exists on."""
    found = []
    for called, solver in solvers.items():
        for name, grid in grids.items():
            try:
                solver.check(process, grid)
            except ValueError:  # fewer steps than its order
                continue
            cost = _mean_square(flow.residual(solver, grid))
            found.append((cost if np.isfinite(cost) else np.inf, f"{called} on {name}"))
    return found


def _least(found: list[tuple[float, Bespoke]], count: int) -> list[Bespoke]:
    """The `count` of least error."""
    return [solver for cost, solver in sorted(found, key=lambda each: each[0])[:count] if np.isfinite(cost)]


def _chosen(flow: _Flow, solvers: Iterable[Bespoke], patience: int | None = None) -> Bespoke:
    """That of least pseudo-Huber loss; no more are asked for once `patience` of them were no better than the best."""
    best, least, scale, idle = None, np.inf, 0.0, 0
    for solver in solvers:
        residual = flow.residual(solver)
        scale = scale or typical_square(residual)
        loss = pseudo_huber(residual, scale)
        idle += 1
        if best is None or loss < least:
            best, least, idle = solver, loss, 0
        elif idle == patience:
            break
    assert best is not None
    return best


def _root(residual: np.ndarray) -> float:
    return float(np.sqrt(_mean_square(residual)))


def _mean_square(residual: np.ndarray) -> float:
    return float(np.mean(np.square(residual, dtype=np.float64)))
