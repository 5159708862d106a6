"""What is measured along a training: a function of a step, every so many steps. It has no part in the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.config.tree import Config
from experiments.training.data import RunData
from experiments.training.progress import Step


@dataclass(frozen=True)
class Measure:
    """Numbers by their names, for metrics.jsonl and the trackers."""

    every: int
    """Steps between two."""
    of: Callable[[Step], Mapping[str, float]]
    """Is given the step while its parameters can be read; what it raises ends the training."""


Measuring = Callable[[Config, RunData], Sequence[Measure]]
"""What measures a run, once its data are open. Raises UsageError for what cannot be measured of them."""
