"""Distances between two sets of features: Fréchet, precision and recall, density and coverage.

All of them depend on the number of samples. `frechet_at` compares sets at one common size, the only fair way to
compare two of its values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import ThreadpoolController

from diffusion.pytree import short_repr
from experiments.errors import DataError

Features = Float[np.ndarray, "n d"]
WIDE = 256
"""From so many features on errors are of the first order, and all cores are used."""
BLOCK = 1024  # rows of a matrix of pairwise distances that are held at once
ROUNDING = 1e-12  # relative to the largest squared norm; equal points may come out this far apart


class Moments(NamedTuple):
    """Mean (d,) and unbiased covariance (d, d) of features, in float64."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]

    __repr__ = short_repr


class Estimate(NamedTuple):
    """A distance, its bootstrap standard error, and the number of samples on either side."""

    value: float
    standard_error: float
    n: int


class Support(NamedTuple):
    """Fractions in [0, 1]."""

    precision: float
    recall: float


def moments(features: Features) -> Moments:
    """μ = Σ f_i / n and S = Σ (f_i − μ)(f_i − μ)ᵀ / (n − 1).

    Raises DataError for fewer than two rows or a value that is not finite.
    """
    features = _finite(features, "features")
    if len(features) < 2:
        raise DataError(f"a covariance of {len(features)} samples does not exist; give at least two.")
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(
    mean1: Float[np.ndarray, " d"],
    cov1: Float[np.ndarray, "d d"],
    mean2: Float[np.ndarray, " d"],
    cov2: Float[np.ndarray, "d d"],
) -> float:
    """|μ₁ − μ₂|² + tr S₁ + tr S₂ − 2 tr (S₁^{1/2} S₂ S₁^{1/2})^{1/2}.

    The *squared* 2-Wasserstein (Fréchet) distance of two Gaussians, in squared units of the features: the form in
    which it is reported since Heusel et al. 2017 (arXiv:1706.08500). Covariances of any rank. Only in the features
    of one Inception network is it called FID.

    Source: Dowson & Landau 1982.
    """
    # The eigenvalues of S₁^{1/2} S₂ S₁^{1/2} are the squared singular values of S₁^{1/2} S₂^{1/2}; squaring them
    # first would cost half the digits, all of them for the small ones.
    root1, root2 = matrix_root(cov1), matrix_root(cov2)
    cross = np.linalg.svd(root1 @ root2, compute_uv=False).sum()
    squared = np.sum((np.asarray(mean1, np.float64) - mean2) ** 2) + np.sum(root1**2) + np.sum(root2**2) - 2 * cross
    return max(0.0, float(squared))


def frechet_at(
    features1: Features, features2: Features, n: int | None = None, *, seed: int = 0, resamples: int = 50
) -> Estimate:
    """The Fréchet distance of n rows of either set, drawn without replacement, and its standard error.

    By default n is the size of the smaller set. The distance of two finite samples is biased upwards: for two sets
    from one Gaussian with eigenvalues λ of its covariance, two halves of one data set, its mean is about
    (1/n₁ + 1/n₂) (Σ_i λ_i + ½ Σ_ij (1 + δ_ij) λ_i λ_j / (λ_i + λ_j)) and not 0. So only values at equal n can be
    compared, and perfect samples would score what real data score against real data at that n (the bias of FID: Chong &
    Forsyth 2020, arXiv:1911.07023). The standard error is the spread of the distance over `resamples` bootstrap
    samples of both sets; it covers the choice of samples, not the bias and not the network, and for two sets of nearly
    one law it is too large, by up to a factor of two. The result depends on the data, n and the seed alone.

    Raises DataError when n is below 2 or above the size of either set.
    """
    smaller = min(len(features1), len(features2))
    n = smaller if n is None else n
    if not 2 <= n <= smaller:
        raise DataError(f"n is {n}, but there are {len(features1)} and {len(features2)} samples; give 2 to {smaller}.")
    rng = np.random.default_rng(seed)
    first, second = (np.asarray(rows)[np.sort(rng.permutation(len(rows))[:n])] for rows in (features1, features2))
    with one_thread():
        value = frechet_distance(*moments(first), *moments(second))
        spread = []
        for _ in range(resamples):
            draws = (rows[rng.integers(0, n, n)] for rows in (first, second))
            spread.append(frechet_distance(*(moment for rows in draws for moment in moments(rows))))
    return Estimate(value, float(np.std(spread, ddof=1)) if resamples > 1 else float("nan"), n)


def precision_recall(real: Features, generated: Features, k: int = 3) -> Support:
    """Precision: the fraction of generated samples in the support of the data. Recall: the reverse.

    The support of a set is the union of the closed balls around its points that reach their k-th nearest
    neighbour in the same set, the point itself not counted. Swapping the sets swaps the two numbers. Compare at
    equal sizes: more points make smaller balls.

    Raises DataError for sets of at most k samples. Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, section 2.
    """
    real, generated = _finite(real, "real"), _finite(generated, "generated")
    with one_thread(real.shape[1]):
        return Support(_inside(generated, real, k), _inside(real, generated, k))


def density_coverage(real: Features, generated: Features, k: int = 5) -> tuple[float, float]:
    """Density Σ_ij 1[g_j ∈ B_i] / (k m), and coverage: the fraction of real balls B_i with a generated sample in them.

    B_i is the ball around real sample i that reaches its k-th nearest real neighbour, m the number of generated
    samples. Both are about 1 for perfect samples; density can exceed it. Unlike precision and recall, both use the
    balls of the real samples only, so an outlier among the generated counts for nothing.

    Raises DataError for at most k real samples. Source: Naeem et al. 2020, arXiv:2002.09797, equations 3 and 4.
    """
    real, generated = _finite(real, "real"), _finite(generated, "generated")
    hits, covered = 0, np.zeros(len(real), bool)
    with one_thread(real.shape[1]):
        for members in _memberships(generated, real, k):
            hits += int(members.sum())
            covered |= members.any(0)
    return hits / (k * len(generated)), float(covered.mean())


def _inside(points: Features, support: Features, k: int) -> float:
    """The fraction of `points` in at least one of the balls of `support`."""
    return float(np.concatenate([members.any(1) for members in _memberships(points, support, k)]).mean())


def _memberships(points: Features, support: Features, k: int) -> Iterator[Bool[np.ndarray, "block n"]]:
    """Whether point j lies in the ball around support point i, in blocks of rows j."""
    if not 1 <= k < len(support):
        raise DataError(f"{len(support)} samples do not have k = {k} neighbours each; give more, or another k from 1.")
    centre = support.mean(0)  # distances lose fewer digits near the origin
    points, support = points - centre, support - centre
    # The point itself is the nearest, so the k-th neighbour is the element at index k.
    radii = np.concatenate([np.partition(block, k, axis=1)[:, k] for block in _squared_distances(support, support)])
    slack = ROUNDING * np.max(np.sum(support**2, 1))
    for block in _squared_distances(points, support):
        yield block <= radii + slack


def _squared_distances(a: Features, b: Features) -> Iterator[Float[np.ndarray, "block n"]]:
    """|a_i − b_j|² in blocks of rows."""
    norms = np.sum(b**2, 1)
    for start in range(0, len(a), BLOCK):
        rows = a[start : start + BLOCK]
        yield np.maximum(np.sum(rows**2, 1)[:, None] + norms - 2 * rows @ b.T, 0)


def matrix_root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """S^{1/2} of a symmetric positive semi-definite matrix; eigenvalues within rounding of 0 are 0."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    values = np.where(values > len(values) * np.finfo(np.float64).eps * np.max(np.abs(values)), values, 0)
    return (vectors * np.sqrt(values)) @ vectors.T


def one_thread(width: int = 0) -> AbstractContextManager[Any]:
    """Matrix products on one core, but for wide ones. On busy cores, threads make small matrices 100 times slower."""
    return nullcontext() if width >= WIDE else _blas().limit(limits=1)


@functools.cache
def _blas() -> ThreadpoolController:
    """The BLAS of NumPy, found once: that takes 20 ms."""
    return ThreadpoolController().select(user_api="blas")


def _finite(features: Features, name: str) -> Features:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise DataError(f"{name} of shape {features.shape} must be a finite matrix (n, d); look for diverged samples.")
    return features
