"""The orders of SDE samplers: weakly, by exact moments on a Gaussian law; strongly, along one Brownian path.

On a Gaussian law every step is linear, x_s = c x_t + d + w n. So the mean and the variance of a sampler's output follow
a recursion, m <- c m + d and v <- c² v + w², and are compared with those of the law at the last time: no random number
enters the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import Process
from diffusion import keys as keys_lib
from diffusion.brownian import BrownianIncrement, brownian
from diffusion.ddpm.reverse_steps import FixedLarge
from diffusion.oracles import GaussianLaw
from diffusion.oracles.examples import line
from diffusion.pytree import as_traced, pytree, short_repr
from experiments.verification.chosen import OneOf
from experiments.verification.orders.problems import PROCESSES, SCHEDULES, chosen, grid_of, observed_order, padded
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


_STARTS = np.asarray([[0.0], [1.0], [0.0]])
"""Where three samples start a step, of which the first two share their noise."""


@jax.jit
def _coefficients(sampler: Sampler, process: Process, times: Array, carry: Any) -> tuple[Array, Array, Array]:
    """(c, d, w) of every step down these times."""
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.asarray([0, 0, 1]))
    draws = keys_lib.normal(keys, (1,))[:, 0]
    denoise = GaussianLaw.isotropic(np.asarray([MEAN]), STD).denoiser(process)

    def end(t: Array, s: Array) -> Array:
        return sampler.step(keys, jnp.asarray(_STARTS), carry, t, s, process, denoise)[0][:, 0]

    ends = jax.vmap(end)(times[:-1], times[1:])
    w = (ends[:, 2] - ends[:, 0]) / (draws[2] - draws[0])
    return ends[:, 1] - ends[:, 0], ends[:, 0] - w * draws[0], w


@jax.jit
def _moments(process: Process, t: Array) -> tuple[Array, Array]:
    """The mean and the variance of the law at times t."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return alpha * MEAN, alpha**2 * STD**2 + sigma**2


def weak_errors(sampler: Sampler) -> dict[str, np.ndarray]:
    """|mean − exact| and |variance − exact| at the end of each grid, (4, 2), by process.

    All processes share one program, and all samplers of a class that differ in numbers.
    """
    found = {}
    for name, process in PROCESSES.items():
        errors = []
        means, variances = map(np.asarray, _moments(chosen(name), grid_of(process, 1)))
        for steps in WEAK_STEPS:
            grid = grid_of(process, steps)
            carry = sampler.init(jnp.asarray(_STARTS), jnp.asarray(grid))
            each = _coefficients(as_traced(sampler), chosen(name), padded(grid, max(WEAK_STEPS)), carry)
            mean, variance = means[0], variances[0]
            for c, d, w in zip(*(np.asarray(part)[:steps] for part in each), strict=True):
                mean, variance = c * mean + d, c**2 * variance + w**2
            errors.append([abs(mean - means[1]), abs(variance - variances[1])])
        found[name] = np.asarray(errors)
    return found


def weak_orders(errors: np.ndarray) -> tuple[float, float]:
    """The observed orders of the mean and of the variance."""
    mean, variance = (observed_order(WEAK_STEPS, np.maximum(column, 1e-16)) for column in errors.T)
    return mean, variance


def _strong(which: Array) -> Process:
    """One of `STRONG_PROCESSES`, by its place."""
    return Process(OneOf(tuple(SCHEDULES[name] for name in STRONG_PROCESSES), which))


_PLACES: Any = np.arange(len(STRONG_PROCESSES))


@jax.jit
def _drawn(times: Array) -> Array:
    def one(which: Array, t: Array) -> Array:
        return line().sample_marginal(jax.random.key(1), _strong(which), BATCH, t)

    return jax.vmap(one)(_PLACES, times)


@functools.cache
def starts() -> Array:
    """Points of a mixture's marginals at the first time of every grid, (2, 64, 1), for `STRONG_PROCESSES`."""
    return _drawn(np.asarray([grid_of(PROCESSES[name], 1)[0] for name in STRONG_PROCESSES]))


@pytree
class _Drawn(BrownianIncrement):
    """The draw of a step along the paths, taken before: the same for every sampler."""

    value: Array

    def normal(self, event: tuple[int, ...], dtype: Any) -> Array:
        """The draws, (64, 1)."""
        del event
        return self.value.astype(dtype)


def _keys() -> Array:
    return keys_lib.sample_keys(KEY, jnp.arange(BATCH))


@jax.jit
def _draws(grids: Array, steps: Any) -> Array:
    """What `sample` draws on each grid along its paths, (2, n, 64, 1), 0 after `steps` steps."""
    paths = keys_lib.fold(_keys(), streams.PATH)

    def one(which: Array, grid: Array) -> Array:
        clock = path_clock(_strong(which), grid)

        def body(i: Array, places: Array) -> Array:
            return places.at[i].set(jax.vmap(lambda key: brownian(key, clock[i], (1,)))(paths))

        places = jax.lax.fori_loop(0, steps + 1, body, jnp.zeros((len(grid), BATCH, 1)))
        lengths = clock[:-1] - clock[1:]
        moved = (places[:-1] - places[1:]) / jnp.sqrt(jnp.where(lengths > 0, lengths, 1))[:, None, None]
        return jnp.where((jnp.arange(len(lengths)) < steps)[:, None, None], moved, 0)

    return jax.vmap(one)(_PLACES, grids)


@jax.jit
def _down(sampler: Sampler, x: Array, grids: Array, draws: Array, steps: Any) -> Array:
    """x (2, 64, 1) after `steps` steps of `sample` down a grid for each process, with these draws."""

    def one(which: Array, x: Array, grid: Array, draws: Array) -> Array:
        process, denoise = _strong(which), line().denoiser(_strong(which))

        def body(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            keys = keys_lib.fold(_keys(), i + 1)
            drawn = _Drawn(keys, keys, grid[i], grid[i + 1], draws[i])
            return sampler.step(drawn, *state, grid[i], grid[i + 1], process, denoise)

        return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]

    return jax.vmap(one)(_PLACES, x, grids, draws)


class Paths:
    """Grids of as many steps for each of `STRONG_PROCESSES`, and what is drawn on them."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self.steps = len(grids[0]) - 1
        self.grids = jnp.stack([padded(grid, REFERENCE) for grid in grids])
        self.draws = _draws(self.grids, self.steps)

    def follow(self, sampler: Sampler, x: Array) -> dict[str, np.ndarray]:
        """Where the steps of a sampler lead from x (2, 64, 1), by process: `sample` with `brownian_tree`."""
        ends = _down(as_traced(sampler), x, self.grids, self.draws, self.steps)
        return dict(zip(STRONG_PROCESSES, np.asarray(ends), strict=True))


@functools.cache
def _even(steps: int) -> Paths:
    return Paths([grid_of(PROCESSES[name], steps) for name in STRONG_PROCESSES])


def ends_of_paths(sampler: Sampler, steps: int) -> dict[str, np.ndarray]:
    """x (64, 1) after these steps from `starts`, even in log-SNR, by process."""
    return _even(steps).follow(sampler, starts())


@functools.cache
def references(sampler: Sampler) -> dict[str, np.ndarray]:
    """x at the end of the path of the SDE that this sampler solves, by process."""
    return ends_of_paths(sampler, REFERENCE)


REVERSE_SDE = StochasticHeun()
"""The sampler that is followed to the end of the path of the reverse SDE."""


def strong_errors(case: Case) -> dict[str, list[float]]:
    """The median distances from the path's end; not the means, as some paths pass between the humps."""
    exact = references(case.sampler if case.own_limit else REVERSE_SDE)
    ends = [ends_of_paths(case.sampler, steps) for steps in STRONG_STEPS]
    return {name: [float(np.median(np.abs(end[name] - exact[name]))) for end in ends] for name in STRONG_PROCESSES}


@dataclass(frozen=True)
class Errors:
    """The measured errors of a case, by process; empty for an order that is not measured."""

    weak: dict[str, np.ndarray]
    """The errors of the mean and of the variance, (4, 2)."""
    strong: dict[str, list[float]]
    """The median distances from the path's end."""

    __repr__ = short_repr


@functools.cache
def measured(name: str) -> Errors:
    """The errors of one of `CASES`, in float64."""
    case = CASES[name]
    with jax.enable_x64(True):
        weak = weak_errors(case.sampler) if case.weak else {}
        strong = strong_errors(case) if case.strong else {}
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
