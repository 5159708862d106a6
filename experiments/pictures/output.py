"""Samples on the disk: one picture, single PNGs or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.data.sources.plane import law_of
from experiments.pictures import files
from experiments.runs.model import Model


def write(
    outdir: Path,
    form: Literal["grid", "png", "npz"],
    model: Model,
    pictures: np.ndarray,
    seeds: list[int],
    provenance: dict[str, Any],
    label: int | None = None,
) -> list[Path]:
    """Write samples to `outdir` as one picture ("grid"), as a PNG each or as arrays; returns the files.

    The one picture is a contact sheet of images, or the `model_picture` of points in the plane.
    Raises UsageError when a file cannot be written.
    """
    if model.of_points:
        return [_write_points(outdir, form, model, pictures, seeds, provenance)]
    if form == "png":
        return files.save_singles(outdir, pictures, seeds, provenance)
    if form == "npz":
        path = outdir / "samples.npz"
        labels = {} if label is None else {"labels": np.full(len(seeds), label)}
        files.save_npz(path, pictures, provenance, seeds=np.asarray(seeds), **labels)
    else:
        path = outdir / "samples.png"
        files.save_png(path, files.contact_sheet(pictures), provenance)
    return [path]


def _write_points(
    outdir: Path, form: str, model: Model, points: np.ndarray, seeds: list[int], provenance: dict[str, Any]
) -> Path:
    if form == "npz":
        path = outdir / "samples.npz"
        files.save_arrays(path, provenance, points=points, seeds=np.asarray(seeds))
    else:
        from experiments.pictures.plane import model_picture

        path = outdir / "samples.png"
        picture = model_picture(model, law_of(model.config.data.source), points)
        files.save_png(path, picture.pixels, {**provenance, **picture.facts})
    return path
