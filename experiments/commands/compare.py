"""`scorefield compare`: how far two sets of images are from each other, in the features of a network."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.commands.options import parse
from experiments.errors import UsageError
from experiments.progress import reporting

DESCRIPTION = """\
Compare two sets of images, such as samples with the data that they are to be like: Fréchet distance, kernel distance,
precision, recall, density and coverage in the features of a network. Nothing is downloaded.

  scorefield compare samples folder:photos
  scorefield compare samples.zip photos.zip --features pt_inception-2015-12-05-6726825d.pth
  scorefield compare samples cifar10-statistics.npz --features inception.safetensors
  scorefield compare photos --features dinov2.safetensors --save-statistics photos-dinov2.npz

A set is a folder, a zip or an npz of images, a URI as --data takes it, or a file of statistics (an npz with mu and
sigma), of which only Fréchet's distance can be told. docs/features.md says what is called FID, and why.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """The arguments of `scorefield compare`."""

    sets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SET [SET]")] = ()
    """The sets; the second is the one that is real. One alone with --save-statistics."""
    features: str | None = None
    """File of weights whose features are compared: FID's Inception, a DINOv2 or EfficientNet-Lite0; or
    efficientnet-lite0, if its package is installed. [a small network that is trained on the first set]"""
    preprocessing: str | None = None
    """What is done to images before the network of --features; of Inception tf1 (the standard), pytorch-fid or
    clean-fid. [the standard one]"""
    size: str | None = None
    """Height and width to which the images of both sets are brought first, as 64 or 48x64; without it those of a set
    must have one shape."""
    channels: int | None = None
    """1 for grey, 3 for RGB. [grey if every image of a set is grey; a network of --features takes either]"""
    bits: Literal[8, 16] = 8
    """Bits of the images of both sets."""
    limit: int = 50_000
    """Images of a set that enter at most, drawn without replacement."""
    save_statistics: Path | None = None
    """File (.npz) for the mean and covariance of the first set's features."""
    cache: Path | None = None
    """Folder where features of images are kept. [$XDG_CACHE_HOME/scorefield]"""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> int:
    """Compare the sets; returns the exit status."""
    arguments = parse(CompareArguments, argv, "scorefield compare", DESCRIPTION)
    given = len(arguments.sets)
    if given not in (1, 2) or (given == 1 and arguments.save_statistics is None):
        raise UsageError(f"{given} sets were given; give two, or one with --save-statistics FILE.npz.")
    if arguments.limit < 2:
        raise UsageError(f"--limit is {arguments.limit}; give at least 2.")
    from experiments.evaluation import store
    from experiments.evaluation.report import with_null
    from experiments.evaluation.sets import SetOptions, compare_sets

    fields = {
        field.name: getattr(arguments, field.name) for field in dataclasses.fields(SetOptions) if field.name != "seed"
    }
    options = SetOptions(**{**fields, "cache": arguments.cache or store.default_folder()})
    with reporting(quiet=arguments.json):
        report = compare_sets(arguments.sets[0], arguments.sets[1] if given == 2 else None, options)
    if arguments.json:
        print(json.dumps(with_null(report), allow_nan=False))
        return 0
    print("\n".join(lines(report)))
    return 0


def lines(report: dict[str, Any]) -> list[str]:
    """The report for a person."""
    from experiments.evaluation.images import FEW, few_images

    told = report["features"]
    names = [name for name in (report["first"], report["second"]) if name is not None]
    counts = [
        "a number of images that is not told" if count is None else f"{count:,} images" for count in report["counts"]
    ]
    known = f", {told['weights_known_as']}" if told.get("weights_known_as") else ""
    said = [
        " against ".join(f"{name} ({count})" for name, count in zip(names, counts, strict=True)),
        f"features {report['feature_space']}"
        + (f" (accuracy {report['feature_accuracy']:.1%})" if report["feature_accuracy"] is not None else ""),
        f"weights SHA-256 {told['weights_sha256']}{known}",
        f"preprocessing {told['preprocessing']}",
        "",
    ]
    if "frechet" in report:
        said.append(f"{report['distance']:18}{_shown(report['frechet'])}")
    if "kernel" in report:
        said.append(f"{'kernel distance':18}{_shown(report['kernel'])}")
        said.append(
            f"precision {report['precision']:.3f}, recall {report['recall']:.3f}, density {report['density']:.3f}, "
            f"coverage {report['coverage']:.3f}, of {report['equal_counts']:,} images of each"
        )
    few = min((count for count in report["counts"] if count is not None), default=FEW)
    if "frechet" in report and few < FEW:
        said.append(few_images(few))
    if "statistics" in report:
        said.append(f"statistics of {report['first']}: {report['statistics']}")
    return said


def _shown(distance: dict[str, float]) -> str:
    error = distance["standard_error"]
    return f"{distance['value']:.5g}" + ("" if math.isnan(error) else f" ± {error:.2g}")
