"""An energy in the plane whose law is known: what Langevin dynamics, MALA and HMC are tested on."""

import functools

import jax
import numpy as np

from diffusion.energy import exact_potential, log_density
from diffusion.oracles import GaussianMixture

SIGMA = 0.4
LAW = GaussianMixture.isotropic(np.asarray([[-0.7, 0.2], [0.6, -0.5]]), np.asarray([0.3, 0.4]), np.asarray([0.4, 0.6]))
log_p = log_density(exact_potential(LAW, SIGMA), SIGMA)
"""ln p̂ of p̂ = LAW * N(0, σ²I)."""


@functools.cache
def exact_moments():
    """(function of x (n, 2), its mean under p̂) for three functions, the means by the trapezoidal rule."""
    axis = np.linspace(-4, 4, 161)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(np.asarray(jax.jit(log_p)(x.astype(np.float32)), np.float64))
    masses = density / density.sum()
    moments = (lambda x: x[:, 0], lambda x: np.sum(x**2, -1), lambda x: np.cos(2 * x[:, 0] + x[:, 1]))
    return [(moment, float(masses @ moment(x))) for moment in moments]


def standardised(values, expected):
    """(mean − expected)/standard error."""
    return float((np.mean(values) - expected) / (np.std(values) / np.sqrt(len(values))))
