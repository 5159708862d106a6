"""Samples against held-out data, with real data and noise in the same numbers for comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.data.source import Pixels
from experiments.evaluation.distances import WIDE, Estimate, Features, density_coverage, frechet_at, precision_recall
from experiments.evaluation.features import Space
from experiments.evaluation.wide import frechet, side

_PART = 64  # images of noise that are drawn at a time, a multiple of 4


class Row(NamedTuple):
    """The distances of one set of images from held-out data."""

    frechet: Estimate
    """Fréchet distance, which means something only together with the name of its feature space."""
    precision: float
    recall: float
    density: float
    coverage: float


def compare(
    space: Space,
    generated: Iterable[Pixels],
    shape: tuple[int, ...],
    train: Float[np.ndarray, "n_train d"],
    held_out: Float[np.ndarray, "n_held_out d"],
    *,
    seed: int = 0,
    bits: int = 8,
) -> dict[str, Row]:
    """Three rows, "samples", "training data" and "noise", each against the held-out data at one common n.

    `generated` are the samples, in parts, and `shape` is (n, height, width, channels), that of all together: of each no
    more is kept than its features. `train` and `held_out` are features (`source_features`). n is the smallest of the
    three sizes. Perfect samples would do as well as training data, and so would copies of it, which no column can tell
    apart; noise is uniform in the levels of `bits`, independently in each pixel. Fréchet distance: lower is better; the
    others: higher is better.

    Raises DataError when there are too few samples, or of the wrong shape.
    """
    n = min(shape[0], len(train), len(held_out))
    rng = np.random.default_rng(seed)
    noise = space.streamed(_noise(rng, n, shape[1:], bits), n)
    chosen = np.sort(rng.permutation(shape[0])[:n])
    sets = {"samples": space.streamed(_rows(generated, chosen), n), "training data": train, "noise": noise}
    real = held_out[np.sort(rng.permutation(len(held_out))[:n])]
    rows = {}
    for name, features in sets.items():
        features = features[np.sort(rng.permutation(len(features))[:n])]
        rows[name] = Row(
            _frechet(features, real, seed), *precision_recall(real, features), *density_coverage(real, features)
        )
    return rows


def _frechet(features: Features, real: Features, seed: int) -> Estimate:
    """By resamples, or from `WIDE` features on to first order, for one resample takes seconds there."""
    if real.shape[1] < WIDE:
        return frechet_at(features, real, seed=seed)
    whole = frechet(side(features), side(real))
    return Estimate(whole.value, whole.standard_error, len(real))


def _noise(rng: np.random.Generator, count: int, shape: tuple[int, ...], bits: int = 8) -> Iterator[np.ndarray]:
    """The numbers that one draw would give, in parts: NumPy draws bytes four at a time."""
    for start in range(0, count, _PART):
        size = (min(_PART, count - start), *shape)
        yield rng.integers(0, 2**bits, size, np.uint16 if bits == 16 else np.uint8)


def _rows(parts: Iterable[np.ndarray], chosen: np.ndarray) -> Iterator[np.ndarray]:
    """The rows `chosen`, in rising order, of all parts together."""
    start = 0
    for part in parts:
        low, high = np.searchsorted(chosen, (start, start + len(part)))
        yield part[chosen[low:high] - start]
        start += len(part)
