"""Densities of points: under the exact law, and under a model by its probability flow or by its energy."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.energy import log_density
from diffusion.likelihood import Adaptive, log_likelihood
from diffusion.noises import Gaussian
from diffusion.oracles import GaussianMixture
from diffusion.process import Process
from diffusion.pytree import short_repr
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogUniformSigma
from experiments.runs.energy import Energy, energy_of
from experiments.runs.model import Model, make_denoiser

_BLOCK = 2048  # points at a time: a block takes as long as its slowest point
SPAN, NODES = 2.0, 512
"""Z is the integral over [−SPAN, SPAN]² by the midpoint rule with NODES² cells."""

Points = Float[np.ndarray, "n 2"]


class ModelDensity(NamedTuple):
    """The density of a model's probability flow at some points."""

    log_prob: Float[np.ndarray, "n"]
    """ln q(x) in nats, q the law that the flow carries from the prior to the least time; NaN where it is lost."""
    followed: Bool[np.ndarray, "n"]
    """Whether the flow was followed to its end."""

    __repr__ = short_repr


def has_flow(model: Model) -> bool:
    """Whether there is an ODE to follow: there is none for a denoiser that ignores the time."""
    return model.config.preconditioning.kind != "residual"


def exact_log_prob(law: GaussianMixture, points: Points, blur: float = 0.0) -> Float[np.ndarray, "n"]:
    """ln p(x) of the data in nats, or with a `blur` σ of p * N(0, σ²I)."""
    process = Process(EDM())
    blocks = [_exact(law, process, points[i : i + _BLOCK], blur) for i in range(0, len(points), _BLOCK)]
    return np.concatenate([np.asarray(block, np.float64) for block in blocks])


@jax.jit
def _exact(law: GaussianMixture, process: Process, points: Array, blur: Array) -> Array:
    return law.log_prob(process, points, blur)


def model_log_prob(model: Model, points: Points, tolerance: float = 1e-5, max_steps: int = 1000) -> ModelDensity:
    """ln q(x) by the instantaneous change of variables with the exact divergence, for any noise.

    `tolerance` is the solver's, relative and absolute; after `max_steps` steps it gives up on a point.
    A chain has that of `diffusion.continuous`.
    """
    model = model.flow
    denoise, solver = make_denoiser(model, None), Adaptive(tolerance, tolerance, max_steps=max_steps)
    size, log_prob, followed = min(_BLOCK, len(points)), [], []
    for start in range(0, len(points), size):
        part = np.asarray(points[start : start + size], np.float32)
        padded = np.resize(part, (size, *part.shape[1:]))
        found = log_likelihood(model.process, denoise, jnp.asarray(padded), solver=solver)
        log_prob.append(np.asarray(found.log_prob, np.float64)[: len(part)])
        followed.append(np.asarray(found.converged)[: len(part)])
    return ModelDensity(np.concatenate(log_prob), np.concatenate(followed))


@dataclasses.dataclass(frozen=True)
class EnergyDensity:
    """e^{ψ/σ²}/Z of a model whose denoiser is y + ∇ψ(y), an estimate of p * N(0, σ²I), σ the least level trained at.

    It is that law if σ was the only level (Bigdeli et al. 2020, arXiv:2001.02728). Trained on many it is the energy of
    multiscale denoising score matching, near that law and not it (`diffusion.energy.multiscale`).
    """

    energy: Energy

    @property
    def sigma(self) -> float:
        """σ, in the units of the data."""
        return self.energy.sigma

    @property
    def one_level(self) -> bool:
        """Whether it was trained at this level alone."""
        return self.energy.sigma == self.energy.high

    @functools.cached_property
    def log_z(self) -> float:
        """ln Z in nats, over the span alone: beyond it the energy is not to be trusted."""
        values = self._unnormalised(square(SPAN, NODES))
        top = values.max()
        return float(top + np.log(np.mean(np.exp(values - top))) + 2 * math.log(2 * SPAN))

    @functools.cached_property
    def _log_p(self) -> Callable[[Points], Array]:
        """ψ/σ², compiled."""
        return jax.jit(log_density(self.energy.psi, self.sigma))

    def log_prob(self, points: Points) -> Float[np.ndarray, "n"]:
        """ψ(y)/σ² − ln Z in nats."""
        return self._unnormalised(points) - self.log_z

    def _unnormalised(self, points: Points) -> Float[np.ndarray, "n"]:
        size, values = min(_BLOCK, len(points)), []
        for start in range(0, len(points), size):
            part = np.asarray(points[start : start + size], np.float32)
            values.append(np.asarray(self._log_p(np.resize(part, (size, 2))), np.float64)[: len(part)])
        return np.concatenate(values)


def energy_density(model: Model) -> EnergyDensity | None:
    """The density of a conservative model that is not told the noise level; σ comes from its `LogUniformSigma` times.

    None for any other model: without a least noise level, or with noise that is not Gaussian, ψ has no density.
    """
    config = model.config
    blind = config.preconditioning.kind == "residual" and config.conservative
    if not (blind and isinstance(config.times, LogUniformSigma) and isinstance(config.noise, Gaussian)):
        return None
    return EnergyDensity(energy_of(model))


def square(reach: float, count: int) -> Points:
    """The middles of `count`² cells of [−reach, reach]², row by row from the bottom."""
    axis = reach * ((np.arange(count) + 0.5) / count * 2 - 1)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
