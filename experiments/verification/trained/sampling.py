"""The model as a sampler: the law of the flow and of the SDE, the number of steps, and copies of training images."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.distances import energy_test
from diffusion.distances.permutation import PermutationTest
from experiments import streams
from experiments.verification.registry import STANDARD_ERRORS
from experiments.verification.trained.finding import (
    NOT_APPLICABLE,
    TENTH,
    Finding,
    Quantity,
    number,
    ratio,
    root,
    verdict_of,
)
from experiments.verification.trained.needs import FEW, MANY, NEEDS
from experiments.verification.trained.subject import Pictures, Subject
from samplers.dpm_solver import SDEDPMSolver
from samplers.registry import make_grid
from samplers.sample import Sampler, sample

LEVEL = 1e-3
_PERMUTATIONS = 9999  # so that a p-value can be below LEVEL
_WHY = "p < 0.001: one run in a thousand falls below it when the laws are the same"
_COPY = 1 / 3
_ROWS = 4096  # training images whose distances are held at once


class Draws:
    """The samples of a subject, each kind drawn once. Sample i depends only on seed + i and its class."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        count = 3 * subject.samples
        self._labels = None if subject.labels is None else subject.rng(1).choice(subject.labels, count).astype(np.int32)

    def steps(self, sampler: Sampler, calls: int) -> int:
        """The largest number of steps that takes at most `calls` calls of the denoiser."""
        limit = int(self.subject.process.t_max) if self.subject.chain else calls
        fitting = [steps for steps in range(1, min(calls, limit) + 1) if sampler.nfe(steps, True) <= calls]
        return fitting[-1] if fitting else 1

    def draw(self, sampler: Sampler, grid: str, calls: int, ids: range) -> np.ndarray:
        """Samples (len(ids), *event) in at most `calls` calls on the grid of this name."""
        subject, places = self.subject, np.asarray(ids)
        times = make_grid(subject.process, sampler, grid, self.steps(sampler, calls))
        size, parts = min(subject.batch, len(places)), []
        for start in range(0, len(places), size):
            part = np.resize(places[start : start + size], size)
            labels = None if self._labels is None else jnp.asarray(self._labels[part])
            found = sample(
                jax.random.key(streams.SAMPLES),
                subject.process,
                subject.denoiser(labels),
                sampler,
                times,
                (size, *subject.event_shape),
                ids=subject.seed + part,
            )
            parts.append(np.asarray(found.x)[: len(places) - start])
        return np.concatenate(parts)

    @functools.cached_property
    def many(self) -> np.ndarray:
        """Samples of the flow, in 200 calls each."""
        return self.draw(self.subject.sampler, self.subject.grid, MANY, range(self.subject.samples))

    @functools.cached_property
    def few(self) -> np.ndarray:
        """Samples of the flow in 20 calls each: those with the seeds of `many`, and as many others."""
        return self.draw(self.subject.sampler, self.subject.grid, FEW, range(2 * self.subject.samples))

    @functools.cached_property
    def stochastic(self) -> np.ndarray:
        """Samples of the reverse SDE in 200 calls each, from seeds of their own."""
        n = self.subject.samples
        return self.draw(SDEDPMSolver(), "auto", MANY, range(2 * n, 3 * n))

    def same_law(self, purpose: int, x: np.ndarray, y: np.ndarray) -> tuple[Quantity, Quantity]:
        """(the energy distance over twice the mean distance, its p-value) of two sets of samples."""
        found: PermutationTest = energy_test(self.subject.key(purpose), x, y, permutations=_PERMUTATIONS)
        apart = float(np.mean(np.sqrt(_squared_distances(x.reshape(len(x), -1), y.reshape(len(y), -1)))))
        return Quantity(float(found.statistic) / (2 * apart)), Quantity(float(found.p_value))


def _finite(*sets: np.ndarray) -> str:
    """A sentence if some samples are not finite, else an empty one."""
    bad = sum(int((~np.isfinite(x.reshape(len(x), -1)).all(axis=1)).sum()) for x in sets)
    return (
        f"{bad} of {sum(map(len, sets))} samples are not finite: the network answers NaN or the sampler diverges."
        if bad
        else ""
    )


def stochastic(draws: Draws) -> Finding:
    """The samples of the reverse SDE against those of the probability-flow ODE."""
    subject = draws.subject
    head = (
        "sde-ode",
        NEEDS["sde-ode"].title,
        r"dx = [f x - g^2\nabla\ln p_t]\,dt + g\,d\bar w\quad dx = [f x - \frac{1}{2}g^2\nabla\ln p_t]\,dt",
        f"{subject.samples} samples of each in {MANY} calls, of different seeds, by their energy distance and its "
        "permutation test; the distance is over twice the mean distance of two samples: 0 for one law, 1 at most",
    )
    if not subject.gaussian:
        return Finding(*head, f"{NOT_APPLICABLE}: the noise is not Gaussian, so that there is no reverse SDE", "")
    flow, noisy = draws.many, draws.stochastic
    if broken := _finite(flow, noisy):
        return Finding(*head, verdict_of(True), broken)
    distance, p = draws.same_law(60, flow, noisy)
    values = {"energy distance": distance, "p-value": p}
    nearer = ""
    if subject.held_out is not None and len(subject.held_out) > 1:
        unseen = subject.held_out.take(subject.rng(3).permutation(len(subject.held_out))[: subject.samples])
        against = {name: draws.same_law(61, x, unseen) for name, x in (("flow", flow), ("SDE", noisy))}
        for name, (far, chance) in against.items():
            values |= {f"{name} and held-out images": far, f"p-value of {name} and these": chance}
        nearer = f"Here the {min(against, key=lambda name: against[name][0])}'s are nearer to held-out images. "
    wrong = p.value < LEVEL
    bad = (
        "The SDE and the flow sample different laws, which they do not when the score is that of the densities: the "
        f"noise of the SDE repairs errors of the score that the flow adds up. {nearer}Usually the training was too "
        "short, or some noise levels count for little in its loss; look at the Fokker-Planck residual and the curl."
    )
    good = f"{subject.samples} samples of each cannot be told apart."
    return Finding(*head, verdict_of(wrong), bad if wrong else good, limit=_WHY, values=values)


def steps(draws: Draws) -> Finding:
    """The run's own sampler, made deterministic, in 20 calls against 200."""
    subject = draws.subject
    name = type(subject.sampler).__name__
    head = (
        "steps",
        NEEDS["steps"].title,
        r"\mathbb{E}|x^{(20)} - x^{(200)}|^2 / d\,\sigma_{data}^2 \ll 1",
        f"{subject.samples} samples by {name} on the run's grid from the same noise, pixel by pixel over the standard "
        f"deviation of a pixel; and the laws of {subject.samples} other ones in {FEW} calls and these in {MANY}",
    )
    if draws.steps(subject.sampler, FEW) == draws.steps(subject.sampler, MANY):
        why = f"the chain has {int(subject.process.t_max)} steps, which are no more than {FEW}"
        return Finding(*head, f"{NOT_APPLICABLE}: {why}", "")
    if subject.scale == 0:
        return Finding(*head, f"{NOT_APPLICABLE}: every pixel of the training images has one value", "")
    many, few, n = draws.many, draws.few, subject.samples
    if broken := _finite(many, few):
        return Finding(*head, verdict_of(True), broken)
    difference = np.mean((few[:n] - many).reshape(n, -1).astype(np.float64) ** 2, axis=1)
    square = ratio(difference / subject.scale**2, np.ones(n))
    distance, p = draws.same_law(70, few[n:], many)
    values = {"relative RMS difference": root(square), "energy distance": distance, "p-value": p}
    sentences = []
    if square.above(TENTH**2):
        sentences.append(
            f"{FEW} calls of {name} are too few to solve the flow: the image of a seed is not the one that more steps "
            "lead to. Take a sampler of higher order (--sampler dpmpp-2m), another grid (--grid karras, or `scorefield "
            "grid`), or more steps."
        )
    if p.value < LEVEL:
        sentences.append(
            f"The images as a whole differ too: {FEW} calls sample another law, and it is seen in {n} images."
        )
    elif sentences:
        sentences.append(f"As a whole {n} images of either kind cannot be told apart, so that it may do all the same.")
    return Finding(
        *head,
        verdict_of(bool(sentences)),
        " ".join(sentences) or f"{FEW} calls of {name} lead where {MANY} lead.",
        limit=f"a tenth of the standard deviation by {STANDARD_ERRORS:g} standard errors, or {_WHY}",
        values=values,
    )


def copies(draws: Draws) -> Finding:
    """The distances of samples to training images, beside those of held-out images."""
    subject = draws.subject
    head = (
        "copies",
        NEEDS["copies"].title,
        r"P(d_1 < \frac{1}{3} d_2)\ \mathrm{of\ samples} = P(d_1 < \frac{1}{3} d_2)\ \mathrm{of\ held\ out\ images}",
        f"the distances d₁, d₂ of {subject.samples} samples to the two nearest training images, beside those of "
        "held-out images",
    )
    assert subject.held_out is not None  # `too_few` has seen to it
    if broken := _finite(draws.many):
        return Finding(*head, verdict_of(True), broken)
    unseen = subject.held_out.take(np.sort(subject.rng(0).permutation(len(subject.held_out))[: subject.samples]))
    made = draws.many if subject.of_points else np.clip(draws.many, -1, 1)  # as they would be written
    mine, theirs = (nearest(x.reshape(len(x), -1), subject.training) for x in (made, unseen))
    copied, natural = (_share(pair) for pair in (mine, theirs))
    more = Quantity(copied.value - natural.value, math.hypot(copied.standard_error, natural.standard_error))
    nearer = _nearer(mine[0], theirs[0])
    values = {
        "copies among samples": copied,
        "among held-out images": natural,
        "samples' median d₁": Quantity(float(np.median(mine[0]))),
        "held-out median d₁": Quantity(float(np.median(theirs[0]))),
        "P(sample is nearer)": nearer,
    }
    wrong = more.above(TENTH**2)
    bad = (
        f"{number(100 * copied.value)}% of the samples are training images, or nearly: the model has learnt them by "
        "heart. Usually there are too few images for the network and the length of the training; stop sooner, make "
        "the network smaller, or add images, mirror images or dropout."
    )
    good = "Samples are no nearer to single training images than images are that the model has never seen."
    if nearer.above(0.5):
        good = (
            "There are no copies. Samples are nearer to training images than held-out images are, as smooth or "
            "typical images are too."
        )
    elif nearer.below(0.5):
        good = "There are no copies; samples are further from training images than held-out images are: noisy, or odd."
    limit = (
        "a hundredth more copies than held-out images have, by 4 standard errors; a copy is thrice nearer to one "
        "training image than to any other (Yoon et al. 2023)"
    )
    return Finding(*head, verdict_of(wrong), bad if wrong else good, limit=limit, values=values)


def nearest(x: np.ndarray, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """The distances (n,) of the rows of x to the nearest and to the second nearest picture."""
    best = np.full((len(x), 2), np.inf)
    for start in range(0, len(pictures), _ROWS):
        rows = pictures.take(slice(start, start + _ROWS))
        squares = _squared_distances(x, rows.reshape(len(rows), -1))
        best = np.sort(np.concatenate([best, np.partition(squares, min(1, squares.shape[1] - 1), axis=1)[:, :2]], 1))[
            :, :2
        ]
    first, second = np.sqrt(best).T
    return first, second


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The squared distances |x_i − y_j|², (n, m) in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0.0)


def _share(pair: tuple[np.ndarray, np.ndarray]) -> Quantity:
    """The share of copies; Agresti and Coull's rule gives an error above 0 even if none, or all, are copies."""
    hits, n = int(np.sum(pair[0] < _COPY * pair[1])), len(pair[0])
    middle = (hits + 2) / (n + 4)
    return Quantity(hits / n, math.sqrt(middle * (1 - middle) / (n + 4)))


def _nearer(mine: np.ndarray, theirs: np.ndarray) -> Quantity:
    """P(a sample is nearer than a held-out image), which is ½ if they are alike (Mann & Whitney)."""
    wins = (mine[:, None] < theirs).astype(np.float64) + 0.5 * (mine[:, None] == theirs)
    error = math.hypot(wins.mean(1).std() / math.sqrt(len(mine)), wins.mean(0).std() / math.sqrt(len(theirs)))
    return Quantity(float(wins.mean()), error)
