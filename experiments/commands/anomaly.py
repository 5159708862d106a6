"""`scorefield anomaly`: how strange images are to a model with an energy, or of which of two models they are."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.commands.options import parse, take_flag
from experiments.data.config import DataConfig
from experiments.data.source import Source
from experiments.errors import UsageError, warn
from experiments.evaluation.ranking import auroc, share_below
from experiments.pictures import files
from experiments.runs.load import CheckpointArguments, load_model, load_run, run_data
from experiments.runs.provenance import checkpoint, origin

if TYPE_CHECKING:
    from experiments.runs.energy import Energy

DESCRIPTION = """\
Score images by how strange they are to a model with an energy, in nats above the median of the training images: minus
the log-density of the image under noise of σ, for a model that was trained at one noise level; for one of many levels
the energy, whose density is near that one's at the smallest level and not the same.

  scorefield anomaly --run runs/digits-mdsm --outdir strange
  scorefield anomaly --run runs/digits-mdsm --data idx:fashion-mnist --data.size 8

Without --data the run's held-out images are ranked; with it the images of another source (its test split, where it
has one) are, and compared with the held-out images. Runs with an energy are trained with --conservative
--preconditioning.kind residual --times log-uniform, or with --objective generator.

A density is no measure of how typical an image is: one simpler than the data may score below them. And far from
all training images under all noise the energy is a guess: `scorefield sample --kernel mala` finds what it takes for
likely, and so the pictures that no score will find strange.
"""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN = 5  # in the table, from either end


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherData:
    """How the images of --data are read, as in `scorefield train`."""

    size: int | None = None
    """Height and width in pixels that every image is brought to."""
    crop: Literal["center", "none"] = "center"
    """How an image that is not square becomes so: its central square, or all of it squeezed."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB. [the run's]"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnomalyArguments(CheckpointArguments):
    """The arguments of `scorefield anomaly`."""

    data: OtherData = OtherData()
    """Options of the source that `--data URI` names."""
    against_run: Path | None = None
    """Folder of a second run with an energy: the log-density ratio of the two is reported too, by its first average."""
    noised: int = 0
    """Noisy copies of each image whose scores are averaged; 0 scores the image as it is."""
    images: int = 2000
    """At most so many images of each set, drawn by a fixed seed."""
    outdir: Path | None = None
    """Folder for scores.npz and for the picture anomalies.png. [nothing is written]"""
    json: bool = False
    """Print the report as JSON."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A set of images with their scores, each the row of its own part of the data."""

    source: Source
    rows: np.ndarray
    scores: np.ndarray
    ratio: np.ndarray | None

    @property
    def labels(self) -> np.ndarray:
        """Class of each image, −1 where there is none."""
        known = self.source.labels
        return np.full(len(self.rows), -1, np.int32) if known is None else known[self.rows]


def run(argv: list[str]) -> int:
    """Score; returns the exit status."""
    uri, argv = take_flag(argv, "--data")
    arguments = parse(AnomalyArguments, argv, "scorefield anomaly", DESCRIPTION, taken=("--data",))
    if arguments.noised < 0 or arguments.images < 1:
        raise UsageError(f"--noised is {arguments.noised} and --images {arguments.images}; give at least 0 and 1.")
    if uri is None and arguments.data != OtherData():
        raise UsageError("--data.size, --data.crop and --data.channels are of another source; add --data URI.")
    from experiments.evaluation.strangeness import require_comparable
    from experiments.runs.energy import energy_of

    start, model = time.perf_counter(), load_run(arguments)
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
        parts[uri] = _other(uri, arguments.data, training)
    scored = _scored(arguments, energy, other, parts)
    report |= {"one_level": energy.high == energy.sigma, "kind": "point" if training.of_points else "image"}
    report |= {"sigma": energy.sigma, "noisy_copies": arguments.noised, **summary(scored)}
    files = [] if arguments.outdir is None else _write(arguments.outdir, scored, report)
    report |= {"files": [str(path) for path in files], "seconds": round(time.perf_counter() - start, 1)}
    print(json.dumps(report) if arguments.json else "\n".join(_lines(report)))
    return 0


def _other(uri: str, options: OtherData, training: Source) -> Source:
    """The test split of another source, or all of it. Raises UsageError unless its images have the run's shape."""
    from experiments.data import open_source

    channels = options.channels
    if channels is None and not training.of_points and training.event_shape[-1] in (1, 3):
        channels = 1 if training.event_shape[-1] == 1 else 3
    whole = open_source(DataConfig(source=uri, size=options.size, crop=options.crop, channels=channels))
    source = whole.held_out or whole
    if source.event_shape != training.event_shape:
        ours, theirs = ("×".join(map(str, part.event_shape)) for part in (training, source))
        raise UsageError(f"--data {uri} holds {theirs}, and this run is of {ours}; give --data.size, or other data.")
    return source


def _scored(
    arguments: AnomalyArguments, energy: Energy, other: Energy | None, parts: dict[str, Source]
) -> dict[str, Scored]:
    """Each part's scores and ratios, above the medians of the training images."""
    from experiments.evaluation.strangeness import log_ratio, strangeness

    result = {}
    for name, source in parts.items():
        rows = np.sort(np.random.default_rng(0).permutation(len(source))[: arguments.images])
        pixels = source.images[rows]
        scores = strangeness(energy, pixels, copies=arguments.noised)
        ratio = None if other is None else log_ratio(energy, other, pixels, copies=arguments.noised)
        result[name] = Scored(source, rows, scores, ratio)
    first = next(iter(result.values()))
    middle, shift = np.median(first.scores), None if first.ratio is None else np.median(first.ratio)
    return {
        name: dataclasses.replace(
            part, scores=part.scores - middle, ratio=None if part.ratio is None else part.ratio - shift
        )
        for name, part in result.items()
    }


def summary(scored: dict[str, Scored]) -> dict[str, Any]:
    """What is reported of the sets, the training images first and those in question last, as JSON values."""
    (first, *_), (low_name, low), (name, last) = scored.values(), *list(scored.items())[-2:]
    order = np.argsort(last.scores, kind="stable")
    as_strange = 1 - share_below(last.scores, first.scores)

    def rows(places: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "index": int(last.rows[i]),
                "label": None if last.labels[i] < 0 else int(last.labels[i]),
                "score": float(last.scores[i]),
                "training_as_strange": float(as_strange[i]),
            }
            for i in places
        ]

    report = {
        "images": {key: len(part.rows) for key, part in scored.items()},
        "quantiles": {key: _quantiles(part.scores) for key, part in scored.items()},
        "ranked": name,
        "compared_with": low_name,
        "auroc": _finite(auroc(last.scores, low.scores)._asdict()),
        "strangest": rows(order[::-1][:_SHOWN]),
        "most_ordinary": rows(order[:_SHOWN]),
    }
    if last.ratio is not None and low.ratio is not None:
        report["log_density_ratio"] = {
            "quantiles": {key: _quantiles(part.ratio) for key, part in scored.items() if part.ratio is not None},
            # The lower, the more an image is of the second run.
            "auroc": _finite(auroc(-last.ratio, -low.ratio)._asdict()),
        }
    return report


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(value) for q, value in zip(_QUANTILES, np.quantile(values, _QUANTILES), strict=True)}


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """With null for what JSON does not have."""
    return {key: value if np.isfinite(value) else None for key, value in numbers.items()}


def _lines(report: dict[str, Any]) -> list[str]:
    copies, kind = report["noisy_copies"], report["kind"]
    how = f"the mean of {copies} noisy copies each" if copies else f"each {kind} as it is"
    what = "−ln p̂" if report["one_level"] else "the energy −ψ/σ²"
    one = "an image" if kind == "image" else f"a {kind}"
    lines = [
        f"{report['run']}, step {report['checkpoint_step']}: {what} at σ = {report['sigma']:g}, {how}",
        f"nats above the median of the training {kind}s",
        "",
        *_table(kind, report["images"], report["quantiles"]),
        "",
        f"{one} of {report['ranked']} is stranger than one of {report['compared_with']} with probability "
        + _shown(report["auroc"]),
    ]
    if "log_density_ratio" in report:
        ratio = report["log_density_ratio"]
        lines += [
            "",
            f"ln p̂ − ln p̂ of {report['against_run']['checkpoint']}, above the median of the training {kind}s",
            *_table(kind, report["images"], ratio["quantiles"]),
            f"{one} of {report['ranked']} has the lower one with probability " + _shown(ratio["auroc"]),
        ]
    for name in ("strangest", "most_ordinary"):
        lines += ["", f"{name.replace('_', ' ')} of {report['ranked']}"]
        lines += [
            f"  {kind} {row['index']:<6}"
            + (f" class {row['label']:<4}" if row["label"] is not None else "")
            + f"{row['score']:>+10.1f} nats; {row['training_as_strange']:.1%} of the training {kind}s are as strange"
            for row in report[name]
        ]
    return lines + (["", *report["files"]] if report["files"] else [])


def _table(kind: str, counts: dict[str, int], quantiles: dict[str, dict[str, float]]) -> list[str]:
    width = max(map(len, counts)) + 2
    head = f"{'':{width}}{kind + 's':>8}" + "".join(f"{float(q):>10.0%}" for q in quantiles["training"])
    return [head] + [
        f"{name:{width}}{counts[name]:>8}" + "".join(f"{value:>10.1f}" for value in row.values())
        for name, row in quantiles.items()
    ]


def _shown(area: dict[str, float | None]) -> str:
    error = area["standard_error"]
    return f"{area['value']:.3f}" + ("" if error is None else f" ± {error:.3f}")


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
