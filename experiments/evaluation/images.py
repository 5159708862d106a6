"""A model of images beside held-out images: distances in the feature space of its data, and bits per dimension."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import Source
from experiments.evaluation.comparison import compare
from experiments.evaluation.features import LIMIT, Space, feature_space, source_features
from experiments.evaluation.network_space import NetworkSpace, open_space
from experiments.names import counted
from experiments.progress import BATCHES, stage, tracked
from experiments.runs.model import Model
from experiments.sampling.drawing import Sampling, draw, timed
from experiments.sampling.throughput import Throughput

_COLUMNS = ("precision", "recall", "density", "coverage")
FEW = 1000
"""Fewer images than these are said to be few."""
NEEDED = 6
"""The images that distances need at least: each has 5 neighbours that density and coverage look at."""


def distances(
    model: Model,
    solver: Sampling,
    training: Source,
    held_out: Source,
    *,
    samples: int,
    seed: int,
    batch: int,
    cache: Path | None,
    weights: tuple[str | None, str | None] = (None, None),
) -> dict[str, Any]:
    """Fréchet distance, precision, recall, density and coverage against held-out images, as JSON values.

    `samples` images of the seeds from `seed` on, their classes as frequent as in training; rows as `compare` has them.
    The feature network and the features of the data are kept in `cache`, if there is one. `weights` are a file,
    or the name of a network that a package ships, whose features are taken instead, and its preprocessing.
    Raises DataError when there are too few images, DivergedError for a sample that is not finite.
    """
    with stage("the feature network"):
        features, preprocessing = weights
        space: Space = (
            feature_space(training, held_out, cache=cache) if features is None else open_space(features, preprocessing)
        )
    labels = None
    if model.num_classes:
        assert training.labels is not None  # `run_data` has seen to it
        labels = np.random.default_rng(seed).choice(training.labels, samples)
    with stage("features of the data"):
        parts = training, held_out
        enough = LIMIT if features is None else min(samples, *map(len, parts))  # a large network takes long
        known = [source_features(space, part, limit=enough, cache=cache) for part in parts]
    throughput, calls = Throughput(min(batch, samples)), 0

    def images() -> Iterator[np.ndarray]:
        nonlocal calls
        batches = draw(model, solver, range(seed, seed + samples), batch=batch, label=labels)
        for drawn in timed(tracked(batches, BATCHES, -(-samples // batch)), throughput):
            calls = drawn.nfe
            yield drawn.images

    with stage("distances"):
        rows = compare(space, images(), (samples, *training.event_shape), *known, bits=model.bits)
    return {
        "feature_space": space.name,
        "feature_accuracy": space.accuracy,
        **({"features": space.provenance()} if isinstance(space, NetworkSpace) else {}),
        "distance": space.distance,
        "feature_cache": None if cache is None else str(cache),
        "images_compared": min(samples, *map(len, known)),
        "nfe": calls,
        **throughput.rates(),
        "against_held_out": {name: {**row._asdict(), "frechet": row.frechet._asdict()} for name, row in rows.items()},
    }


def table(report: dict[str, Any]) -> list[str]:
    """Lines for a person."""
    lines = _distance_lines(report) if "against_held_out" in report else []
    if "bits_per_dim" not in report:
        return lines
    bits = report["bits_per_dim"]
    known = bits["images"] > 1
    error = f" ± {bits['standard_error']:.3f}" if known else ""
    given = (" given its class" if bits["images"] == 1 else " given their classes") if bits["given_class"] else ""
    return [
        *lines,
        *([""] if lines else []),
        f"bits/dim <= {bits['bits']:.3f}{error} (ELBO on {counted(bits['images'], 'held-out image')}{given}, "
        f"{counted(bits['chain_steps'], 'step')}, {bits['variance']} variance{'' if known else '; no standard error'})",
        f"  prior {bits['prior']:.4f}, steps {bits['steps']:.3f}, reconstruction {bits['reconstruction']:.3f}",
    ]


def network_lines(report: dict[str, Any]) -> list[str]:
    """What a person is to say of a network from a file together with its numbers."""
    if "features" not in report:
        return []
    features = report["features"]
    known = "" if features["weights_known_as"] is None else f", {features['weights_known_as']}"
    return [f"weights SHA-256 {features['weights_sha256']}{known}", f"preprocessing {features['preprocessing']}"]


def _distance_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"against {report['images_compared']} held-out images, in the features {report['feature_space']}"
        + (f" (accuracy {report['feature_accuracy']:.1%})" if report["feature_accuracy"] is not None else ""),
        *network_lines(report),
        f"{'':14}{report.get('distance', 'Fréchet distance'):>18}" + "".join(f"{column:>11}" for column in _COLUMNS),
    ]
    for name, row in report["against_held_out"].items():
        frechet = row["frechet"]
        value, error = frechet["value"], frechet["standard_error"]
        shown = f"{value:.2f} ± {error:.2f}"
        lines.append(f"{name:14}{shown:>18}" + "".join(f"{row[column]:>11.3f}" for column in _COLUMNS))
    if report["images_compared"] < FEW:
        lines.append(few_images(report["images_compared"]))
    return lines


def few_images(count: int) -> str:
    """What is said of distances of so few images."""
    return (
        f"{count} images are few: precision and recall are then high for bad ones too, and the distance is uncertain; "
        f"from {FEW:,} on they can be compared."
    )
