"""The denoiser against x_0, the exact denoiser of the training set and the best affine one, at every noise level.

Three checks share this: one pass over some training images, and one over as many held-out images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.oracles import Atoms, GaussianLaw
from diffusion.process import Process
from diffusion.pytree import short_repr
from experiments.verification.laws import alpha_and_sigma
from experiments.verification.trained.finding import Quantity, estimate
from experiments.verification.trained.subject import Level, Pictures, Subject, batches, denoised, spread

_ATOMS_AT_ONCE = 2**24  # numbers in a block of training images
_MOST = 5e10  # numbers of training images that are compared in a pass: some minutes of one processor


@dataclass(frozen=True, eq=False)
class Pass:
    """The outcome of a pass; its arrays are mean squares per pixel for each image, (images,)."""

    error: np.ndarray
    """The error |x_0 − D|² of the network D."""
    least: np.ndarray
    """The error |x_0 − D*|² of the exact denoiser D* of the training set."""
    apart: np.ndarray
    """The distance |D − D*|² between the two."""
    affine: np.ndarray | None
    """The error |x_0 − A|² of the best affine denoiser A for the training set's mean and covariance."""
    correlations: dict[str, Quantity]
    """The correlations of the error with functions of x_t, and from 3 images on with a fixed image."""
    bias: Quantity
    """The mean of ε̂ − ε."""

    __repr__ = short_repr


class Passes(NamedTuple):
    """The passes over both parts of the data, one for each of the subject's levels."""

    training: list[Pass]
    held_out: list[Pass] | None

    __repr__ = short_repr


def run_passes(subject: Subject) -> Passes:
    """The passes over both parts of the data at all levels."""
    training = [run_pass(subject, subject.training, level, 100 + i) for i, level in enumerate(subject.levels)]
    if subject.held_out is None or len(subject.held_out) < 2:
        return Passes(training, None)
    held_out = [run_pass(subject, subject.held_out, level, 200 + i) for i, level in enumerate(subject.levels)]
    return Passes(training, held_out)


def draws(subject: Subject) -> int:
    """The number of draws in a pass: 2 × `samples`, or fewer if the training set is large."""
    return min(2 * subject.samples, max(32, int(_MOST / (_largest(subject) * subject.dim))))


def _largest(subject: Subject) -> int:
    """The number of training images, or of those of the most frequent class for a model that knows classes."""
    return len(subject.training) if subject.labels is None else int(np.bincount(subject.labels).max())


def run_pass(subject: Subject, part: Pictures, level: Level, purpose: int) -> Pass:
    """One pass over a part of the data at one level."""
    count, d = draws(subject), subject.dim
    images, repetitions = spread(part, count)
    found = []
    for batch in batches(subject, part, level.t, count, purpose):
        answer = denoised(subject.denoiser(batch.labels), batch.x_t, jnp.asarray(level.t, batch.x_t.dtype))
        kept = len(batch.places)
        labels = None if batch.labels is None else np.asarray(batch.labels)[:kept]
        found.append([np.asarray(x)[:kept] for x in (batch.x_0, batch.x_t, answer)] + [labels])
    x_0, x_t, answer = (np.concatenate([one[i] for one in found]) for i in range(3))
    labels = None if found[0][3] is None else np.concatenate([one[3] for one in found])
    exact = exact_denoised(subject, x_t, level.t, labels)
    affine = affine_denoised(subject, x_t, level.t)

    def square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        each = ((a - b).reshape(len(a), d).astype(np.float64) ** 2).mean(1)
        return each.reshape(images, repetitions).mean(1)

    alpha, sigma = alpha_and_sigma(subject.process, level.t)
    wrong = (answer - x_0).reshape(images, repetitions, d).astype(np.float64)
    functions = {
        "its own answer": answer.reshape(wrong.shape),
        "what it sees": np.tanh(x_t.reshape(wrong.shape) / math.hypot(alpha * subject.scale, sigma)),
    }
    correlations = {name: _correlation(wrong, function) for name, function in functions.items()}
    if len(wrong) > 2:
        correlations["a fixed image"] = _with_a_fixed_image(wrong)
    return Pass(
        square(x_0, answer),
        square(x_0, exact),
        square(answer, exact),
        None if affine is None else square(x_0, affine),
        correlations,
        # ε̂ − ε = −(α/σ)(D − x_0)
        estimate(-alpha / sigma * wrong.mean((1, 2))),
    )


def _correlation(wrong: np.ndarray, function: np.ndarray) -> Quantity:
    """E[e·ψ]/√(E|e|² E|ψ|²), of arrays (images, repetitions, d); squared, the part of E|e|² that c ψ would take off."""
    scale = math.sqrt(np.mean(np.sum(wrong**2, -1)) * np.mean(np.sum(np.asarray(function, np.float64) ** 2, -1)))
    if scale == 0:
        return Quantity(0.0)
    return estimate(np.sum(wrong * function, -1).mean(1) / scale)


def _with_a_fixed_image(wrong: np.ndarray) -> Quantity:
    """The correlation with a fixed image, learnt on half of the images and tried on the others, two at least."""
    half = len(wrong) // 2
    learnt = wrong[:half].mean((0, 1))
    return _correlation(wrong[half:], np.broadcast_to(learnt, wrong[half:].shape))


def affine_denoised(subject: Subject, x: np.ndarray, t: float) -> np.ndarray | None:
    """The best affine denoiser at x, from the training set's mean and covariance; None if the noise is not Gaussian."""
    if not subject.gaussian:
        return None
    flat, size = x.reshape(len(x), -1), min(subject.batch, len(x))
    parts = []
    for start in range(0, len(x), size):
        part = np.resize(np.arange(start, min(start + size, len(x))), size)
        parts.append(np.asarray(_affine(subject.fit, subject.process, flat[part], jnp.asarray(t)))[: len(x) - start])
    return np.concatenate(parts).reshape(x.shape)


@jax.jit
def _affine(law: GaussianLaw, process: Process, x: Array, t: Array) -> Array:
    return law.denoiser(process)(x, t)


def exact_denoised(subject: Subject, x: np.ndarray, t: float, labels: np.ndarray | None) -> np.ndarray:
    """E[x_0 | x_t] (n, *event) for x_0 drawn from the training set itself, or from its images of the class."""
    answer = np.empty(x.shape, np.float32)
    for label in [None] if labels is None else np.unique(labels):
        mine = np.arange(len(x)) if labels is None else np.flatnonzero(labels == label)
        owned = subject.labels
        pool = np.arange(len(subject.training)) if owned is None or label is None else np.flatnonzero(owned == label)
        size = min(subject.batch, 16 if labels is not None else subject.batch)
        for start in range(0, len(mine), size):
            rows = mine[start : start + size]
            # All batches have one shape, so that one program serves them.
            answer[rows] = _exact(subject, x[np.resize(rows, size)], t, pool)[: len(rows)]
    return answer


def _exact(subject: Subject, x: np.ndarray, t: float, pool: np.ndarray) -> np.ndarray:
    """E[x_0 | x_t] over the training images `pool`: the posterior means of blocks, weighted by their evidence."""
    size = min(_largest(subject), max(1, _ATOMS_AT_ONCE // subject.dim))
    evidence, total = np.full(len(x), -np.inf), np.zeros(x.shape)
    for start in range(0, len(pool), size):
        rows = pool[start : start + size]
        weights = (np.arange(size) < len(rows)).astype(np.float32)
        law = Atoms(jnp.asarray(subject.training.take(np.resize(rows, size))), jnp.asarray(weights))
        mean = np.asarray(_mean(law, subject.process, x, jnp.asarray(t)), np.float64)
        if len(pool) <= size:
            return mean
        mine = np.asarray(_evidence(law, subject.process, x, jnp.asarray(t)), np.float64) + math.log(len(rows))
        joint = np.logaddexp(evidence, mine)
        old, new = (np.exp(e - joint).reshape((-1,) + (1,) * (x.ndim - 1)) for e in (evidence, mine))
        evidence, total = joint, old * total + new * mean
    return total


@jax.jit
def _mean(law: Atoms, process: Process, x: Array, t: Array) -> Array:
    return law.denoiser(process)(x, t)


@jax.jit
def _evidence(law: Atoms, process: Process, x: Array, t: Array) -> Array:
    return law.log_prob(process, x, t)
