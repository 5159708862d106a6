"""The pairs of data and noise on which the losses of few-step models are measured: x_0 ~ N(0, ¼) and z, on the line."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.oracles import GaussianLaw
from diffusion.pytree import short_repr
from experiments.verification.closed_forms import levels

STD = 0.5
"""The standard deviation of the data on the line."""
SCHEDULES = ("VP", "Cosine", "EDM", "RectifiedFlow")
"""Those of `closed_forms.STEPS` that such losses are measured on."""


class Rule(NamedTuple):
    """Nodes and weights of the expectation over x_0 and z, exact for polynomials of degree 9 in either."""

    x_0: np.ndarray
    z: np.ndarray
    weights: np.ndarray

    __repr__ = short_repr

    def mean(self, values: jax.Array) -> jax.Array:
        """The expectation of values at the nodes."""
        return jnp.sum(jnp.asarray(self.weights, values.dtype) * values)


def rule(std: float = STD) -> Rule:
    """That of x_0 ~ N(0, std²)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    first, second = (part.reshape(-1, 1) for part in np.meshgrid(nodes, nodes, indexing="ij"))
    return Rule(std * first, second, np.outer(weights, weights).ravel() / (2 * np.pi))


def law() -> GaussianLaw:
    """N(0, STD²)."""
    return GaussianLaw.isotropic(np.zeros(1), STD)


def variance(name: str, t: Any) -> np.ndarray:
    """V = α² STD² + σ² of a process of `closed_forms.STEPS`."""
    at = levels(name, t)
    return at.alpha**2 * STD**2 + at.sigma**2
