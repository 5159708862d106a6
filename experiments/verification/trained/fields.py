"""The score as a field: whether it evolves as the score of a density does, and whether it is a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from diffusion import keys as keys_lib
from diffusion.arrays import sum_event
from diffusion.energy import asymmetry
from diffusion.fokker_planck import forward_equation, score_residual
from diffusion.likelihood import Hutchinson
from diffusion.prediction import Denoiser, score
from diffusion.process import Process
from diffusion.schedules import EDM
from experiments.verification.trained.finding import (
    NOT_APPLICABLE,
    TENTH,
    Finding,
    Quantity,
    curves,
    ratio,
    root,
    verdict_of,
)
from experiments.verification.trained.needs import NEEDS
from experiments.verification.trained.subject import Level, Subject, batches, quick_jit, ratios
from experiments.verification.trained.words import at_levels, causes

HALF = 0.5
_PROBES = 2
_NEIGHBOURS = 0.3  # in ln σ: how far apart the times of a chain may be for a slope through three of them


def fokker_planck(subject: Subject) -> Finding:
    """The residual of the score Fokker-Planck equation, relative to the score while the noise grows by a factor e."""
    count = max(16, subject.samples // 8)
    head = (
        "fokker-planck",
        NEEDS["fokker-planck"].title,
        r"\partial_t s = \nabla[\frac{1}{2}g^2(\nabla\cdot s + |s|^2) - f\,x\cdot s]\quad "
        r"f = \dot\alpha/\alpha,\ \ g^2 = 2\sigma\dot\sigma - 2f\sigma^2",
        "root mean square of the difference of the two sides over that of s d ln(σ/α)/dt, for an s like 1/σ the size "
        f"of every term, at {count} noisy training images; the divergence by {_PROBES} random probes, whose own "
        "variance is taken out"
        + (
            "; in x/α and σ/α, where α is 1, with the slope in time by the parabola through three neighbouring times "
            "of the chain."
            if subject.chain
            else "."
        ),
    )
    if not subject.gaussian:
        return Finding(*head, f"{NOT_APPLICABLE}: the noise is not Gaussian, so that there is no score", "")
    levels = [level for level in subject.levels if not subject.chain or _slope_at(subject.process, level) is not None]
    if not levels:
        return Finding(*head, f"{NOT_APPLICABLE}: the times of this chain are too far apart for a slope in time", "")
    squares = [_per_image(subject, level, count, 30 + i, _residual(subject, level)) for i, level in enumerate(levels)]
    found = [ratio(*pair) for pair in squares]
    rows = {"relative residual": tuple(map(root, found))}
    wrong = [i for i, one in enumerate(found) if one.above(HALF**2)]
    bad = (
        f"{at_levels(subject, wrong, levels)} the score does not move with the noise level as that of a density must: "
        "the equation and the network disagree on how it changes by more than half of that change. "
        + causes(subject, wrong, "slope", levels)
    )
    good = "The scores of neighbouring noise levels belong to one density, to what a network can be expected to do"
    most = max((root(one).value for one in found), default=0.0)
    good += "; exact they are not, for the residual is beyond a tenth." if most > TENTH else "."
    return Finding(
        *head,
        verdict_of(bool(wrong)),
        bad if wrong else good,
        limit="½ by 4 standard errors: the two sides, each about as large as s d ln(σ/α)/dt, then point more than 30° "
        "apart. Trained networks are seldom below a tenth at low noise.",
        levels=tuple(level.ratio for level in levels),
        rows=rows,
        plot=curves(rows, [level.ratio for level in levels], "relative residual"),
    )


Measure = Callable[[Denoiser, Array, Array, Array], tuple[Array, Array]]
"""A function (denoiser, x_t, t, keys) -> two numbers for each element."""


def _per_image(
    subject: Subject, level: Level, count: int, purpose: int, measure: Measure
) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers of `measure` at each of `count` noisy training images."""
    above, below = [], []
    size = min(subject.batch, 32)  # derivatives take several times the memory
    for batch in batches(subject, subject.training, level.t, count, purpose, size):
        keys = _keys(subject.key(1000 + purpose), np.resize(batch.places, len(batch.x_t)))
        pair = measure(subject.denoiser(batch.labels), batch.x_t, jnp.asarray(level.t, batch.x_t.dtype), keys)
        for out, value in zip((above, below), pair, strict=True):
            out.append(np.asarray(value, np.float64)[: len(batch.places)])
    return np.concatenate(above), np.concatenate(below)


def _residual(subject: Subject, level: Level) -> Measure:
    """The measure (|residual|² without the probes' variance, |s d ln(σ/α)/dt|²)."""
    if not subject.chain:
        return lambda denoise, x, t, keys: _squares(subject.process, denoise, x, t, keys)
    slope = _slope_at(subject.process, level)
    assert slope is not None
    times, weights = (jnp.asarray(part, jnp.float32) for part in slope)

    def on_chain(denoise: Denoiser, x: Array, t: Array, keys: Array) -> tuple[Array, Array]:
        return _squares_on_chain(subject.process, denoise, x, t, keys, times, weights)

    return on_chain


@jax.jit
def _keys(key: Array, ids: Array) -> Array:
    return keys_lib.sample_keys(key, ids)


@quick_jit
def _squares_on_chain(
    chain: Process, denoise: Denoiser, x: Array, t: Array, keys: Array, times: Array, weights: Array
) -> tuple[Array, Array]:
    smooth = Partial(_between_times, denoise, chain, times, weights)
    return _both_squares(Process(EDM()), smooth, x / chain.alpha(t), times[1, 1], keys)


def _both_squares(process: Process, denoise: Denoiser, x: Array, t: Array, keys: Array) -> tuple[Array, Array]:
    s = score(process, denoise)
    found = score_residual(forward_equation(process), s, x, t, method=Hutchinson(_PROBES), key=keys[0])
    # E v̄² is the square and the variance of v̄, and the standard error estimates that variance without bias.
    residual = sum_event(found.value**2 - found.standard_error**2)
    # ρ = σ/α grows by dρ²/dt = g²/α²: a Brownian motion in x/α.
    growth = 0.5 * process.schedule.diffusion_squared(t) / process.schedule.variance(t)
    return residual, sum_event((growth * s(x, t)) ** 2)


_squares = quick_jit(_both_squares)


class _Slope(NamedTuple):
    """Three times of a chain, as (t, σ/α), and the weights that give the slope in σ²/α² at the middle one."""

    times: np.ndarray
    weights: np.ndarray


def _slope_at(process: Process, level: Level) -> _Slope | None:
    """The slope of the parabola through the neighbours, or None if these are too far away.

    It is exact where D is constant, and where D − x is proportional to σ²/α², as under a smooth density.
    """
    if not 2 <= level.t <= float(process.t_max) - 1:
        return None
    times = level.t + np.arange(-1.0, 2.0)
    logs = np.log(ratios(process, times))
    if np.max(np.diff(logs)) > _NEIGHBOURS:
        return None
    a, b, c = np.exp(2 * logs)
    weights = np.asarray([(b - c) / ((a - b) * (a - c)), 1 / (b - a) + 1 / (b - c), (b - a) / ((c - a) * (c - b))])
    return _Slope(np.stack([times, np.exp(logs)], axis=1), weights)


def _between_times(denoise: Denoiser, chain: Process, times: Array, weights: Array, y: Array, sigma: Array) -> Array:
    """The chain's denoiser as one of EDM near the middle time, to first order: D + (σ² − σ_t²) ∂D/∂σ²."""

    def at(place: int) -> Array:
        t = times[place, 0]
        return denoise(chain.alpha(t) * y, t)

    middle = at(1)
    slope = weights[0] * at(0) + weights[1] * middle + weights[2] * at(2)
    # The factor of the slope is 0 at the middle time: only the derivative in σ sees the slope.
    return middle + (sigma**2 - times[1, 1] ** 2) * jax.lax.stop_gradient(slope)


def curl(subject: Subject) -> Finding:
    """The norm of the antisymmetric part of the score's Jacobian over that of the symmetric part."""
    count = max(16, subject.samples // 4)
    head = (
        "curl",
        NEEDS["curl"].title,
        r"\frac{\partial s_i}{\partial x_j} = \frac{\partial s_j}{\partial x_i}\quad "
        r"\|J - J^T\|_F / \|J + J^T\|_F = 0,\ \ J = \partial s/\partial x",
        f"the two norms, by a random probe v for each of {count} noisy training images: E|Jv − Jᵀv|² = ‖J − Jᵀ‖²",
    )
    if not subject.gaussian:
        why = "the noise is not Gaussian, so that the denoiser need not be the gradient of anything"
        return Finding(*head, f"{NOT_APPLICABLE}: {why}", "")
    if subject.dim == 1:
        return Finding(*head, f"{NOT_APPLICABLE}: in one dimension every field is a gradient", "")
    levels = subject.levels

    def measure(denoise: Denoiser, x: Array, t: Array, keys: Array) -> tuple[Array, Array]:
        return _asymmetry(subject.process, denoise, x, t, keys)

    pairs = [_per_image(subject, level, count, 50 + i, measure) for i, level in enumerate(levels)]
    found = [ratio(*pair) for pair in pairs]
    rows = {"‖J − Jᵀ‖/‖J + Jᵀ‖": tuple(Quantity(*root(one)) for one in found)}
    wrong = [i for i, one in enumerate(found) if one.above(TENTH**2)]
    bad = (
        f"{at_levels(subject, wrong)} the score is not the gradient of a density's logarithm: it drives samples in "
        "circles besides. Pictures hardly show it, but the flow and the SDE need no longer have one law, and "
        "likelihoods mean less. " + causes(subject, wrong, "curl")
    )
    good = "Nothing in the network makes its score a gradient; within the errors it is one, to a hundredth in square."
    return Finding(
        *head,
        verdict_of(bool(wrong)),
        bad if wrong else good,
        limit="a tenth by 4 standard errors: while σ/α grows by a factor e the flow turns a difference of two samples "
        "by that angle in radians, and 1% of ‖J‖² is antisymmetric",
        levels=tuple(level.ratio for level in levels),
        rows=rows,
        plot=curves(rows, [level.ratio for level in levels], "‖J − Jᵀ‖/‖J + Jᵀ‖"),
    )


@quick_jit
def _asymmetry(process: Process, denoise: Denoiser, x: Array, t: Array, keys: Array) -> tuple[Array, Array]:
    """(|Jv − Jᵀv|², |Jv + Jᵀv|²) for one Rademacher vector v for each element."""
    s = score(process, denoise)
    return asymmetry(lambda y: s(y, t), x, keys)
