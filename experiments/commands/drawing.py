"""The arguments that say what a sampler draws, which `sample` and `export` share: class, guidance, range, noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.commands.arguments import RunArguments
from experiments.errors import UsageError, warn
from experiments.runs.load import load_model, training_part
from experiments.runs.model import Model
from experiments.sampling.guidance import Clip, Guidance
from experiments.sampling.labels import WORDS, Classes, choose_classes
from experiments.sampling.solver import Solver, build


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawingArguments(RunArguments):
    """Which sampler of a run, and what it draws."""

    label: str | None = None
    """Classes, by name or number: cat, 2, cat,dog or 0-9; all in turn, random, or none; --class is the same flag.
    [all]"""
    guidance: float | None = None
    """Strength of guidance: 1 is the model itself, more exaggerates the class, or the model's advantage over --weak."""
    guidance_low: float = 0.0
    """Lowest noise level σ/α with guidance; below it the class is sampled as it is."""
    guidance_high: float = float("inf")
    """Highest noise level σ/α with guidance; above it the class is sampled as it is."""
    weak: Path | None = None
    """Autoguidance: folder of a run, or of a checkpoint, with a worse model of the same images to lead away from; its
    first average is taken."""
    clip: Clip | None = None
    """Whether the model's answers are kept within the range of images: pixel by pixel (range) or image by image
    (dynamic). [the run's own, which is no unless it was imported so]"""
    percentile: float | None = None
    """Percentile of the pixels that dynamic clipping divides by. [99.5]"""
    brownian_tree: bool = False
    """Whether an SDE sampler's noise comes from one Brownian path for each seed, so that more steps give the same image
    more exactly."""

    def guided(self) -> Guidance:
        """The guidance that these arguments ask for."""
        return Guidance(
            strength=self.guidance,
            low=self.guidance_low,
            high=self.guidance_high,
            weak=None if self.weak is None else load_model(self.weak, warn=warn),
            clip=self.clip,
            percentile=self.percentile,
        )

    def classes(self, model: Model) -> Classes | None:
        """The classes that are asked for; a line on standard error where a class has the name of a word."""
        classes = choose_classes(model, self.label)
        if classes is not None and classes.word is None and self.label in WORDS:
            warn(f"--class {self.label} is the class of that name; for the word write --class :{self.label}.")
        return classes

    def solver(self, name: str, model: Model, classes: Classes | None) -> Solver:
        """The sampler of this name with these options, on its grid."""
        choice = self.choice(name, model.config)
        given = {"given_class": classes is not None, "guided": self.guidance is not None}
        return build(choice, model, training_part(model), **given)

    def check_clip(self, model: Model) -> None:
        """Raise UsageError for a range of images where there are points."""
        if model.of_points and self.clip not in (None, "no"):
            raise UsageError(f"--clip {self.clip} goes with images, and this run makes points; leave it out.")
