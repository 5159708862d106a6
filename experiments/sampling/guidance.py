"""Guidance of a model by a class or by a weaker model, and the range that its answers are kept within."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Array

from diffusion.prediction import Denoiser
from experiments.errors import UsageError
from experiments.runs.model import Model, make_denoiser
from samplers.cfgpp import conditional_pair
from samplers.guidance import autoguidance, classifier_free_guidance, interval_guidance
from samplers.transforms import clipped, dynamically_thresholded

Clip = Literal["no", "range", "dynamic"]


@dataclass(frozen=True)
class Guidance:
    """How the answers of a model are changed while it is sampled; by default not at all."""

    strength: float | None = None
    """w, of a class, or of the model over a weaker one; 1 is the model itself. None for no guidance."""
    low: float = 0.0
    """The noise level σ/α from which on guidance acts."""
    high: float = float("inf")
    """The noise level σ/α up to which it acts."""
    weak: Model | None = None
    """The model that autoguidance leads away from."""
    clip: Clip = "no"
    """Whether x̂_0 is kept within the range of images, and how."""
    percentile: float = 99.5
    """The percentile of dynamic thresholding."""

    @property
    def limited(self) -> bool:
        """Whether guidance acts at some noise levels only."""
        return self.low > 0 or self.high < float("inf")

    def check(self, model: Model, *, paired: bool = False, given_class: bool) -> None:
        """Raise UsageError for what does not go together, or not with the model.

        `paired` says whether the sampler takes a pair of denoisers, with the class and without it, as CFG++ does.
        """
        if self.strength is None and self.limited:
            raise UsageError("--guidance-low and --guidance-high limit a guidance; add one, such as --guidance 2.")
        if not 0 <= self.low <= self.high:
            raise UsageError(
                f"--guidance-low {self.low:g} and --guidance-high {self.high:g} leave no noise level to guide at; "
                "use 0 <= low <= high, such as 0.3 and 3."
            )
        if self.weak is not None and self.strength is None:
            raise UsageError("--weak is what --guidance leads away from; add one, such as --guidance 2.")
        if self.strength is not None and not math.isfinite(self.strength):
            raise UsageError(f"--guidance is {self.strength}; give a finite number, 1 for the model itself.")
        if self.clip != "dynamic" and self.percentile != 99.5:
            raise UsageError("--percentile goes with --clip dynamic; add it, or leave the percentile out.")
        if self.clip == "dynamic" and not 0 <= self.percentile <= 100:
            raise UsageError(f"--percentile is {self.percentile:g}; give a number of percent, such as 99.5.")
        if paired and self.strength is not None:
            raise UsageError("--sampler cfgpp has its guidance in --sampler.scale, in [0, 1]; leave --guidance out.")
        if paired and not given_class:
            raise UsageError(_no_class(model, "--sampler cfgpp"))
        if self.weak is not None and self.limited:
            raise UsageError("--guidance-low and --guidance-high go with a class, not with --weak; leave them out.")
        if self.weak is not None:
            _check_weak(model, self.weak)

    def calls(self, nfe: int, *, paired: bool = False) -> int:
        """Network calls for `nfe` calls of the denoiser; where guidance is limited, at most so many."""
        return nfe * (2 if self.strength is not None or paired else 1)

    def denoiser(self, model: Model, labels: Array | None, *, paired: bool = False, with_variance: bool = False) -> Any:
        """The denoiser (x, t) -> E[x_0 | x_t] of the guided model, or for a `paired` sampler the pair of them.

        `labels` (b,) are classes; `with_variance` is as in `make_denoiser`.
        Raises UsageError as `make_denoiser` does, and for guidance on a model that has none to give.
        """
        if with_variance and self.strength is not None:
            raise UsageError("--guidance has no learned variance; choose --sampler.variance small, or another sampler.")
        main = make_denoiser(model, labels, with_variance=with_variance)
        if self.strength is not None and self.weak is not None:
            weak = make_denoiser(self.weak, labels if self.weak.num_classes else None)
            return self._clipped(autoguidance(main, weak, self.strength))
        if paired:
            return conditional_pair(self._clipped(main), self._clipped(_without_class(model, labels)))
        if self.strength is None:
            return self._clipped(main)
        free = _without_class(model, labels)
        if self.limited:
            guided = interval_guidance(model.process, main, free, self.strength, self.low, self.high)
            return self._clipped(guided)
        return self._clipped(classifier_free_guidance(main, free, self.strength))

    def _clipped(self, denoise: Denoiser) -> Denoiser:
        if self.clip == "range":
            return clipped(denoise)
        return dynamically_thresholded(denoise, self.percentile) if self.clip == "dynamic" else denoise


UNGUIDED = Guidance()
"""The model's answers as they are."""


def _without_class(model: Model, labels: Array | None) -> Denoiser:
    """The denoiser that guidance leads away from. Raises UsageError without a class, or without such a denoiser."""
    if labels is None:
        raise UsageError(_no_class(model, "--guidance"))
    if model.config.label_dropout == 0:
        raise UsageError("--guidance needs a model that knows no class too, and this one had --label-dropout 0.")
    return make_denoiser(model, None)


def _no_class(model: Model, what: str) -> str:
    """The sentence that refuses to strengthen a class where there is none."""
    if model.num_classes:
        return f"{what} strengthens a class; name one by --class, such as --class 3, or all of them by --class all."
    lead = "; --weak is a worse model to lead away from instead" if what == "--guidance" else ""
    return f"{what} strengthens a class, and this run was trained without --conditional; leave it out{lead}."


def _check_weak(model: Model, weak: Model) -> None:
    mine, theirs = model.config, weak.config
    for name, here, there in (
        ("images", model.event_shape, weak.event_shape),
        ("schedule", mine.schedule, theirs.schedule),
        ("noise", mine.noise, theirs.noise),
    ):
        if here != there:
            raise UsageError(f"--weak has other {name} than --run, {there} and not {here}; give a model of its kind.")
    if weak.num_classes not in (0, model.num_classes):
        raise UsageError(
            f"--weak knows {weak.num_classes} classes and --run {model.num_classes}; give a model of the same ones."
        )
