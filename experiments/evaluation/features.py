"""Feature spaces: 64 numbers for each image, from a network that was trained on the same data; kept on the disk.

A distance is stated together with the name of its space, such as «Fréchet distance in cnn64@0f3a92c1»: it can be
compared with others in that space, and not with any published FID.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float32

from experiments.data.source import Pixels, Source
from experiments.errors import DataError
from experiments.evaluation import classifier, store
from experiments.evaluation.classifier import Architecture, Params, Task

KINDS: dict[Task, str] = {"labels": "cnn64", "rotation": "rotnet64"}
"""The first part of a space's name. It stands for architecture and training: a change of either needs new names."""
BATCH_PIXELS = 2**21  # numbers in a batch of images that is passed through the network at once
LIMIT = 50_000  # images of a source that enter at most
_ROWS = 256  # of a source that are copied at a time


class Space(Protocol):
    """What images are compared in: a network that was trained here, or one from a file."""

    @property
    def name(self) -> str:
        """What a number is stated with."""
        ...

    @property
    def distance(self) -> str:
        """What a Fréchet distance is called in this space."""
        ...

    @property
    def accuracy(self) -> float | None:
        """The fraction of held-out images that the network gets right, None if that is not known."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the features."""
        ...

    def streamed(self, parts: Iterable[Pixels], count: int) -> Float32[np.ndarray, "count d"]:
        """Features of `count` images that come in parts."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What a number in this space is to be stated with, as JSON values."""
        ...


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

    def __call__(self, images: Pixels) -> Float32[np.ndarray, "n d"]:
        """Features of images (n, height, width, channels), each image's independent of the others up to rounding.

        Raises DataError for images of another channel count than the training data's.
        """
        return self.streamed([images], len(images))

    def streamed(self, parts: Iterable[Pixels], count: int) -> Float32[np.ndarray, "count d"]:
        """Features of `count` images that come in parts, to the bit those of all of them at once.

        Beyond a part and a batch of the network, of at most 256 images, 256 bytes are kept of each image: its features.
        Raises DataError as for all at once.
        """
        features, done = np.empty((count, classifier.FEATURES), np.float32), 0
        for images in in_batches(parts, self._batch):
            padded = images[np.resize(np.arange(len(images)), self._batch(images.shape[1:]))]  # one compilation
            features[done : done + len(images)] = classifier.apply(self.architecture, self.params, padded)[0][
                : len(images)
            ]
            done += len(images)
        if done != count:
            raise ValueError(f"the parts hold {done} images, not {count}.")
        return features

    def _batch(self, shape: tuple[int, ...]) -> int:
        """The images of this shape that are passed through the network at once. Raises DataError for wrong channels."""
        if shape[-1] != self.architecture.channels:
            raise DataError(
                f"images have {shape[-1]} channels, and {self.name} was trained on {self.architecture.channels}; "
                "give images of the same data."
            )
        return max(1, min(256, BATCH_PIXELS // math.prod(shape)))

    @property
    def distance(self) -> str:
        """It is no FID."""
        return "Fréchet distance"

    def provenance(self) -> dict[str, Any]:
        """The network and its parameters, as JSON values."""
        return {"network": self.name, "weights_sha256": self.digest, "preprocessing": "levels to [−1, 1]"}

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, array in sorted(self.params.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def in_batches(parts: Iterable[np.ndarray], size_of: Callable[[tuple[int, ...]], int]) -> Iterator[np.ndarray]:
    """The rows of all parts in their order, in batches of one size, of which the last may be short."""
    kept: list[np.ndarray] = []
    waiting = 0
    for part in parts:
        size, start = size_of(part.shape[1:]), 0
        while start < len(part):
            piece = part[start : start + size - waiting]
            kept.append(piece)
            waiting, start = waiting + len(piece), start + len(piece)
            if waiting == size:
                yield kept[0] if len(kept) == 1 else np.concatenate(kept)
                kept, waiting = [], 0
    if kept:
        yield np.concatenate(kept)


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
    name = f"{KINDS[task]}{f'-s{seed}' if seed else ''}@{train.digest[:8]}"
    stem = f"{KINDS[task]}-{train.digest[:16]}-{held_out.digest[:16]}-s{seed}"
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


def features_kept(source: Source, limit: int = LIMIT) -> int:
    """The number of images of `source` whose features `source_features` gives."""
    return min(limit, len(source))


def source_features(
    space: Space,
    source: Source,
    *,
    limit: int = LIMIT,
    cache: Path | None = None,
    notice: store.Notice = to_stderr,
) -> Float32[np.ndarray, "n d"]:
    """Features of the images of `source`, or of `limit` of them drawn without replacement, in their order.

    They are kept in `cache`. `distances.moments` gives their mean and covariance.
    """
    count = features_kept(source, limit)
    stem = f"features-{space.digest[:16]}-{source.digest[:16]}-{count}"
    kept = store.load(cache, stem, notice)
    if kept is not None:
        return kept["features"]
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    parts = (source.images[rows[start : start + _ROWS]] for start in range(0, count, _ROWS))
    features = space.streamed(parts, count)
    store.save(cache, stem, {"features": features}, notice)
    return features
