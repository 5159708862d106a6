"""Feature spaces: 64 numbers for each image, from a network that was trained on the same data; kept on the disk.

A distance is stated together with the name of its space, such as «Fréchet distance in cnn64@0f3a92c1»: it can be
compared with others in that space, and not with any published FID.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from experiments.data.source import Source
from experiments.errors import DataError
from experiments.evaluation import classifier, store
from experiments.evaluation.classifier import Architecture, Params, Task

KINDS: dict[Task, str] = {"labels": "cnn64", "rotation": "rotnet64"}
"""The first part of a space's name. It stands for architecture and training: a change of either needs new names."""
BATCH_PIXELS = 2**21  # numbers in a batch of images that is passed through the network at once


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """The penultimate layer of a small network trained on the data that it is to judge."""

    name: str
    """cnn64, or rotnet64 without labels, -s and the seed if it is not 0, @ and 8 digits of the fingerprint."""
    task: Task
    """The task that the network was trained for: to tell the classes, or the quarter turn of an image."""
    accuracy: float
    """The fraction of held-out images that it gets right."""
    architecture: Architecture
    params: Params = field(repr=False)

    def __call__(self, images: UInt8[np.ndarray, "n height width channels"]) -> Float32[np.ndarray, "n d"]:
        """Features of uint8 images (n, height, width, channels), each image's independent of the others up to rounding.

        Raises DataError for images of another channel count than the training data's.
        """
        count, height, width, channels = images.shape
        if channels != self.architecture.channels:
            raise DataError(
                f"images have {channels} channels, and {self.name} was trained on {self.architecture.channels}; "
                "give images of the same data."
            )
        batch = max(1, min(256, BATCH_PIXELS // (height * width * channels)))
        features = np.empty((count, classifier.FEATURES), np.float32)
        for start in range(0, count, batch):
            rows = np.arange(start, min(start + batch, count))
            padded = images[np.resize(rows, batch)]  # one shape, so one compilation and the same bits
            features[rows] = classifier.apply(self.architecture, self.params, padded)[0][: len(rows)]
        return features

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the parameters."""
        digest = hashlib.sha256()
        for name, array in sorted(self.params.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def to_stderr(line: str) -> None:
    """Show one line to the user."""
    print(line, file=sys.stderr)


def feature_space(
    train: Source, held_out: Source, *, seed: int = 0, cache: Path | None = None, notice: store.Notice = to_stderr
) -> FeatureSpace:
    """The feature space of `train`: trained, or read from the folder `cache` where it was kept.

    It depends on the fingerprint of the data and the seed alone (and on the machine in the last digits, so keep the
    cache with results that are to be compared). `held_out` serves to measure its accuracy. Labels are used if there
    are at least two classes, else quarter turns. Training takes about a second for each thousand 8×8 images, and a
    minute at most. A damaged file of the cache is reported, removed and made anew.
    """
    task: Task = "rotation" if classifier.classes_of(train) is None else "labels"
    name = f"{KINDS[task]}{f'-s{seed}' if seed else ''}@{train.fingerprint[:8]}"
    stem = f"{KINDS[task]}-{train.fingerprint[:16]}-{held_out.fingerprint[:16]}-s{seed}"
    kept = store.load(cache, stem, notice)
    if kept is not None:
        meta = json.loads(str(kept.pop("meta")))
        return FeatureSpace(name, task, meta["accuracy"], Architecture(*meta["architecture"]), kept)
    notice(f"Training the feature network {name} on {len(train)} images.")
    params, accuracy = classifier.train(train, held_out, seed)
    params = {key: np.asarray(value) for key, value in params.items()}
    space = FeatureSpace(name, task, accuracy, classifier.architecture_for(train), params)
    meta = {"accuracy": accuracy, "architecture": space.architecture, "jax": jax.__version__}
    store.save(cache, stem, {**params, "meta": np.array(json.dumps(meta))}, notice)
    return space


def source_features(
    space: FeatureSpace,
    source: Source,
    *,
    limit: int = 50_000,
    cache: Path | None = None,
    notice: store.Notice = to_stderr,
) -> Float32[np.ndarray, "n d"]:
    """Features of the images of `source`, or of `limit` of them drawn without replacement, in their order.

    They are kept in `cache`. `distances.moments` gives their mean and covariance.
    """
    count = min(limit, len(source))
    stem = f"features-{space.digest[:16]}-{source.fingerprint[:16]}-{count}"
    kept = store.load(cache, stem, notice)
    if kept is not None:
        return kept["features"]
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    features = space(source.images[rows])
    store.save(cache, stem, {"features": features}, notice)
    return features
