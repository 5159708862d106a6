"""Distances in thousands of features: one decomposition where many resamples would take hours, and no pair kept.

The standard errors are those of the first order: the spread, over the images of either set, of what one image adds to
the distance (its influence), divided by the root of their number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.errors import DataError
from experiments.evaluation.distances import BLOCK, Features, Moments, matrix_root, moments

_SMALLEST = 1e-10
"""Singular values below this part of the largest are none: there one set has no spread that the other could share."""


class Distance(NamedTuple):
    """A distance with its standard error, NaN where the images are not there, and the counts, None where not told."""

    value: float
    standard_error: float
    first: int | None
    second: int | None


class Side(NamedTuple):
    """A set of images as Fréchet's distance sees it."""

    moments: Moments
    features: Features | None = None
    """None where only the moments are known."""
    number: int | None = None
    """Of the images, None where it is not told."""


def side(features: Features) -> Side:
    """The set with these features. Raises DataError as `moments` does."""
    return Side(moments(features), np.asarray(features), len(features))


def frechet(first: Side, second: Side) -> Distance:
    """|μ₁ − μ₂|² + tr S₁ + tr S₂ − 2 tr (S₁^{1/2} S₂ S₁^{1/2})^{1/2}, of all images on either side.

    With S_i = A_i A_iᵀ, where A_i is the root or, of fewer images than features, the centred features over √(n − 1),
    and A₁ᵀ A₂ = U s Vᵀ, the last trace is Σ s, and T = A₂ V s⁻¹ Vᵀ A₂ᵀ maps the first Gaussian to the second. An image
    at x = f − μ₁ adds

        (|x|² − xᵀ T x) n/(n − 1) + 2 (μ₁ − μ₂)·x + const

    to first order, and one of the second set the same with the sets exchanged. The error covers the choice of images,
    not the bias upwards of finite sets, which falls as one over their number, and is
    some 1.4 times too large for two sets of one law. A side of which only the moments are known adds nothing to it.

    Raises DataError for sides of different numbers of features. Source: Dowson & Landau 1982; the gradient is that of
    the optimal map (Takatsu 2011, arXiv:0801.2250).
    """
    mean1, mean2 = first.moments.mean, second.moments.mean
    if len(mean1) != len(mean2):
        raise DataError(f"the sets have {len(mean1)} and {len(mean2)} features each; measure them by one network.")
    half1, half2 = _half(first), _half(second)
    left, values, right = np.linalg.svd(half1.T @ half2, full_matrices=False)
    squared = np.sum((mean1 - mean2) ** 2) + np.sum(half1**2) + np.sum(half2**2) - 2 * values.sum()
    kept = values > _SMALLEST * max(values[0], np.finfo(np.float64).tiny)
    inverse = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)
    variance = _variance(first, mean1 - mean2, (half2 @ right.T) * inverse)
    variance += _variance(second, mean2 - mean1, (half1 @ left) * inverse)
    known = first.features is not None or second.features is not None
    return Distance(max(0.0, float(squared)), math.sqrt(variance) if known else math.nan, first.number, second.number)


def _half(one: Side) -> Float[np.ndarray, "d r"]:
    """A with A Aᵀ the covariance, of as few columns as will do."""
    if one.features is None or len(one.features) > len(one.moments.mean):
        return matrix_root(one.moments.covariance)
    return (np.asarray(one.features, np.float64) - one.moments.mean).T / math.sqrt(len(one.features) - 1)


def _variance(one: Side, away: np.ndarray, to_half: Float[np.ndarray, "d r"]) -> float:
    """The variance of the influence over the number of images; T = `to_half` `to_half`ᵀ."""
    if one.features is None:
        return 0.0
    added, unbiased = [], len(one.features) / (len(one.features) - 1)
    for start in range(0, len(one.features), BLOCK):
        x = np.asarray(one.features[start : start + BLOCK], np.float64) - one.moments.mean
        added.append((np.sum(x**2, 1) - np.sum((x @ to_half) ** 2, 1)) * unbiased + 2 * x @ away)
    return float(np.concatenate(added).var(ddof=1)) / len(one.features)


def kernel_distance(first: Features, second: Features) -> Distance:
    """The squared MMD of the kernel k(x, y) = (x·y/d + 1)³, without bias: the mean of KID over all subsets.

        Σ_{i≠j} k(x_i, x_j)/(n(n − 1)) + Σ_{i≠j} k(y_i, y_j)/(m(m − 1)) − 2 Σ_ij k(x_i, y_j)/(nm)

    It may be negative. The standard error is 2 √(var h(x)/n + var h(y)/m), where h(x_i) is the mean of k(x_i, x_j) over
    the others less that of k(x_i, y_j); for two sets of one law it is too large, up to √2-fold.

    Raises DataError for fewer than two images. Source: Bińkowski et al. 2018, arXiv:1801.01401, section 4; the error is
    that of U-statistics, Hoeffding 1948.
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        raise DataError(f"a kernel distance of {n} and {m} images does not exist; give at least two of each.")
    own1, cross1 = _means(first, first, own=True), _means(first, second)
    own2, cross2 = _means(second, second, own=True), _means(second, first)
    value = float(own1.mean() + own2.mean() - 2 * cross1.mean())
    variance = (own1 - cross1).var(ddof=1) / n + (own2 - cross2).var(ddof=1) / m
    return Distance(value, 2 * math.sqrt(variance), n, m)


def _means(rows: Features, columns: Features, own: bool = False) -> Float[np.ndarray, " n"]:
    """Of each row the mean of the kernel over all columns, its own left out if they are the same."""
    columns, means = np.asarray(columns, np.float64), []
    for start in range(0, len(rows), BLOCK):
        some = np.asarray(rows[start : start + BLOCK], np.float64)
        kernel = (some @ columns.T / columns.shape[1] + 1) ** 3
        if own:
            kernel[np.arange(len(some)), start + np.arange(len(some))] = 0
        means.append(kernel.sum(1) / (len(columns) - own))
    return np.concatenate(means)
