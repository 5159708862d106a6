"""`scorefield anomaly`: how strange images are to a model with an energy, or which of two models they belong to."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.commands.options import parse, take_flag
from experiments.commands.other_data import OtherData, other_source, require_source
from experiments.errors import UsageError, warn
from experiments.evaluation.report import with_null
from experiments.pictures import files
from experiments.pictures.request import require_apart
from experiments.progress import reporting, stage
from experiments.runs.load import CheckpointArguments, load_model, load_run, run_data
from experiments.runs.provenance import checkpoint, origin

if TYPE_CHECKING:
    from experiments.evaluation.anomalies import Scored

DESCRIPTION = """\
Score images by how strange they are to a model with an energy, in nats above the median of the training images. For a
model that was trained at one noise level σ the score is minus the log-density of the image under that noise; for one of
many levels it is the energy, whose density is near that one at the smallest level, and not the same.

  scorefield anomaly --run runs/digits-mdsm --outdir strange
  scorefield anomaly --run runs/digits-mdsm --data idx:fashion-mnist --data.size 8

Without --data the run's held-out images are ranked; with it, the images of another source (its test split, if it has
one) are ranked and compared with the held-out images. Runs with an energy are trained with --conservative
--preconditioning.kind residual --times log-uniform, or with --objective generator.

A density does not measure how typical an image is: an image simpler than the data may score below them. And far from
all training images under all noise the energy is a guess: `scorefield sample --kernel mala` shows what it takes for
likely, and so the pictures that it will never find strange.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnomalyArguments(CheckpointArguments):
    """The arguments of `scorefield anomaly`."""

    run_data: str | None = None
    """URI of the run's own data, where they have moved; they must be the same. [where the run has read them]"""
    data: OtherData = OtherData()
    """Options of the source that `--data URI` names."""
    against_run: Path | None = None
    """Folder of a second run with an energy, of which the first average is taken: the log-density ratio of the two runs
    is reported too."""
    noised: int = 0
    """Number of noisy copies of each image whose scores are averaged; 0 scores the image as it is."""
    images: int = 2000
    """Largest number of images of each set, drawn by a fixed seed."""
    outdir: Path | None = None
    """Folder for scores.npz and for the picture anomalies.png. [nothing is written]"""
    json: bool = False
    """Print the report as JSON."""


def run(argv: list[str]) -> int:
    """Score; returns the exit status."""
    uri, argv = take_flag(argv, "--data")
    arguments = parse(AnomalyArguments, argv, "scorefield anomaly", DESCRIPTION, taken=("--data",))
    if arguments.noised < 0 or arguments.images < 1:
        raise UsageError(f"--noised is {arguments.noised} and --images {arguments.images}; give at least 0 and 1.")
    require_source(uri, arguments.data)
    from experiments.evaluation.anomalies import score, summary, table
    from experiments.evaluation.strangeness import require_comparable
    from experiments.runs.energy import energy_of

    start, model = time.perf_counter(), load_run(arguments, arguments.run_data)
    if arguments.outdir is not None:
        require_apart(model, arguments.outdir)
        files.require_own(arguments.outdir / "scores.npz", arguments.outdir / "anomalies.png")
    energy, other, report = energy_of(model), None, {"run": str(arguments.run), **origin(model)}
    if arguments.against_run is not None:
        second = load_model(arguments.against_run, warn=warn)
        other = energy_of(second, "--against-run")
        require_comparable(energy, other)
        report["against_run"] = checkpoint(second)
    training, held_out = run_data(model)
    if held_out is None:
        raise UsageError("this run holds no images out (--data.held-out 0), so there is nothing to measure against.")
    parts = {"training": training, "held-out": held_out}
    if uri is not None:
        parts[uri] = other_source(uri, arguments.data, training.event_shape, model.config.data)
    with reporting(quiet=arguments.json), stage("scores"):
        scored = score(energy, parts, other=other, copies=arguments.noised, limit=arguments.images)
    report |= {"one_level": energy.high == energy.sigma, "kind": "point" if training.of_points else "image"}
    report |= {"sigma": energy.sigma, "noisy_copies": arguments.noised}
    report |= with_null(summary(scored))
    written = [] if arguments.outdir is None else _write(arguments.outdir, scored, report)
    report |= {"files": [str(path) for path in written], "seconds": round(time.perf_counter() - start, 1)}
    print(json.dumps(report) if arguments.json else "\n".join(table(report)))
    return 0


def _write(outdir: Path, scored: dict[str, Scored], report: dict[str, Any]) -> list[Path]:
    """scores.npz, and for images anomalies.png."""
    last = list(scored.values())[-1]
    arrays = {"scores": last.scores, "index": last.rows, "label": last.labels}
    if last.ratio is not None:
        arrays["log_density_ratio"] = last.ratio
    for other, part in list(scored.items())[:-1]:
        arrays[f"{other.replace('-', '_')}_scores"] = part.scores
    paths = [outdir / "scores.npz"]
    files.save_arrays(paths[0], report, **arrays)
    if not last.source.of_points:
        from experiments.pictures.anomalies import draw

        paths.append(outdir / "anomalies.png")
        shown = dict(list(scored.items())[1:])
        pixels = draw({key: (part.source.images[part.rows], part.scores) for key, part in shown.items()})
        files.save_png(paths[1], pixels, report)
    return paths
