"""Samples against held-out data, with real data and noise in the same numbers for comparison."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from experiments.evaluation.distances import Estimate, density_coverage, frechet_at, precision_recall
from experiments.evaluation.features import FeatureSpace


class Row(NamedTuple):
    """The distances of one set of images from held-out data."""

    frechet: Estimate
    """Fréchet distance, which means something only together with the name of its feature space."""
    precision: float
    recall: float
    density: float
    coverage: float


def compare(
    space: FeatureSpace,
    generated: UInt8[np.ndarray, "n height width channels"],
    train: Float[np.ndarray, "n_train d"],
    held_out: Float[np.ndarray, "n_held_out d"],
    *,
    seed: int = 0,
) -> dict[str, Row]:
    """Three rows, "samples", "training data" and "noise", each against the held-out data at one common n.

    `train` and `held_out` are features (`source_features`). n is the smallest of the three sizes. Perfect
    samples would do as well as training data, and so would copies of it, which no column can tell apart; noise is
    uniform in 0..255, independently in each pixel. Fréchet distance: lower is better; the others: higher is better.

    Raises DataError when there are too few samples, or of the wrong shape.
    """
    n = min(len(generated), len(train), len(held_out))
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (n, *generated.shape[1:]), np.uint8)
    chosen = generated[np.sort(rng.permutation(len(generated))[:n])]
    sets = {"samples": space(chosen), "training data": train, "noise": space(noise)}
    real = held_out[np.sort(rng.permutation(len(held_out))[:n])]
    rows = {}
    for name, features in sets.items():
        features = features[np.sort(rng.permutation(len(features))[:n])]
        frechet = frechet_at(features, real, seed=seed)
        rows[name] = Row(frechet, *precision_recall(real, features), *density_coverage(real, features))
    return rows
