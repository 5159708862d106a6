"""When the held-out loss tells that a training has gone on for too long: a warning, and an early stop.

Both are functions of what was measured, and touch neither devices nor files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

ERRORS = 3.0
"""Standard errors by which the held-out loss must have risen."""
TIMES = 4
"""Validations in a row for which it must have."""


@dataclass(frozen=True)
class Validation:
    """What is known at a validation."""

    step: int
    training: float
    """Mean of the training loss since the validation before."""
    held_out: Sequence[float]
    """The held-out loss of each element, always of the same elements with the same times and noise."""


class Parting:
    """Whether held-out and training loss part, which they do when there are too few images for the network.

    Call it with each validation. With h_n,i the held-out loss of element i at validation n and m the validation of the
    lowest mean, the rise is r_n = mean_i(h_n,i − h_m,i), and its standard error e_n = std_i(h_n,i − h_m,i)/√N: the
    elements are the same, so what they have in common is in neither. The losses part when r_n > 3 e_n for 4 validations
    in a row, during which the training loss is on average below what it was at m. Where there is nothing but noise, new
    at each validation, the minimum is the luckiest one; but a rise of three errors over it hardly ever comes four times
    in a row.

    It answers the validation of the minimum, once; None otherwise, and also where fewer than two elements are held out.
    """

    def __init__(self) -> None:
        self._lowest: Validation | None = None
        self._risen: list[float] = []
        """The training losses of the validations in a row at which the held-out loss had risen."""
        self._told = False

    def __call__(self, now: Validation) -> Validation | None:
        """The validation of the minimum if the losses part with this one."""
        held_out = np.asarray(now.held_out, np.float64)
        if self._told or len(held_out) < 2 or not np.isfinite(held_out).all():
            return None
        if self._lowest is None or held_out.mean() < np.mean(self._lowest.held_out):
            self._lowest, self._risen = now, []
            return None
        rise = held_out - np.asarray(self._lowest.held_out, np.float64)
        error = rise.std(ddof=1) / math.sqrt(len(rise))
        self._risen = [*self._risen, now.training] if rise.mean() > ERRORS * error else []
        if len(self._risen) < TIMES or not np.mean(self._risen) < self._lowest.training:
            return None
        self._told = True
        return self._lowest


@dataclass(frozen=True)
class Patience:
    """How many validations there were since the lowest held-out loss; a loss that is not finite is never the lowest."""

    lowest: float = math.inf
    step: int = 0
    """The step of the lowest."""
    since: int = 0

    def after(self, step: int, loss: float) -> Patience:
        """With one validation more."""
        if loss < self.lowest:
            return Patience(loss, step)
        return replace(self, since=self.since + 1)

    def after_all(self, losses: Iterable[tuple[int, float]]) -> Patience:
        """With several more, as (step, loss) in order."""
        patience = self
        for step, loss in losses:
            patience = patience.after(step, loss)
        return patience

    def is_over(self, stop_after: int) -> bool:
        """Whether a training stops here that stops after so many validations without a lower loss; 0 is never."""
        return 0 < stop_after <= self.since
