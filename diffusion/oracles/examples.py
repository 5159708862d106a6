"""Small mixtures that identities, orders and tests are measured on, besides those in the `planar` module."""

from __future__ import annotations

import numpy as np

from diffusion.oracles.laws import GaussianMixture


def line() -> GaussianMixture:
    """Two well separated, unequal humps on the line."""
    return GaussianMixture.isotropic(
        means=np.asarray([[-1.0], [1.5]]), stds=np.asarray([0.3, 0.5]), weights=np.asarray([0.35, 0.65])
    )


def space(dim: int = 8) -> GaussianMixture:
    """Three unequal humps in `dim` dimensions, with means drawn from N(0, I)."""
    return _three_humps(dim, 1.0)


def mixture(dim: int) -> GaussianMixture:
    """Three unequal humps in `dim` dimensions that overlap: their means are about √3 long, and √dim below three."""
    return _three_humps(dim, np.sqrt(max(dim, 3) / 3))


def _three_humps(dim: int, shrink: float) -> GaussianMixture:
    means = np.random.default_rng(0).normal(size=(3, dim)) / shrink
    return GaussianMixture.isotropic(means, stds=np.asarray([0.4, 0.6, 0.5]), weights=np.asarray([0.2, 0.5, 0.3]))
