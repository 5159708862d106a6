"""`scorefield evaluate`: bits/dim on held-out images, and distances in a feature space trained on the same data."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffusion.noises import Gaussian
from experiments.errors import UsageError
from experiments.options import parse

_NEIGHBOURS = 5  # of density and coverage, the most that a distance looks at

DESCRIPTION = """\
Measure a trained model against held-out images: bits/dim by the ELBO, and Fréchet distance, precision and recall
in the feature space of a small classifier trained on the same data. Nothing is downloaded.

  scorefield evaluate --run runs/digits-ddpm
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """What `scorefield evaluate` is told."""

    run: Path
    """Folder of a run, or of one of its checkpoints."""
    samples: int = 1000
    """Samples to draw; at most as many held-out images enter the distances."""
    steps: int | None = None
    """Steps of the run's own sampler. [the run's own]"""
    batch: int = 100
    """Images at a time."""
    seed: int = 1_000_000
    """First seed of the samples, far from the seeds that people look at."""
    bits_per_dim: bool = True
    """Compute the ELBO."""
    elbo_images: int = 500
    """Held-out images in the ELBO."""
    elbo_draws: int = 16
    """Steps of the chain drawn for each image."""
    variance: Literal["auto", "small", "large", "optimal", "learned"] = "auto"
    """Reverse variance in the ELBO: auto is learned where there is one, else optimal."""
    ema: str = "0"
    """Which parameters: the number of an average, counted from 0, or raw."""
    best: bool = False
    """Take the checkpoint of the lowest held-out loss, not the newest."""
    cache: Path | None = None
    """Folder for the feature network and reference features. [$XDG_CACHE_HOME/scorefield]"""
    json: bool = False
    """Print the result as JSON."""


def run(arguments: list[str]) -> int:
    """Evaluate; returns the exit status."""
    told = parse(EvaluateArguments, arguments, "scorefield evaluate", DESCRIPTION)
    if told.samples < 2 or told.batch < 1 or told.elbo_images < 1 or told.elbo_draws < 1:
        raise UsageError("--samples must be at least 2, and --batch, --elbo-images and --elbo-draws at least 1.")
    if told.seed < 0 or told.seed + told.samples > 2**31:
        raise UsageError(f"--seed is {told.seed}; give 0 or more, and below 2^31 less --samples.")
    if told.steps is not None and told.steps < 1:
        raise UsageError(f"--steps is {told.steps}; give at least 1.")
    from experiments.commands.sample import _average, _warn, model_of
    from experiments.data import open_source, split
    from experiments.training.model import load_model

    trained = load_model(told.run, _average(told.ema), use_best=told.best, warn=_warn)
    config = trained.config
    training, held_out = split(open_source(config.data), config.data.held_out, config.data.seed)
    if training.fingerprint != trained.facts.fingerprint:
        _warn(f"{config.data.source} has changed since this run was trained; the figures are against what it is now.")
    if held_out is None:
        raise UsageError("this run holds no images out (--data.held-out 0), so there is nothing to measure against.")
    model = model_of(trained)
    start = time.perf_counter()
    report: dict[str, Any] = {
        "run": str(told.run),
        "checkpoint_step": trained.step,
        "checkpoint_sha256": trained.digest,
    }
    few = min(told.samples, len(training), len(held_out))
    if few <= _NEIGHBOURS:
        raise UsageError(
            f"only {few} images can be compared (--samples {told.samples}, {len(training)} trained on, {len(held_out)} "
            f"held out) and {_NEIGHBOURS + 1} are needed; raise --samples, or train with a larger --data.held-out."
        )
    if told.bits_per_dim and not isinstance(model.process.noise, Gaussian):
        raise UsageError("the ELBO needs Gaussian noise, and this run's is Student-t; add --no-bits-per-dim.")
    try:
        report |= _distances(told, model, training, held_out)
        if told.bits_per_dim:
            report["bits_per_dim"] = _bits(told, model, training, held_out)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(_finite(report), allow_nan=False) if told.json else _table(report))
    return 0


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cache(told: EvaluateArguments) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return told.cache or base / "scorefield"


def _distances(told: EvaluateArguments, model: Any, training: Any, held_out: Any) -> dict[str, Any]:
    from experiments.commands.sample import AncestralOptions, build_sampler, choose_name
    from experiments.evaluation.comparison import compare
    from experiments.evaluation.features import feature_space, source_features
    from experiments.sampling import draw
    from samplers.registry import SAMPLERS, make_grid

    own, cache = model.config.sampling, _cache(told)
    space = feature_space(training, held_out, cache=cache)
    steps = told.steps or own.steps
    options = AncestralOptions() if own.sampler == "ancestral" else SAMPLERS[choose_name(own.sampler)].make()
    sampler = build_sampler(options, model, steps)
    grid = make_grid(model.process, sampler, own.grid, steps)
    seeds = range(told.seed, told.seed + told.samples)
    labels = None
    if model.num_classes:  # classes as often as in training
        labels = np.random.default_rng(told.seed).choice(training.labels, told.samples).tolist()
    start, parts = time.perf_counter(), []
    for drawn in draw(model, sampler, grid, seeds, batch=told.batch, label=labels):
        parts.append(drawn)
    seconds = time.perf_counter() - start
    generated = np.concatenate([part.images for part in parts])
    rows = compare(
        space,
        generated,
        source_features(space, training, cache=cache),
        source_features(space, held_out, cache=cache),
    )
    table = {
        name: {"frechet": row.frechet._asdict(), "precision": row.precision, "recall": row.recall}
        for name, row in rows.items()
    }
    return {
        "feature_space": space.name,
        "feature_accuracy": space.accuracy,
        "feature_cache": str(cache),
        "images_compared": min(told.samples, len(training), len(held_out)),
        "sampler": own.sampler,
        "steps": steps,
        "nfe": parts[0].nfe,
        "samples_per_second": told.samples / seconds,
        "against_held_out": table,
    }


def _bits(told: EvaluateArguments, model: Any, training: Any, held_out: Any) -> dict[str, Any]:
    from experiments.elbo import held_out_bits_per_dim

    return held_out_bits_per_dim(
        model,
        held_out.images,
        training.images,
        variance=told.variance,
        draws=told.elbo_draws,
        batch=told.batch,
        limit=told.elbo_images,
    )._asdict()


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['run']}, step {report['checkpoint_step']}",
        f"{report['sampler']}, {report['nfe']} network calls, {report['samples_per_second']:.1f} samples/s",
        "",
        f"against {report['images_compared']} held-out images, in the features {report['feature_space']} "
        f"(accuracy {report['feature_accuracy']:.1%})",
        f"{'':16}{'Fréchet distance':>24}{'precision':>12}{'recall':>10}",
    ]
    for name, row in report["against_held_out"].items():
        frechet = row["frechet"]
        value, error = frechet["value"], frechet["standard_error"]
        shown = f"{value:.2f} ± {error:.2f}"
        lines.append(f"{name:16}{shown:>24}{row['precision']:>12.3f}{row['recall']:>10.3f}")
    if "bits_per_dim" in report:
        bits = report["bits_per_dim"]
        lines += [
            "",
            f"bits/dim <= {bits['bits']:.3f} ± {bits['standard_error']:.3f} (ELBO on {bits['images']} held-out images, "
            f"{bits['chain_steps']} steps, {bits['variance']} variance)",
            f"  prior {bits['prior']:.4f}, steps {bits['steps']:.3f}, reconstruction {bits['reconstruction']:.3f}",
        ]
    return "\n".join(lines)
