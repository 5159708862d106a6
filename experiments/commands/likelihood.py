"""`scorefield likelihood`: how likely each image is to a trained model, in nats and bits per dimension."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from experiments.commands.options import parse, take_flag
from experiments.commands.other_data import OtherData, other_source, require_source
from experiments.errors import UsageError, warn
from experiments.files import require_own, require_writable
from experiments.names import counted
from experiments.progress import reporting
from experiments.runs.counted import with_counts
from experiments.runs.load import CheckpointArguments, load_run, run_data, training_part
from experiments.runs.provenance import origin
from experiments.streams import require_seed

if TYPE_CHECKING:
    from experiments.data.source import Source
    from experiments.runs.model import Model

DESCRIPTION = """\
Say how likely each image is to a trained model, in nats and in bits per dimension, each with its standard error.

  scorefield likelihood --run runs/photos
  scorefield likelihood --run runs/photos --data folder:others --data.size 64 --out others.csv

The density comes from the probability flow, at the least noise that the model was trained at. Images are whole levels,
so noise within the bin of a level makes a bound of it: uniform noise, and a normal one that is truncated to the bin,
as wide as the least noise itself, which fits a model that was trained on the levels (and often tells far more). The
standard error of an image is over --draws of that noise and, above 16 dimensions, of the probes of the divergence.

A discrete chain has no such flow; for it the bound is its ELBO. A run with an energy instead has no likelihood:
`scorefield anomaly` ranks images by it. Without --data the run's held-out images are measured. A model with classes is
told the class of each image where the names of the classes are its own.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodArguments(CheckpointArguments):
    """The arguments of `scorefield likelihood`."""

    run_data: str | None = None
    """URI of the run's own data, where they have moved; they must be the same. [where the run has read them]"""
    data: OtherData = OtherData()
    """Options of the source that `--data URI` names."""
    label: str | None = None
    """Class that the model is told of every image, by name or number, or none; --class is the same flag. [each its
    own]"""
    dequantisation: Literal["both", "uniform", "truncated-normal"] = "both"
    """The noise within the bin of a level."""
    draws: int = 4
    """Draws for each image; of one alone there is no standard error."""
    probes: int | None = None
    """Probes of the divergence for each draw; 0 for the exact one, which costs as many as there are dimensions. [0 up
    to 16 dimensions, else 2]"""
    limit: int = 100
    """Largest number of images, chosen by a fixed seed."""
    seed: int = 0
    """Seed of the noise and the probes."""
    batch: int = 64
    """Images at a time; it affects the speed only."""
    out: Path | None = None
    """File (CSV) with a line for each image, written when all are measured. [none is written]"""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> int:
    """Measure; returns the exit status."""
    label, argv = take_flag(argv, "--class")
    uri, argv = take_flag(argv, "--data")
    if label is not None:
        argv = [*argv, f"--label={label}"]
    arguments = parse(LikelihoodArguments, argv, "scorefield likelihood", DESCRIPTION, taken=("--data", "--class"))
    for flag in ("draws", "limit", "batch", "probes"):
        least = 0 if flag == "probes" else 1
        if (value := getattr(arguments, flag)) is not None and value < least:
            raise UsageError(f"--{flag} is {value}; give at least {least}.")
    require_seed(arguments.seed)
    require_source(uri, arguments.data)
    from experiments.evaluation.likelihood import Dequantisation, is_table, likelihoods, require_likelihood
    from experiments.evaluation.report import with_null
    from experiments.sampling.variance import some_rows

    if arguments.out is not None:
        require_own(arguments.out, is_table, "--out")
        require_writable(arguments.out.parent)
    model = with_counts(load_run(arguments, arguments.run_data))
    require_likelihood(model)
    source = _source(model, uri, arguments.data)
    rows = some_rows(len(source), arguments.limit)
    labels = _labels(model, source, rows, arguments.label, own=uri is None)
    chosen = get_args(Dequantisation) if arguments.dequantisation == "both" else (arguments.dequantisation,)
    with reporting(quiet=arguments.json):
        found = likelihoods(
            model,
            source,
            rows,
            labels,
            dequantisations=chosen,
            draws=arguments.draws,
            seed=arguments.seed,
            probes=arguments.probes,
            training=training_part(model),
            batch=arguments.batch,
        )
    if arguments.out is not None:
        found.save_csv(arguments.out)
    summary = found.summary()
    if arguments.json:
        report = {"run": str(arguments.run), **origin(model), "data": source.name, "draws": arguments.draws}
        report |= {"seed": arguments.seed, "dimensions": found.dims, "measures": summary}
        print(json.dumps(with_null({**report, "file": None if arguments.out is None else str(arguments.out)})))
        return 0
    print("\n".join(_table(summary, source.name, labels is not None)))
    if arguments.out is not None:
        print(arguments.out)
    return 0


_WORDS = {
    "uniform": "ln P, uniform noise",
    "truncated-normal": "ln P, truncated normal noise",
    "density": "ln p, a density",
    "elbo": "ELBO of the chain",
}


def _table(summary: dict[str, dict[str, Any]], name: str, told: bool) -> list[str]:
    """The means over images, a line for each measure."""
    lines = [f"{name}{', given the class of each' * told}"]
    for measure, row in summary.items():
        failed = f", {counted(row['failed'], 'image')} without a number" if row["failed"] else ""
        nats = f"{row['nats']:.6g}{_error(row['nats_error'], '.2g')} nats"
        bits = f"{row['bits_per_dim']:.4f}{_error(row['bits_per_dim_error'], '.4f')} bits/dim"
        lines.append(f"{_WORDS[measure]:30}{nats}, {bits} over {counted(row['images'], 'image')}{failed}")
    return lines


def _error(value: float, digits: str) -> str:
    """± a standard error, nothing where a single image has none."""
    return "" if math.isnan(value) else f" ± {value:{digits}}"


def _source(model: Model, uri: str | None, options: OtherData) -> Source:
    """The images to measure. Raises UsageError where the run holds none out."""
    if uri is not None:
        return other_source(uri, options, model.event_shape, model.config.data)
    if model.imported is not None:
        raise UsageError("an imported run has no data of its own; add --data URI, such as --data folder:photos.")
    held_out = run_data(model)[1]
    if held_out is None:
        raise UsageError("this run holds no images out (--data.held-out 0); add --data URI.")
    return held_out


def _labels(model: Model, source: Source, rows: np.ndarray, label: str | None, *, own: bool) -> np.ndarray | None:
    """The class of each image that the model is told: the one given, or the image's own. Raises UsageError."""
    from experiments.runs.classes import class_names
    from experiments.sampling.labels import choose_classes, require_no_class

    if label is not None:
        classes = choose_classes(model, label)
        if classes is not None and len(classes.numbers) != 1:
            raise UsageError(f"--class is {label}; give one class for all images, none, or leave it out.")
        return None if classes is None else np.full(len(rows), classes.numbers[0], np.int32)
    if not model.num_classes:
        return None
    if source.labels is None or not (own or set(source.class_names) <= set(class_names(model))):
        require_no_class(model)
        warn("the classes of these images are not the run's, and it is told none.")
        return None
    names = list(class_names(model))
    numbers = source.labels[rows] if own else [names.index(source.class_names[i]) for i in source.labels[rows]]
    return np.asarray(numbers, np.int32)
