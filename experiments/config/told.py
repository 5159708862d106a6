"""What is measured along a training and where it is told, as the command line and `config.json` say it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments.errors import Refusals


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics and pictures go besides metrics.jsonl; `--track NAMES` for short."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers by name, such as tensorboard,wandb; each needs the extra of its name."""
    project: str = "scorefield"
    """Name of the project there."""

    def refusals(self) -> Refusals:
        """A project without a name."""
        return [(not self.project, "--tracking.project is empty; give a name.")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured along a training, besides its losses; nothing of it takes part in the training."""

    levels_every: int = 0
    """Steps between held-out losses by noise level; 0 turns them off."""
    levels: int = 5
    """Number of levels: equal parts of the times that are drawn in training, whose losses have the held-out loss for
    their mean."""
    frechet_every: int = 0
    """Steps between quick Fréchet distances of samples to held-out images, in features learned from the data; 0 turns
    them off."""
    frechet_samples: int = 256
    """Number of samples of each."""

    def refusals(self) -> Refusals:
        """Periods and counts that no measure has."""
        return [
            (
                min(self.levels_every, self.frechet_every) < 0,
                "--measure.levels-every and --measure.frechet-every must be 0 (off) or more.",
            ),
            (self.levels < 1, f"--measure.levels is {self.levels}; give at least 1."),
            (self.frechet_samples < 2, f"--measure.frechet-samples is {self.frechet_samples}; give at least 2."),
        ]
