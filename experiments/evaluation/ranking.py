"""How well a score tells two sets apart: the area under the receiver operating characteristic, and its error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.errors import DataError

Scores = Float[np.ndarray, " n"]


class AUROC(NamedTuple):
    """P(high > low) + ½ P(high = low) for one score of each set: ½ if it tells nothing, 1 if it never fails."""

    value: float
    standard_error: float
    """The standard error of the area, from both sets; NaN if one has a single score."""


def auroc(high: Scores, low: Scores) -> AUROC:
    """How often a score of `high` lies above one of `low`, ties as one half, over all pairs.

    The error is √(Var V/m + Var W/n), V_i the share of `low` below high_i and W_j the share of `high` above low_j
    (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44, 837). Raises DataError for an empty set or NaN.
    """
    high, low = np.asarray(high, np.float64), np.asarray(low, np.float64)
    if not (len(high) and len(low)) or np.isnan(high).any() or np.isnan(low).any():
        raise DataError(f"{len(high)} and {len(low)} scores cannot be compared; give at least one of each, and no NaN.")
    above, beneath = share_below(high, low), 1 - share_below(low, high)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = sum(_variance(shares) / len(shares) for shares in (above, beneath))
    return AUROC(float(above.mean()), float(np.sqrt(variance)))


def share_below(scores: Scores, others: Scores) -> Scores:
    """The share of `others` that lie below each of the scores, ties as one half."""
    ordered = np.sort(others)
    places = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return places / (2 * len(others))


def _variance(values: Scores) -> float:
    return float(np.sum((values - values.mean()) ** 2)) / (len(values) - 1) if len(values) > 1 else float("nan")
