"""How strange sets of images are to an energy, measured from the median of the images that it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.pytree import short_repr
from experiments.data.source import Source
from experiments.evaluation.ranking import auroc, share_below
from experiments.evaluation.strangeness import log_ratio, strangeness
from experiments.names import listed
from experiments.runs.energy import Energy
from experiments.sampling.variance import some_rows

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN = 5  # images in the table, from either end


@dataclasses.dataclass(frozen=True)
class Scored:
    """Some images of a data set, with their scores."""

    source: Source
    rows: np.ndarray
    """The images' places in the source."""
    scores: np.ndarray
    """How strange each image is, in nats."""
    ratio: np.ndarray | None
    """ln p̂ under the run less that under the other run, in nats; None without another run."""

    __repr__ = short_repr

    @property
    def labels(self) -> np.ndarray:
        """The class of each image, −1 where there is none."""
        known = self.source.labels
        return np.full(len(self.rows), -1, np.int32) if known is None else known[self.rows]


def score(
    energy: Energy, parts: Mapping[str, Source], *, other: Energy | None = None, copies: int = 0, limit: int = 2000
) -> dict[str, Scored]:
    """The scores of up to `limit` images of each part, drawn by a fixed seed, in nats above the median of the first.

    They are −ln p̂ of the energy, averaged over `copies` noisy copies as in `strangeness`; the ratios, ln p̂ less that of
    `other`, are above the median of the first part too.
    """
    result = {}
    for name, source in parts.items():
        rows = some_rows(len(source), limit)
        pixels = source.images[rows]
        scores = strangeness(energy, pixels, copies=copies)
        ratio = None if other is None else log_ratio(energy, other, pixels, copies=copies)
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
    """The report on sets of images, the training images first and those in question last, as JSON values and NaN."""
    (first, *_), (low_name, low), (name, last) = scored.values(), *list(scored.items())[-2:]
    order = np.argsort(last.scores, kind="stable")
    as_strange = 1 - share_below(last.scores, first.scores)

    def rows(places: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "index": int(last.rows[i]),
                "label": None if last.labels[i] < 0 else int(last.labels[i]),
                "class_name": None if last.labels[i] < 0 else last.source.class_names[last.labels[i]],
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
        "auroc": auroc(last.scores, low.scores)._asdict(),
        "strangest": rows(order[::-1][:_SHOWN]),
        "most_ordinary": rows(order[:_SHOWN]),
    }
    if last.ratio is not None and low.ratio is not None:
        report["log_density_ratio"] = {
            "quantiles": {key: _quantiles(part.ratio) for key, part in scored.items() if part.ratio is not None},
            # The lower, the more an image is of the second run.
            "auroc": auroc(-last.ratio, -low.ratio)._asdict(),
        }
    return report


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(value) for q, value in zip(_QUANTILES, np.quantile(values, _QUANTILES), strict=True)}


def table(report: dict[str, Any]) -> list[str]:
    """A report, a `summary` with what it is about, as lines for a person."""
    copies, kind = report["noisy_copies"], report["kind"]
    how = f"the mean of {copies} noisy copies each" if copies else f"each {kind} as it is"
    what = "−ln p̂" if report["one_level"] else "the energy −ψ/σ²"
    one = "an image" if kind == "image" else f"a {kind}"
    lines = [
        f"{report['run']}, step {report['checkpoint_step']}: {what} at σ = {report['sigma']:g}, {how}",
        f"nats above the median of the training {kind}s",
        "",
        *_rows(kind, report["images"], report["quantiles"]),
        "",
        f"{one} of {report['ranked']} is stranger than one of {report['compared_with']} with probability "
        + _shown(report["auroc"]),
    ]
    if "log_density_ratio" in report:
        ratio = report["log_density_ratio"]
        lines += [
            "",
            f"ln p̂ − ln p̂ of {report['against_run']['checkpoint']}, above the median of the training {kind}s",
            *_rows(kind, report["images"], ratio["quantiles"]),
            f"{one} of {report['ranked']} has the lower one with probability " + _shown(ratio["auroc"]),
        ]
    for name in ("strangest", "most_ordinary"):
        lines += ["", f"{name.replace('_', ' ')} of {report['ranked']}"]
        lines += [
            f"  {kind} {row['index']:<6}"
            + (f" class {listed([row['class_name']], 40):<4}" if row["label"] is not None else "")
            + f"{row['score']:>+10.1f} nats; {row['training_as_strange']:.1%} of the training {kind}s are as strange"
            for row in report[name]
        ]
    return lines + (["", *report["files"]] if report["files"] else [])


def _rows(kind: str, counts: dict[str, int], quantiles: dict[str, dict[str, float]]) -> list[str]:
    width = max(map(len, counts)) + 2
    head = f"{'':{width}}{kind + 's':>8}" + "".join(f"{float(q):>10.0%}" for q in quantiles["training"])
    return [head] + [
        f"{name:{width}}{counts[name]:>8}" + "".join(f"{value:>10.1f}" for value in row.values())
        for name, row in quantiles.items()
    ]


def _shown(area: dict[str, float | None]) -> str:
    error = area["standard_error"]
    return f"{area['value']:.3f}" + ("" if error is None else f" ± {error:.3f}")
