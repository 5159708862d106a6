"""Data laws whose noisy marginals are known exactly: the answers that everything else is checked against.

Every law here is a mixture of Gaussians or of Gaussian scale mixtures, and so is every noise. So p_t, its score,
E[x_0 | x_t] and Cov[x_0 | x_t] are closed forms, or one integral over ln τ (`mixing`) of closed forms, under
every schedule and every noise.
"""

from diffusion.oracles.law import Law
from diffusion.oracles.laws import Atoms, Dirac, GaussianLaw, GaussianMixture, StudentTMixture
from diffusion.oracles.planar import checkerboard, eight_gaussians, two_moons, two_spirals
from diffusion.oracles.transport import flow_map_1d, quantile

__all__ = [
    "Atoms",
    "Dirac",
    "GaussianLaw",
    "GaussianMixture",
    "Law",
    "StudentTMixture",
    "checkerboard",
    "eight_gaussians",
    "flow_map_1d",
    "quantile",
    "two_moons",
    "two_spirals",
]
