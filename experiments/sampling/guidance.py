"""What is asked of a model besides its network: a class, guidance, a range for its answers."""

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
from samplers.sample import Sampler
from samplers.transforms import clipped, dynamically_thresholded

Clip = Literal["no", "range", "dynamic"]


@dataclass(frozen=True)
class Wish:
    """How the answers of a model are changed on the way."""

    guidance: float | None = None
    """w, of a class, or of the model over a weaker one."""
    low: float = 0.0
    """Guidance acts from this σ/α on."""
    high: float = float("inf")
    """And up to this one."""
    weak: Model | None = None
    """What autoguidance leads away from."""
    clip: Clip = "no"
    """Whether x̂_0 is kept within the range of images, and how."""
    percentile: float = 99.5
    """Of dynamic thresholding."""

    @property
    def limited(self) -> bool:
        """Whether guidance acts at some noise levels only."""
        return self.low > 0 or self.high < float("inf")

    def check(self, model: Model, sampler: Sampler, given_class: bool) -> None:
        """Raise UsageError for what does not go together."""
        paired = sampler.takes_pair
        if self.guidance is None and self.limited:
            raise UsageError("--guidance-low and --guidance-high limit a guidance; add one, such as --guidance 2.")
        if not 0 <= self.low <= self.high:
            raise UsageError(
                f"--guidance-low {self.low:g} and --guidance-high {self.high:g} leave no noise level to guide at; "
                "use 0 <= low <= high, such as 0.3 and 3."
            )
        if self.weak is not None and self.guidance is None:
            raise UsageError("--weak is what --guidance leads away from; add one, such as --guidance 2.")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise UsageError(f"--guidance is {self.guidance}; give a finite number, 1 for the model itself.")
        if self.clip != "dynamic" and self.percentile != 99.5:
            raise UsageError("--percentile goes with --clip dynamic; add it, or leave the percentile out.")
        if self.clip == "dynamic" and not 0 <= self.percentile <= 100:
            raise UsageError(f"--percentile is {self.percentile:g}; give a number of percent, such as 99.5.")
        if paired and self.guidance is not None:
            raise UsageError("--sampler cfgpp has its guidance in --sampler.scale, in [0, 1]; leave --guidance out.")
        if paired and not given_class:
            raise UsageError("--sampler cfgpp strengthens a class; name one by --class, such as --class 3.")
        if self.weak is not None and self.limited:
            raise UsageError("--guidance-low and --guidance-high go with a class, not with --weak; leave them out.")
        if self.weak is not None:
            _check_weak(model, self.weak)

    def calls(self, sampler: Sampler, nfe: int) -> int:
        """Network calls for `nfe` calls of the denoiser; at most so many where guidance is limited."""
        return nfe * (2 if self.guidance is not None or sampler.takes_pair else 1)

    def denoiser(self, model: Model, sampler: Sampler, labels: Array | None, *, with_variance: bool = False) -> Any:
        """The denoiser that the sampler is given; `with_variance` as in `make_denoiser`.

        Raises UsageError as `make_denoiser` does, and for guidance on a model that has none to give.
        """
        if with_variance and self.guidance is not None:
            raise UsageError("--guidance has no learned variance; choose --sampler.variance small, or another sampler.")
        main = make_denoiser(model, labels, with_variance=with_variance)
        if self.guidance is not None and self.weak is not None:
            weak = make_denoiser(self.weak, labels if self.weak.num_classes else None)
            return self._clipped(autoguidance(main, weak, self.guidance))
        if sampler.takes_pair:
            return conditional_pair(self._clipped(main), self._clipped(_without_class(model, labels)))
        if self.guidance is None:
            return self._clipped(main)
        free = _without_class(model, labels)
        if self.limited:
            guided = interval_guidance(model.process, main, free, self.guidance, self.low, self.high)
            return self._clipped(guided)
        return self._clipped(classifier_free_guidance(main, free, self.guidance))

    def _clipped(self, denoise: Denoiser) -> Denoiser:
        if self.clip == "range":
            return clipped(denoise)
        return dynamically_thresholded(denoise, self.percentile) if self.clip == "dynamic" else denoise


def _without_class(model: Model, labels: Array | None) -> Denoiser:
    """The denoiser that guidance leads away from. Raises UsageError without a class, or without such a denoiser."""
    if labels is None:
        raise UsageError("--guidance strengthens a class; name one by --class, such as --class 3.")
    if model.config.label_dropout == 0:
        raise UsageError("--guidance needs a model that knows no class too, and this one had --label-dropout 0.")
    return make_denoiser(model, None)


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
