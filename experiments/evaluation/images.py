"""A model of images beside held-out images: distances in the feature space of its data, and bits per dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import Source
from experiments.errors import UsageError
from experiments.evaluation.comparison import compare
from experiments.evaluation.features import feature_space, source_features
from experiments.progress import BATCHES, stage, tracked
from experiments.runs.model import Model
from experiments.sampling.drawing import Sampling, draw, gather
from experiments.sampling.throughput import Throughput

_COLUMNS = ("precision", "recall", "density", "coverage")
FEW = 1000
"""Fewer images than these are said to be few."""
_NEIGHBOURS = 5  # of density and coverage, the most that a distance looks at


def distances(
    model: Model,
    solver: Sampling,
    training: Source,
    held_out: Source,
    *,
    samples: int,
    seed: int,
    batch: int,
    cache: Path,
) -> dict[str, Any]:
    """Fréchet distance, precision, recall, density and coverage against held-out images, as JSON values.

    `samples` images of the seeds from `seed` on, their classes as frequent as in training; rows as `compare` has them.
    The feature network and the features of the data are kept in `cache`.
    Raises UsageError when there are too few images, DivergedError for a sample that is not finite.
    """
    few = min(samples, len(training), len(held_out))
    if few <= _NEIGHBOURS:
        raise UsageError(
            f"only {few} images can be compared (--samples {samples}, {len(training)} trained on, {len(held_out)} "
            f"held out) and {_NEIGHBOURS + 1} are needed; raise --samples, or train with a larger --data.held-out."
        )
    with stage("the feature network"):
        space = feature_space(training, held_out, cache=cache)
    labels = None
    if model.num_classes:
        assert training.labels is not None  # `run_data` has seen to it
        labels = np.random.default_rng(seed).choice(training.labels, samples).tolist()
    batches = draw(model, solver, range(seed, seed + samples), batch=batch, label=labels)
    drawn = gather(tracked(batches, BATCHES, -(-samples // batch)), Throughput(min(batch, samples)))
    with stage("distances"):
        rows = compare(
            space,
            drawn.images,
            source_features(space, training, cache=cache),
            source_features(space, held_out, cache=cache),
        )
    return {
        "feature_space": space.name,
        "feature_accuracy": space.accuracy,
        "feature_cache": str(cache),
        "images_compared": few,
        **drawn.report(),
        "against_held_out": {name: {**row._asdict(), "frechet": row.frechet._asdict()} for name, row in rows.items()},
    }


def table(report: dict[str, Any]) -> list[str]:
    """Lines for a person."""
    lines = [
        f"against {report['images_compared']} held-out images, in the features {report['feature_space']} "
        f"(accuracy {report['feature_accuracy']:.1%})",
        f"{'':14}{'Fréchet distance':>18}" + "".join(f"{column:>11}" for column in _COLUMNS),
    ]
    for name, row in report["against_held_out"].items():
        frechet = row["frechet"]
        value, error = frechet["value"], frechet["standard_error"]
        shown = f"{value:.2f} ± {error:.2f}"
        lines.append(f"{name:14}{shown:>18}" + "".join(f"{row[column]:>11.3f}" for column in _COLUMNS))
    if report["images_compared"] < FEW:
        lines.append(
            f"{report['images_compared']} images are few: precision and recall are then high for bad ones too, and the "
            f"distance is uncertain; from {FEW:,} on they can be compared."
        )
    if "bits_per_dim" in report:
        bits = report["bits_per_dim"]
        lines += [
            "",
            f"bits/dim <= {bits['bits']:.3f} ± {bits['standard_error']:.3f} (ELBO on {bits['images']} held-out images"
            f"{' given their classes' if bits['given_class'] else ''}, {bits['chain_steps']} steps, "
            f"{bits['variance']} variance)",
            f"  prior {bits['prior']:.4f}, steps {bits['steps']:.3f}, reconstruction {bits['reconstruction']:.3f}",
        ]
    return lines
