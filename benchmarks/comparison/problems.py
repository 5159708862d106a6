"""Where samplers are compared: three mixtures of Gaussians under EDM's process, their denoisers and exact answers.

Every sampler is given the same x at σ = 80 and the same exact denoiser, in float64, and is compared with the solution
of the probability-flow ODE at σ = 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion.oracles import GaussianMixture

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
PROCESS = Process(EDM(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX))


@dataclass(frozen=True)
class Problem:
    """A law, a start at σ_max, and where the probability flow takes it. Make it, and use it, in float64."""

    name: str
    law: GaussianMixture
    start: np.ndarray
    """x at σ_max, (b, d), drawn from the exact marginal."""
    exact: np.ndarray
    """x at σ = 0."""
    uncertainty: float
    """The largest change of `exact` when its tolerances are a hundred times as wide."""
    process: Process = PROCESS

    @functools.cached_property
    def denoise(self) -> Callable[..., Any]:
        """(x, σ) -> E[x_0 | x_σ = x], compiled."""
        return jax.jit(self.law.denoiser(self.process))


class Counted:
    """The exact denoiser, for NumPy or for JAX, which counts how often it is really evaluated."""

    def __init__(self, problem: Problem) -> None:
        self.calls = 0
        self._denoise = problem.denoise
        self.traced = Partial(self._counting)
        """The same for JAX: counted when the compiled program gets there, not when it is traced."""

    def __call__(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """E[x_0 | x_σ = x]."""
        self.calls += 1
        return np.array(self._denoise(jnp.asarray(x, float), jnp.asarray(sigma, float)))

    def _counting(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        jax.debug.callback(self._count)
        return self._denoise(x, sigma)

    def _count(self) -> None:
        self.calls += 1


def sibling(name: str) -> GaussianMixture:
    """Another law of the same kind, drawn apart: what a grid may be fitted to without having seen the problem."""
    return LAWS[name][0](np.random.default_rng(1))


def problem(name: str, batch: int | None = None) -> Problem:
    """One of `LAWS` with its answer; `batch` starts, its own number unless given.

    Raises RuntimeError where the answer is not known to 1e-9.
    """
    make, size = LAWS[name]
    law = make(np.random.default_rng(0))
    start = np.asarray(law.sample_marginal(jax.random.key(1), PROCESS, batch or size, SIGMA_MAX))
    answer, check = flow(law, start, 1e-13), flow(law, start, 1e-11)
    found = Problem(name, law, start, answer, float(np.abs(answer - check).max()))
    if not found.uncertainty <= 1e-9:
        raise RuntimeError(f"{name}: two references differ by {found.uncertainty:.1e}; no error below can be told.")
    return found


def flow(law: GaussianMixture, x: np.ndarray, tolerance: float) -> np.ndarray:
    """x at σ = 0 by dx/dσ = −σ ∇ ln p_σ(x), DOP853: the score does not divide by σ, so that the end is regular."""
    score = jax.jit(lambda y, sigma: law.score(PROCESS, y, sigma))

    def slope(sigma: float, y: np.ndarray) -> np.ndarray:
        return -sigma * np.asarray(score(jnp.asarray(y.reshape(x.shape)), jnp.asarray(sigma, float))).ravel()

    solution = scipy.integrate.solve_ivp(
        slope, (SIGMA_MAX, 0.0), x.ravel(), method="DOP853", rtol=tolerance, atol=tolerance
    )
    return solution.y[:, -1].reshape(x.shape)


def _ring(rng: np.random.Generator) -> GaussianMixture:
    """Eight unequal humps near a circle."""
    angles = 2 * np.pi * (np.arange(8) + rng.uniform(-0.25, 0.25, 8)) / 8
    weights = rng.uniform(0.5, 1.5, 8)
    means = rng.uniform(0.55, 0.85, (8, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return GaussianMixture.isotropic(means, stds=rng.uniform(0.05, 0.15, 8), weights=weights / weights.sum())


def _space(rng: np.random.Generator) -> GaussianMixture:
    """Six humps in 64 dimensions, each with a covariance of its own, whose spectrum falls as images' do."""
    spectra = 0.5 / np.arange(1, 65)
    turns = [np.linalg.qr(rng.normal(size=(64, 64)))[0] for _ in range(6)]
    covariances = np.stack([(turn * (spectra**2 + 0.03**2)) @ turn.T for turn in turns])
    return GaussianMixture.full(rng.normal(scale=0.4, size=(6, 64)), covariances)


def _images(rng: np.random.Generator) -> GaussianMixture:
    """Ten classes of 28 × 28 pixels: smooth means, 16 directions of variation each, and a little noise."""
    waves = np.stack([np.cos(np.pi * k * (np.arange(28) + 0.5) / 28) for k in range(8)])
    basis = np.einsum("ay,bx->abyx", waves, waves).reshape(64, 784)
    falling = 1 / (1 + np.add.outer(np.arange(8), np.arange(8)).ravel())
    means = (rng.normal(size=(10, 64)) * falling) @ basis * 0.4
    factors = np.einsum("krf,fp->kpr", rng.normal(size=(10, 16, 64)) * falling, basis) * 0.08
    return GaussianMixture.low_rank(means, factors, stds=0.05)


LAWS: dict[str, tuple[Callable[[np.random.Generator], GaussianMixture], int]] = {
    "2-D": (_ring, 256),
    "64-D": (_space, 128),
    "784-D": (_images, 64),
}
"""Each law, and how many starts it is given."""
