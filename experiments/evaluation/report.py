"""A trained model measured against held-out data, images or points: one report of all that is asked for."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.source import Source
from experiments.data.sources.plane import law_of
from experiments.errors import UsageError, warn
from experiments.evaluation import store
from experiments.evaluation.bits_per_dim import held_out_bits_per_dim, require_elbo
from experiments.names import flag_of
from experiments.runs.load import run_data
from experiments.runs.model import Model
from experiments.runs.provenance import origin
from experiments.sampling.choice import SamplerChoice
from experiments.sampling.solver import Solver, build
from experiments.sampling.variance import VarianceName, variance_without_data

_OF_IMAGES = ("bits_per_dim", "elbo_images", "elbo_draws", "variance", "cache", "features", "preprocessing")
"""The options that go with images alone."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is measured, and with how much effort."""

    samples: int = 1000
    """Number of samples; at most as many held-out images or points enter the distances, or the likelihood of points."""
    batch: int = 100
    """Images or points drawn at a time."""
    seed: int = 1_000_000
    """First seed of the samples, far from those that people look at."""
    distances: bool = True
    """Whether samples are drawn, and compared with held-out images or points."""
    bits_per_dim: bool = True
    """Whether the ELBO is computed."""
    elbo_images: int = 500
    """Number of held-out images in the ELBO."""
    elbo_draws: int = 16
    """Number of the chain's steps that are drawn for each image."""
    variance: VarianceName = "auto"
    """Reverse variance in the ELBO; auto is the learned one if there is one, else the optimal one."""
    cache: Path | None = None
    """Folder for the feature network and reference features. [$XDG_CACHE_HOME/scorefield]"""

    features: str | None = None
    """File of weights whose features the distances are in: FID's Inception, a DINOv2 or EfficientNet-Lite0; or
    efficientnet-lite0, if its package is installed. [a small network that is trained on the run's own data]"""
    preprocessing: str | None = None
    """What is done to images before the network of --features; of Inception tf1 (the standard), pytorch-fid or
    clean-fid. [the standard one]"""

    def check(self) -> None:
        """Raise UsageError for numbers that nothing can be measured with."""
        if self.preprocessing is not None and self.features is None:
            raise UsageError("--preprocessing goes with --features FILE; give that too, or leave it out.")
        if self.features is not None and not self.distances:
            raise UsageError("--features goes with distances, and --no-distances leaves them out; drop one of the two.")
        if self.samples < 2 or self.batch < 1 or self.elbo_images < 1 or self.elbo_draws < 1:
            raise UsageError("--samples must be at least 2, and --batch, --elbo-images and --elbo-draws at least 1.")
        if not (self.distances or self.bits_per_dim):
            raise UsageError("--no-distances and --no-bits-per-dim leave nothing to measure; leave one of them out.")
        if self.seed < 0 or self.seed + self.samples > 2**31:
            raise UsageError(f"--seed is {self.seed}; give 0 or more, and below 2^31 less --samples.")


def evaluate(model: Model, choice: SamplerChoice, options: EvaluationOptions) -> dict[str, Any]:
    """The report on a trained model, sampled as `choice` says, against its run's held-out data.

    It begins with what determined the samples and ends with the seconds that it took; numbers that are not defined are
    NaN. Raises UsageError for what cannot be measured of this model, DataError when its data are not there, and
    DivergedError for a sample that is not finite.
    """
    options.check()
    _require_measurable(model, options)
    training, held_out = run_data(model)
    if held_out is None:
        what = "points" if training.of_points else "images"
        raise UsageError(f"this run holds no {what} out (--data.held-out 0), so there is nothing to measure against.")
    solver = build(choice, model, lambda: training, given_class=model.num_classes > 0)
    start = time.perf_counter()
    lacking = _too_few(training, held_out, options) if options.distances else None
    if lacking is not None:
        options = _without_distances(options, lacking)
    measures = measure(model, solver, training, held_out, options)
    return {
        **solver.provenance,
        **origin(model),
        **({"samples": options.samples, "first_seed": options.seed} if options.distances else {}),
        **({} if lacking is None else {"no_distances": lacking}),
        **measures,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _too_few(training: Source, held_out: Source, options: EvaluationOptions) -> str | None:
    """What there is too little of for distances, with the remedy; None where there is enough.

    Raises UsageError where more is wanted of --samples, which the next command can give.
    """
    from experiments.evaluation import images

    what, needed = ("point", 2) if training.of_points else ("image", images.NEEDED)
    if options.samples < needed <= min(len(training), len(held_out)):
        raise UsageError(f"distances need {needed} samples; raise --samples {options.samples}, or add --no-distances.")
    if len(held_out) < needed:
        return (
            f"distances need {needed} held-out {what}s, and this run has {len(held_out)}; train with a larger "
            "--data.held-out"
        )
    if len(training) < needed:
        return f"distances need {needed} {what}s, and this run was trained on {len(training)}; train on more"
    return None


def _without_distances(options: EvaluationOptions, lacking: str) -> EvaluationOptions:
    """The options for what can be measured all the same, which is said. Raises UsageError where that is nothing."""
    if not options.bits_per_dim:
        raise UsageError(f"{lacking}, or measure bits/dim alone by --no-distances.")
    warn(f"{lacking}. The likelihood is measured all the same.")
    return dataclasses.replace(options, distances=False)


def measure(
    model: Model, solver: Solver, training: Source, held_out: Source, options: EvaluationOptions
) -> dict[str, Any]:
    """What is measured of samples by `solver`, and of the model's likelihood, as JSON values and NaN.

    Of images these are distances in a feature space and bits per dimension (`experiments.evaluation.images`), of points
    distances and likelihoods under the law that they come from (`experiments.evaluation.plane.measures`).
    """
    from experiments.evaluation import images
    from experiments.evaluation.plane import measures as points

    drawn = {"samples": options.samples, "seed": options.seed, "batch": options.batch}
    if model.of_points:
        law = law_of(model.config.data.source)
        assert law is not None  # `_require_measurable` has seen to it
        report = {}
        try:
            if options.distances:
                report = points.distances(model, solver, training, held_out, **drawn)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UsageError(str(error)) from None
        likelihood = points.likelihood(model, law, held_out, points=options.samples, seed=options.seed)
        return {**report, "likelihood": likelihood}
    report, cache = {}, options.cache or store.default_folder()
    try:
        if options.distances:
            weights = options.features, options.preprocessing
            report = images.distances(model, solver, training, held_out, cache=cache, weights=weights, **drawn)
        if options.bits_per_dim:
            report["bits_per_dim"] = _bits(model, training, held_out, options)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(str(error)) from None
    return report


def table(report: dict[str, Any]) -> list[str]:
    """The measures of a report, as lines for a person."""
    from experiments.evaluation import images
    from experiments.evaluation.plane import measures as points

    return points.table(report) if "likelihood" in report else images.table(report)


def with_null(value: Any) -> Any:
    """`value` with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: with_null(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _require_measurable(model: Model, options: EvaluationOptions) -> None:
    if model.of_points:
        fields = {field.name: field.default for field in dataclasses.fields(EvaluationOptions)}
        for name in _OF_IMAGES:
            if getattr(options, name) != fields[name]:
                raise UsageError(
                    f"--{flag_of(name)} goes with images, and this run was trained on points; leave it out."
                )
        source = model.config.data.source
        if law_of(source) is None:
            raise UsageError(f"the law of {source} is not known; evaluate runs on plane:NAME, or on images.")
        return
    if options.bits_per_dim:
        require_elbo(model)
    variance_without_data(options.variance, model.config, auto="optimal", flag="--variance")


def _bits(model: Model, training: Source, held_out: Source, options: EvaluationOptions) -> dict[str, Any]:
    return held_out_bits_per_dim(
        model,
        held_out,
        training,
        variance=options.variance,
        draws=options.elbo_draws,
        batch=options.batch,
        limit=options.elbo_images,
    )._asdict()
