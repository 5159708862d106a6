"""Four laws in the plane to look at samplers and networks with, each a mixture of Gaussians and known exactly.

    checkerboard()      every other square of 4 × 4, flat inside
    two_moons()         two half circles, each with its end in the other
    two_spirals()       two arms of one and a quarter turns, each the other's mirror image through the origin
    eight_gaussians()   eight well separated modes on a circle

All have mean 0 and the standard deviation `STD` = ½, the root mean square of both coordinates, which is EDM's σ_data;
nearly all of their mass lies in [−1.1, 1.1]². A curve is a row of Gaussians evenly spaced by arc length, no further
apart than they are wide: along it the density varies by 2 exp(−2π² w²/h²) < 1e-8 for spacing h and width w, by
Poisson's summation formula. The data sets of these shapes in use elsewhere (FFJORD's, scikit-learn's) add noise to
points; these have a density.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from diffusion.oracles.laws import GaussianMixture

STD = 0.5
"""√(tr Cov[x_0]/2) of every law here."""
TILES = 12
"""Gaussians along the side of one square of the checkerboard."""
_TILE_WIDTH = 0.75  # of their spacing: ripples of 2 exp(−2π² · 0.75²) = 3e-5, edges a sixteenth of a side wide


def checkerboard() -> GaussianMixture:
    """The 8 squares (i, j) of 4 × 4 with i + j even, of equal mass, each `TILES`² Gaussians 0.75 spacings wide.

    With s the side of a square and w the width, the density inside is that of smoothed squares,
    Σ_squares Π_axes (Φ((x − a)/w) − Φ((x − a − s)/w))/(8 s²), to 6e-5: flat but for a soft edge of width w = s/16.
    """
    squares = np.asarray([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])
    tiles = np.stack(np.meshgrid(*2 * [np.arange(TILES) + 0.5], indexing="ij"), axis=-1).reshape(-1, 2)
    return _standardised((TILES * squares[:, None] + tiles).reshape(-1, 2), _TILE_WIDTH)


def two_moons() -> GaussianMixture:
    """(cos θ, sin θ) and (1 − cos θ, ½ − sin θ) for θ in [0, π], of width 0.07 in these units, then standardised."""
    angle = np.pi * _middles(80)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return _standardised(np.concatenate([upper, [1.0, 0.5] - upper]), 0.07)


def two_spirals() -> GaussianMixture:
    """±θ (cos θ, sin θ) for θ in [π/2, 3π], evenly by arc length, of width 0.38 in these units, then standardised.

    An arc is ½ (θ √(1 + θ²) + asinh θ) long from the origin; neighbouring turns are π apart.
    """
    fine = np.linspace(0.5 * np.pi, 3 * np.pi, 10_001)
    length = 0.5 * (fine * np.sqrt(1 + fine**2) + np.arcsinh(fine))
    angle = np.interp(length[0] + (length[-1] - length[0]) * _middles(250), length, fine)
    arm = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return _standardised(np.concatenate([arm, -arm]), 0.38)


def eight_gaussians() -> GaussianMixture:
    """Eight N(m_k, w² I) of equal weight on a circle, w a fourteenth of its radius; the first at angle 0."""
    angle = 2 * np.pi * np.arange(8) / 8
    return _standardised(np.stack([np.cos(angle), np.sin(angle)], axis=-1), 1 / 14)


def _middles(count: int) -> Float[np.ndarray, " n"]:
    """The middles of `count` equal parts of [0, 1]."""
    return (np.arange(count) + 0.5) / count


def _standardised(means: Float[np.ndarray, "K 2"], width: float) -> GaussianMixture:
    """Equal N(means_k, width² I), shifted and scaled to mean 0 and tr Cov = 2 STD²."""
    means = means - means.mean(axis=0)
    scale = STD / np.sqrt(np.mean(means**2) + width**2)
    return GaussianMixture.isotropic(scale * means, scale * width)
