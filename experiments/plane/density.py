"""Densities of points: of the exact law, and of a model by its probability flow."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from diffusion.betas import Betas
from diffusion.likelihood import Adaptive, log_likelihood
from diffusion.oracles import GaussianMixture
from diffusion.process import Process
from diffusion.schedules import EDM
from experiments.sampling import Model, make_denoiser

_BLOCK = 2048  # points at a time: a block takes as long as its slowest point

Points = Float[np.ndarray, "n 2"]


class ModelDensity(NamedTuple):
    """What the flow of a model says of some points."""

    log_prob: Float[np.ndarray, "n"]
    """ln q(x) in nats, of the law that the flow carries from the prior to the least time; NaN where it is lost."""
    followed: Bool[np.ndarray, "n"]
    """Whether the flow came to its end."""


def has_flow(model: Model) -> bool:
    """Whether there is an ODE to follow: not on a discrete chain."""
    return not isinstance(model.process.schedule, Betas)


def exact_log_prob(law: GaussianMixture, points: Points) -> Float[np.ndarray, "n"]:
    """ln p(x) of the data in nats."""
    process = Process(EDM())
    blocks = [law.log_prob(process, jnp.asarray(points[i : i + _BLOCK]), 0.0) for i in range(0, len(points), _BLOCK)]
    return np.concatenate([np.asarray(block, np.float64) for block in blocks])


def model_log_prob(model: Model, points: Points, tolerance: float = 1e-5, max_steps: int = 1000) -> ModelDensity:
    """ln q(x) by the instantaneous change of variables with the exact divergence, for any noise.

    `tolerance` is the solver's, relative and absolute; after `max_steps` it gives a point up.
    Raises TypeError on a discrete chain, which has no flow.
    """
    denoise, solver = make_denoiser(model, None), Adaptive(tolerance, tolerance, max_steps=max_steps)
    size, log_prob, followed = min(_BLOCK, len(points)), [], []
    for start in range(0, len(points), size):
        part = np.asarray(points[start : start + size], np.float32)
        padded = np.resize(part, (size, *part.shape[1:]))
        found = log_likelihood(model.process, denoise, jnp.asarray(padded), solver=solver)
        log_prob.append(np.asarray(found.log_prob, np.float64)[: len(part)])
        followed.append(np.asarray(found.converged)[: len(part)])
    return ModelDensity(np.concatenate(log_prob), np.concatenate(followed))
