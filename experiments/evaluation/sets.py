"""Two sets of images against each other: folders, archives, arrays, or what is left of one in a file of statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.data.config import DataConfig
from experiments.data.registry import SOURCES, one_by_one, open_source
from experiments.data.source import Source, split
from experiments.errors import ScorefieldError, UsageError
from experiments.evaluation.distances import density_coverage, precision_recall
from experiments.evaluation.features import Space, feature_space, source_features
from experiments.evaluation.network_space import NetworkSpace, open_space
from experiments.evaluation.statistics import Statistics, is_ours, is_statistics, read_statistics, write_statistics
from experiments.evaluation.wide import Distance, Side, frechet, kernel_distance, side
from experiments.files import require_own
from experiments.names import counted
from experiments.progress import stage

NEEDED = 6
"""The images of either set at least: each has 5 neighbours that density and coverage look at."""
_SHARED = 0.1
"""Of the first set, the part on which the accuracy of a network is measured that is trained on the rest."""


@dataclass(frozen=True)
class SetOptions:
    """How two sets are read and compared."""

    features: str | None = None
    preprocessing: str | None = None
    size: str | None = None
    channels: int | None = None
    bits: Literal[8, 16] = 8
    limit: int = 50_000
    seed: int = 0
    cache: Path | None = None
    save_statistics: Path | None = None


@dataclass(frozen=True)
class ImageSet:
    """A set as it was named: images, or their statistics."""

    name: str
    source: Source | None
    statistics: Statistics | None

    def counted(self, limit: int) -> int | None:
        """The images that enter."""
        if self.source is not None:
            return min(limit, len(self.source))
        return None if self.statistics is None else self.statistics.count


def open_set(name: str, size: str | None = None, channels: int | None = None, bits: Literal[8, 16] = 8) -> ImageSet:
    """The images at a folder, a zip, an npz or a URI of data, or a file of statistics.

    Raises DataError for what cannot be read, UsageError where there is nothing.
    """
    path = Path(name).expanduser()
    if is_statistics(path):
        return ImageSet(name, None, read_statistics(path))
    uri = name
    if name.partition(":")[0] not in SOURCES:
        kinds = {".zip": "zip", ".npz": "npz"}
        kind = "folder" if path.is_dir() else kinds.get(path.suffix.lower())
        if kind is None or not path.exists():
            raise UsageError(f"{name} is no folder, zip or npz that is there; give one, or a URI such as digits.")
        uri = f"{kind}:{path}"
    try:
        source = open_source(one_by_one(DataConfig(source=uri, size=size, channels=channels, bits=bits)))
    except ScorefieldError as error:
        raise type(error)(str(error).replace("--data.", "--")) from None
    if source.of_points:
        raise UsageError(f"{name} holds points; give images.")
    return ImageSet(name, source, None)


def compare_sets(first: str, second: str | None, options: SetOptions) -> dict[str, Any]:
    """The distances of two sets, as JSON values; with one alone, its statistics are written and nothing is compared.

    Fréchet's distance and the kernel distance are of all images on either side; precision, recall, density and
    coverage, of which the second set is the real one, of equally many. Of statistics only Fréchet's can be told.
    """
    if options.save_statistics is not None:
        require_own(options.save_statistics, is_ours, "--save-statistics")
    sets = [
        open_set(name, options.size, options.channels, options.bits) for name in (first, second) if name is not None
    ]
    for one in sets:
        if one.source is not None and len(one.source) < NEEDED:
            raise UsageError(
                f"{one.name} has {counted(len(one.source), 'image')}, and distances need {NEEDED}; give more."
            )
    space = _space(sets, options)
    told = space.provenance()
    sides, features = [], []
    for one in sets:
        if one.statistics is not None:
            one.statistics.require(told["weights_sha256"], told["preprocessing"], _width(space))
            sides.append(one.statistics.side)
            continue
        assert one.source is not None
        with stage(f"features of {one.name}"):
            features.append(source_features(space, one.source, limit=options.limit, cache=options.cache))
        sides.append(side(features[-1]))
    report: dict[str, Any] = {
        "first": first,
        "second": second,
        "counts": [one.counted(options.limit) for one in sets],
        "feature_space": space.name,
        "feature_accuracy": space.accuracy,
        "features": told,
        "resized_to": options.size,
    }
    if options.save_statistics is not None:
        write_statistics(options.save_statistics, sides[0], {**told, "source": first})
        report["statistics"] = str(options.save_statistics)
    if len(sets) == 2:
        with stage("distances"):
            report |= {"distance": space.distance, **_measured(sides, features, options.seed)}
    return report


def _measured(sides: list[Side], features: list[np.ndarray], seed: int) -> dict[str, Any]:
    measures: dict[str, Any] = {"frechet": _json(frechet(*sides))}
    if len(features) < 2:
        return measures
    measures["kernel"] = _json(kernel_distance(*features))
    n, rng = min(map(len, features)), np.random.default_rng(seed)
    generated, real = (rows[np.sort(rng.permutation(len(rows))[:n])] for rows in features)
    precision, recall = precision_recall(real, generated)
    density, coverage = density_coverage(real, generated)
    return {
        **measures,
        "equal_counts": n,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def _json(distance: Distance) -> dict[str, Any]:
    return {"value": distance.value, "standard_error": distance.standard_error}


def _space(sets: list[ImageSet], options: SetOptions) -> Space:
    """The space of the file that is named, or of a network that is trained on the first set."""
    if options.features is not None:
        with stage("the feature network"):
            return open_space(options.features, options.preprocessing)
    if options.preprocessing is not None:
        raise UsageError("--preprocessing goes with --features FILE; give that too, or leave it out.")
    for one in sets:
        if one.source is None:
            raise UsageError(f"{one.name} is statistics of some network's features; give that network by --features.")
    source = sets[0].source
    assert source is not None
    shapes = {one.source.event_shape for one in sets if one.source is not None}
    if len(shapes) > 1:
        raise UsageError(
            f"the images are {' and '.join('×'.join(map(str, shape)) for shape in sorted(shapes))}; give --size, or a "
            "network that takes both by --features."
        )
    training, held_out = split(source, _SHARED, 0)
    if held_out is None or len(training) < NEEDED:
        raise UsageError(f"{sets[0].name} has too few images to train a network on; give one by --features.")
    with stage("the feature network"):
        return feature_space(training, held_out, cache=options.cache)


def _width(space: Space) -> int:
    assert isinstance(space, NetworkSpace)
    return space.network.width
