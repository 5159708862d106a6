"""Guidance of a model by a class or by a weaker model, and the range that its answers are kept within."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Array

from diffusion.prediction import Denoiser
from experiments.config.nodes import SamplingConfig
from experiments.errors import UsageError
from experiments.runs.model import Model, make_denoiser
from experiments.runs.provenance import checkpoint
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
    clip: Clip | None = None
    """Whether x̂_0 is kept within the range of images, and how; None for as the run has it."""
    percentile: float | None = None
    """The percentile of dynamic thresholding; None for the run's."""

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
        if self.percentile is not None and self.limits(model).clip != "dynamic":
            raise UsageError("--percentile goes with --clip dynamic; add it, or leave the percentile out.")
        if self.percentile is not None and not 0 <= self.percentile <= 100:
            raise UsageError(f"--percentile is {self.percentile:g}; give a number of percent, such as 99.5.")
        if paired and self.strength is not None:
            raise UsageError("--sampler cfgpp has its guidance in --sampler.scale, in [0, 1]; leave --guidance out.")
        if paired and not given_class:
            raise UsageError(_no_class(model, "--sampler cfgpp"))
        if self.weak is not None and self.limited:
            raise UsageError("--guidance-low and --guidance-high go with a class, not with --weak; leave them out.")
        if self.weak is not None:
            _check_weak(model, self.weak)

    def limits(self, model: Model) -> SamplingConfig:
        """The run's sampling, of which the range that answers are kept within is this guidance's."""
        own = model.config.sampling
        return dataclasses.replace(
            own,
            clip=own.clip if self.clip is None else self.clip,
            percentile=own.percentile if self.percentile is None else self.percentile,
        )

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
        main, limits = make_denoiser(model, labels, with_variance=with_variance), self.limits(model)
        if self.strength is not None and self.weak is not None:
            other = self.weak.flow if model.between else self.weak
            weak = make_denoiser(other, labels if other.num_classes else None)
            return _clipped(autoguidance(main, weak, self.strength), limits)
        if paired:
            return conditional_pair(_clipped(main, limits), _clipped(_without_class(model, labels), limits))
        if self.strength is None:
            return _clipped(main, limits)
        free = _without_class(model, labels)
        if self.limited:
            guided = interval_guidance(model.process, main, free, self.strength, self.low, self.high)
            return _clipped(guided, limits)
        return _clipped(classifier_free_guidance(main, free, self.strength), limits)

    def unclipped(self) -> Guidance:
        """The same, of a model whose answers are not kept within a range."""
        return dataclasses.replace(self, clip="no", percentile=None)

    def within_range(self, model: Model, denoise: Denoiser) -> Denoiser:
        """A denoiser whose answers are kept within the range that this keeps the model's in."""
        return _clipped(denoise, self.limits(model))


UNGUIDED = Guidance()
"""The model's answers as they are, in the range that the run keeps them within."""


def _clipped(denoise: Denoiser, limits: SamplingConfig) -> Denoiser:
    if limits.clip == "range":
        return clipped(denoise, -limits.clip_range, limits.clip_range)
    return dynamically_thresholded(denoise, limits.percentile) if limits.clip == "dynamic" else denoise


def _without_class(model: Model, labels: Array | None) -> Denoiser:
    """The denoiser that guidance leads away from. Raises UsageError without a class, or without such a denoiser."""
    if labels is None:
        raise UsageError(_no_class(model, "--guidance"))
    if model.config.label_dropout == 0:
        raise UsageError(
            "--guidance needs a model that knows no class too, and this one was always told one; train with a "
            "--label-dropout above 0, or import it with --classes one less, where its table has a row for none."
        )
    return make_denoiser(model, None)


def _no_class(model: Model, what: str) -> str:
    """The sentence that refuses to strengthen a class where there is none."""
    if model.num_classes:
        return f"{what} strengthens a class; name one by --class, such as --class 3, or all of them by --class all."
    lead = "; --weak is a worse model to lead away from instead" if what == "--guidance" else ""
    return f"{what} strengthens a class, and the network of this run knows no classes; leave it out{lead}."


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


def beyond_defaults(guidance: Guidance, limits: SamplingConfig, *, brownian_tree: bool) -> dict[str, Any]:
    """What is asked of a sampler beyond the defaults, as JSON values."""
    asked: dict[str, Any] = {}
    if guidance.limited:
        asked["guidance_interval"] = [guidance.low, guidance.high if guidance.high < 1e30 else "inf"]
    if guidance.weak is not None:
        asked["weak"] = {**checkpoint(guidance.weak), "parameters": guidance.weak.parameters}
    if limits.clip != "no":
        wide = "range" if limits.clip_range == 1 else f"range of ±{limits.clip_range:g}"
        asked["clip"] = wide if limits.clip == "range" else f"dynamic, percentile {limits.percentile:g}"
    if brownian_tree:
        asked["brownian_tree"] = True
    return asked
