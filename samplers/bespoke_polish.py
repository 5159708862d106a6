"""All times and weights of a solver moved together, to where its last step ends nearest to the exact flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.process import Process
from diffusion.pytree import short_repr
from samplers.bespoke import Bespoke
from samplers.sample import run_steps

_ENOUGH = 1e-3
"""The relative gain of a round below which it is the last."""
_TOGETHER = 4
"""The number of derivatives taken at once, which share the run that they are taken of."""
_TRIES = 8
"""How often a round raises its damping before it gives up."""

Numbers = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Times, weights of states, weights of answers; or how they change."""


class Ends(NamedTuple):
    """Draws of the prior, and where the flow takes them."""

    process: Process
    denoise: Any
    start: Float[Array, "b *event"]
    target: Float[np.ndarray, "b *event"]

    __repr__ = short_repr

    def residual(self, solver: Bespoke) -> Float[np.ndarray, "b *event"]:
        """x(solver) − x(flow)."""
        end = run_steps(self.process, self.denoise, solver, jnp.asarray(solver.times), self.start)
        return np.asarray(end, np.float64) - self.target


def polished(ends: Ends, solver: Bespoke, rounds: int) -> Iterator[Bespoke]:
    """Solvers of falling error, each from the one before, by the Levenberg-Marquardt method through all steps.

    A fit step by step makes every state nearest to the flow's at its time; here a step may end elsewhere if those that
    follow gain from it. The parameters are a_i, the b_ij of answers that are there, and ln t_i of the times between the
    ends, and the loss is `pseudo_huber` of the draws' mean squares with the scale of the first solver. A round costs
    a derivative forwards along the steps for each parameter, some N (q + 3) of them.
    """
    parameters = _Parameters(solver)
    found = parameters.of(solver)
    residual = ends.residual(solver)
    scale = typical_square(residual)
    cost, damping = pseudo_huber(residual, scale), 1e-3
    for _ in range(rounds):
        slopes = _slopes(ends, solver, parameters.directions(found))
        importance = 1 / np.sqrt(1 + mean_squares(residual) / scale)
        weighed = slopes * np.repeat(importance, residual[0].size)
        square, gradient = weighed @ slopes.T, weighed @ residual.ravel()
        if not np.trace(square) > 0 or not np.isfinite(square).all():  # nothing moves the end: it is exact, or lost
            return
        for _ in range(_TRIES):
            damped = square + damping * np.diag(np.diag(square)) + 1e-12 * np.trace(square) * np.eye(len(square))
            moved = found - np.linalg.solve(damped, gradient)
            reached = parameters.solver(moved)
            if np.all(np.diff(reached.times) < 0):
                there = ends.residual(reached)
                if pseudo_huber(there, scale) < cost:
                    break
            damping *= 4
        else:
            return
        gain = 1 - pseudo_huber(there, scale) / cost
        found, solver, residual, cost = moved, reached, there, pseudo_huber(there, scale)
        damping = max(damping / 5, 1e-9)
        yield solver
        if gain < _ENOUGH:
            return


def mean_squares(residual: Float[np.ndarray, "b *event"]) -> Float[np.ndarray, " b"]:
    """The mean square of each draw."""
    return np.mean(np.square(residual, dtype=np.float64).reshape(len(residual), -1), axis=1)


def typical_square(residual: Float[np.ndarray, "b *event"]) -> float:
    """The scale of `pseudo_huber`: three times the median distance, squared; at least the least number above 0."""
    return max(9 * float(np.median(mean_squares(residual))), float(np.finfo(np.float64).tiny))


def pseudo_huber(residual: Float[np.ndarray, "b *event"], scale: float) -> float:
    """The mean of 2s (√(1 + r²/s) − 1): r² of small mean squares r², 2r√s of r² far above s; inf of NaN."""
    squares = mean_squares(residual)
    value = float(np.mean(2 * squares / (1 + np.sqrt(1 + squares / scale))))
    return value if np.isfinite(value) else np.inf


class _Parameters:
    """A solver's numbers as one vector: ln t_i between the ends, a_i, and b_ij of answers that there are."""

    def __init__(self, solver: Bespoke) -> None:
        steps, answers = np.shape(solver.answers)
        self.kind = np.asarray(solver.states).dtype
        self.ends = np.asarray(solver.times, np.float64)[[0, -1]]
        self.shape = steps, answers
        self.there = np.arange(answers) <= np.arange(steps)[:, None]

    def of(self, solver: Bespoke) -> np.ndarray:
        """The vector."""
        parts = (
            np.log(np.asarray(solver.times, np.float64)[1:-1]),
            solver.states,
            np.asarray(solver.answers)[self.there],
        )
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    def solver(self, vector: np.ndarray) -> Bespoke:
        """The solver of a vector."""
        logs, states, answers = self._parts(vector)
        return Bespoke(*self._kept(np.concatenate([self.ends[:1], np.exp(logs), self.ends[1:]]), states, answers))

    def directions(self, vector: np.ndarray) -> Iterator[Numbers]:
        """How the solver's numbers change with each entry of the vector."""
        times = np.exp(self._parts(vector)[0])
        for unit in np.eye(len(vector)):
            logs, states, answers = self._parts(unit)
            yield self._kept(np.concatenate([[0.0], times * logs, [0.0]]), states, answers)

    def _parts(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        steps = self.shape[0]
        answers = np.zeros(self.shape)
        answers[self.there] = vector[2 * steps - 1 :]
        return vector[: steps - 1], vector[steps - 1 : 2 * steps - 1], answers

    def _kept(self, times: np.ndarray, states: np.ndarray, answers: np.ndarray) -> Numbers:
        return times.astype(self.kind), states.astype(self.kind), answers.astype(self.kind)


def _slopes(ends: Ends, solver: Bespoke, directions: Iterable[Numbers]) -> np.ndarray:
    """d x(solver)/d direction for each of them, (directions, numbers)."""
    here, left, found = _numbers(solver), list(directions), []
    while left:
        some, left = left[:_TOGETHER], left[_TOGETHER:]
        filled = [*some, *[tuple(map(np.zeros_like, here))] * (_TOGETHER - len(some))]
        along = tuple(np.stack(parts) for parts in zip(*filled, strict=True))
        slopes = np.asarray(_tangents(ends.process, ends.denoise, ends.start, here, along), np.float64)
        found.append(slopes[: len(some)].reshape(len(some), -1))
    return np.concatenate(found)


def _numbers(solver: Bespoke) -> Numbers:
    times, states, answers = map(np.asarray, (solver.times, solver.states, solver.answers))
    return times, states, answers


@jax.jit
def _tangents(process: Any, denoise: Any, start: Array, solver: Any, directions: Any) -> Array:
    def end(times: Array, states: Array, answers: Array) -> Array:
        return run_steps(process, denoise, Bespoke(times, states, answers), times, start)

    return jax.vmap(lambda *direction: jax.jvp(end, solver, direction)[1])(*directions)
