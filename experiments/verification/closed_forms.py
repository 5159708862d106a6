"""Exact answers in float64 by NumPy, without the library: noise levels, densities and Gaussian chains as matrices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, SubVP
from diffusion.pytree import short_repr
from experiments.verification.chosen import OneOf

Array = np.ndarray
Affine = tuple[Array, Array]
"""(A, b) of the map x -> A x + b."""

STEPS: dict[str, tuple[Process, float, float]] = {
    "VP": (Process(VP()), 0.15, 0.4),
    "SubVP": (Process(SubVP()), 0.2, 0.4),
    "Cosine": (Process(Cosine()), 0.3, 0.6),
    "VE": (Process(VE()), 0.2, 0.4),
    "EDM": (Process(EDM()), 0.5, 1.5),
    "RectifiedFlow": (Process(RectifiedFlow()), 0.3, 0.6),
    "chain": (Process(Betas.ramp(40, 0.3)), 7, 21),
}
"""The processes, each with two times s < t in its middle."""

_CONTINUOUS = {name: process.schedule for name, (process, _, _) in STEPS.items() if not process.schedule.discrete}


def shared(name: str) -> Process:
    """The process of STEPS; a continuous one as a `OneOf` of all of them, so that one program serves them all."""
    if name not in _CONTINUOUS:
        return STEPS[name][0]
    return Process(OneOf(tuple(_CONTINUOUS.values()), np.asarray(list(_CONTINUOUS).index(name))))


POINTS, MASSES = np.asarray([[-1.0, 0.4], [0.8, -0.3], [0.2, 1.1]]), np.asarray([0.3, 0.5, 0.2])
"""Three points in the plane, and their probabilities."""


class Levels(NamedTuple):
    """α, σ and their slopes in time, which are NaN for a chain."""

    alpha: Array
    sigma: Array
    alpha_dot: Array
    sigma_dot: Array

    __repr__ = short_repr


@np.errstate(divide="ignore", invalid="ignore")
def levels(name: str, t: Any) -> Levels:
    """α, σ and their slopes for a process of STEPS, in closed form; at t = 0 the slope of σ may be infinite."""
    t = np.asarray(t, np.float64)
    one, zero = np.ones_like(t), np.zeros_like(t)
    if name in ("VP", "SubVP"):
        beta, integral = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
        alpha, lost = np.exp(-integral / 2), -np.expm1(-integral)
        if name == "SubVP":
            return Levels(alpha, lost, -beta / 2 * alpha, beta * alpha**2)
        return Levels(alpha, np.sqrt(lost), -beta / 2 * alpha, beta * alpha**2 / (2 * np.sqrt(lost)))
    if name == "Cosine":
        angle = np.pi / 2 * t
        return Levels(np.cos(angle), np.sin(angle), -np.pi / 2 * np.sin(angle), np.pi / 2 * np.cos(angle))
    if name == "VE":
        growth = np.log(50 / 0.01)
        sigma = 0.01 * np.sqrt(np.expm1(2 * t * growth))
        return Levels(one, sigma, zero, 1e-4 * growth * np.exp(2 * t * growth) / sigma)
    if name == "chain":
        return chain_levels(0.3 * np.arange(1, 41) / 40, t)
    return Levels(1 - t, t, -one, one) if name == "RectifiedFlow" else Levels(one, t, zero, one)


def chain_levels(betas: Array, t: Any) -> Levels:
    """A_t and B_t from the one-step variances, step by step: B² grows to a² B² + b²."""
    alpha, variance = [1.0], [0.0]
    for beta in betas:
        alpha.append(alpha[-1] * np.sqrt(1 - beta))
        variance.append((1 - beta) * variance[-1] + beta)
    place = np.asarray(t, int)
    nothing = np.full(place.shape, np.nan)
    return Levels(np.asarray(alpha)[place], np.sqrt(variance)[place], nothing, nothing)


def one_step(before: Levels, after: Levels) -> tuple[Array, Array]:
    """(a, b) of x_t = a x_s + b ε, by division and subtraction."""
    a = after.alpha / before.alpha
    return a, np.sqrt(after.sigma**2 - a**2 * before.sigma**2)


def normal(x: Array, mean: Any = 0.0, variance: Any = 1.0) -> Array:
    """The density N(x; mean, variance) on the line."""
    return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


def square(reach: float, count: int) -> tuple[Array, float]:
    """(points (count², 2) of a grid over [−reach, reach]², the area that each stands for)."""
    axis = np.linspace(-reach, reach, count)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2), float(axis[1] - axis[0]) ** 2


def normal_log_prob(x: Any, mean: Any, std: Any) -> Array:
    """ln N(x; mean, std² I), summed over the last axis."""
    return np.sum(-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi), axis=-1)


@dataclass(frozen=True)
class Matrices:
    """The Gaussian law N(mean, covariance)."""

    mean: Array
    covariance: Array

    __repr__ = short_repr

    def log_prob(self, x: Any) -> Array:
        """The logarithm of the density at each row of x."""
        gap = np.asarray(x) - self.mean
        solved = np.linalg.solve(self.covariance, gap.T).T
        return -0.5 * np.sum(gap * solved, axis=-1) - 0.5 * np.linalg.slogdet(2 * np.pi * self.covariance)[1]

    def entropy(self) -> float:
        """The entropy ½ ln det(2πe covariance), in nats."""
        return float(0.5 * np.linalg.slogdet(2 * np.pi * np.e * self.covariance)[1])

    def part(self, index: Array) -> Matrices:
        """The law of some coordinates."""
        return Matrices(self.mean[index], self.covariance[np.ix_(index, index)])

    def given(self, index: Array, value: Array) -> Matrices:
        """The law of the others given some coordinates."""
        rest = np.setdiff1d(np.arange(self.mean.size), index)
        across = self.covariance[np.ix_(index, rest)]
        gain = np.linalg.solve(self.covariance[np.ix_(index, index)], across).T
        covariance = self.covariance[np.ix_(rest, rest)] - gain @ across
        return Matrices(self.mean[rest] + gain @ (value - self.mean[index]), covariance)

    def kl(self, other: Matrices) -> float:
        """KL(self ‖ other), in nats."""
        gap = other.mean - self.mean
        solved = np.linalg.solve(other.covariance, self.covariance + np.outer(gap, gap))
        log_ratio = np.linalg.slogdet(other.covariance)[1] - np.linalg.slogdet(self.covariance)[1]
        return float(0.5 * (np.trace(solved) - gap.size + log_ratio))

    def points(self) -> Array:
        """2n points (2n, n) over which every polynomial of degree 3 or less has its expectation as plain mean."""
        root = np.linalg.cholesky(self.covariance) * np.sqrt(self.mean.size)
        return self.mean + np.concatenate([root.T, -root.T])


def denoiser_of(law: Matrices, known: Levels, k: int) -> Affine:
    """E[x_0|x_k] for Gaussian data, as an affine map of x_k."""
    alpha, variance = known.alpha[k], known.sigma[k] ** 2
    gain = alpha * np.linalg.solve(alpha**2 * law.covariance + variance * np.eye(law.mean.size), law.covariance).T
    return gain, law.mean - alpha * gain @ law.mean


def covariances_of(law: Matrices, known: Levels) -> Array:
    """tr Cov[x_0|x_k]/d for k = 1..N, from (C⁻¹ + α²/σ² I)⁻¹."""
    ratios = (known.alpha[1:] / known.sigma[1:]) ** 2
    spectrum = np.linalg.eigvalsh(law.covariance)
    return np.mean(1 / (1 / spectrum + ratios[:, None]), axis=1)


def encoder_joint(law: Matrices, known: Levels) -> Matrices:
    """q(x_0, ..., x_N), from x_k = α_k x_0 + σ_k ε and the Markov property."""
    n, d = known.alpha.size, law.mean.size
    covariance = np.zeros((n, d, n, d))
    for j in range(n):
        for k in range(j, n):
            scale = known.alpha[k] / known.alpha[j] if k > j else 1.0  # α may end at 0
            block = known.alpha[j] * known.alpha[k] * law.covariance + scale * known.sigma[j] ** 2 * np.eye(d)
            covariance[j, :, k, :] = covariance[k, :, j, :] = block
    return Matrices(np.concatenate([a * law.mean for a in known.alpha]), covariance.reshape(n * d, n * d))


def generator_joint(known: Levels, prior_std: float, denoisers: Iterable[Affine], variances: Array) -> Matrices:
    """p(x_0, ..., x_N) for affine denoisers and the given variances of the steps k = 1..N, from the top."""
    denoisers = list(denoisers)
    n, d = known.alpha.size, denoisers[0][1].size
    means, maps = [np.zeros(d)] * n, [np.zeros((d, n * d))] * n
    fresh = np.eye(n * d).reshape(n, d, n * d)
    maps[-1] = prior_std * fresh[-1]
    for k, (c_t, c_0, _) in reversed(list(enumerate(reverse_coefficients(known), start=1))):
        gain, offset = denoisers[k - 1]
        step = c_t * np.eye(d) + c_0 * gain
        means[k - 1] = step @ means[k] + c_0 * offset
        maps[k - 1] = step @ maps[k] + np.sqrt(variances[k - 1]) * fresh[k - 1]
    whole = np.concatenate(maps)
    return Matrices(np.concatenate(means), whole @ whole.T)


def reverse_coefficients(known: Levels) -> Iterator[tuple[float, float, float]]:
    """(a B₋²/B², A₋ b²/B², b²) of the steps k = 1..N."""
    for k in range(1, known.alpha.size):
        a = known.alpha[k] / known.alpha[k - 1]
        before, after = known.sigma[k - 1] ** 2, known.sigma[k] ** 2
        added = after - a**2 * before
        yield a * before / after, known.alpha[k - 1] * added / after, added


def line_moments(alpha: float, sigma: float) -> tuple[float, float]:
    """(E Var[x_0|x_t], E|∇ln p_t|²) of `laws.line`, by the trapezoidal rule, exact to rounding here."""
    means, stds, weights = np.asarray([-1.0, 1.5]), np.asarray([0.3, 0.5]), np.asarray([0.35, 0.65])
    reach = 2 * alpha + 9 * np.sqrt(0.25 * alpha**2 + sigma**2)
    x = np.linspace(-reach, reach, 4001)[:, None]
    gap, total = x - alpha * means, alpha**2 * stds**2 + sigma**2
    joint = weights * np.exp(-0.5 * gap**2 / total) / np.sqrt(2 * np.pi * total)
    density = np.maximum(joint.sum(axis=1), 1e-300)
    inside, slope = means + alpha * stds**2 / total * gap, -np.sum(joint * gap / total, axis=1) / density
    mean = np.sum(joint * inside, axis=1) / density
    variance = np.sum(joint * (stds**2 * sigma**2 / total + inside**2), axis=1) / density - mean**2
    width = x[1, 0] - x[0, 0]
    return float(width * density @ variance), float(width * density @ slope**2)


def atoms_variance(points: np.ndarray, alpha: float, sigma: float) -> float:
    """E Var[x_0|x_t] for equally likely points."""
    x = np.linspace(-alpha - 9 * sigma, alpha + 9 * sigma, 1501)[:, None]
    density = np.exp(-0.5 * ((x - alpha * points) / sigma) ** 2) / (points.size * sigma * np.sqrt(2 * np.pi))
    total = density.sum(axis=1)
    mean, square = density @ points / total, density @ points**2 / total
    return float((x[1, 0] - x[0, 0]) * total @ (square - mean**2))
