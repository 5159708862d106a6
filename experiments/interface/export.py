"""A run handed on, and a sampler that was handed on: what `scorefield export` and `sample --exported` do, in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import Events
from experiments.errors import UsageError
from experiments.exporting import diffusers, weights
from experiments.exporting.program import PLATFORMS
from experiments.exporting.sampler import ExportedSampler, read_sampler
from experiments.exporting.sampler import export_sampler as write_sampler
from experiments.interface.arguments import (
    Labels,
    check_distinct,
    checked_guidance,
    checked_seeds,
    label_of_each,
    whole,
)
from experiments.interface.chosen import SamplerLike
from experiments.interface.run import Run
from experiments.memory import remedied
from experiments.runs.counted import with_counts
from experiments.sampling.drawing import gather
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import choose_classes
from experiments.sampling.throughput import Throughput


def export_sampler(
    run: Run,
    path: Path | str,
    sampler: SamplerLike = None,
    steps: int | None = None,
    *,
    grid: str | None = None,
    limits: Mapping[str, float] | None = None,
    classes: str | None = None,
    guidance: float | Guidance | None = None,
    brownian_tree: bool = False,
    batch: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Write the run's sampler to the file `path`, a zip, and return what its `sampler.json` says.

    It draws `batch` samples at a time, with the bits of `Run.sample` in batches of that size, or any number of them,
    the same up to rounding. `classes` are those that it draws unless told otherwise, as after --class: "3", "random",
    or "none", with which it takes none. All else is as in `Run.sample`. Raises UsageError for what does not go
    together, or cannot be exported, where `path` is there already, and without the package flatbuffers.
    """
    guide, model = checked_guidance(guidance), with_counts(run.model)
    chosen = choose_classes(model, classes, "classes")
    for name in platforms if not isinstance(platforms, str) else ("",):
        if name not in (*PLATFORMS, "rocm"):
            raise UsageError(f"platforms is {platforms!r}; give some of cpu, cuda, tpu and rocm, as a list.")
    solver = run.solver(
        sampler,
        steps,
        grid=grid,
        limits=limits,
        given_class=chosen is not None,
        guided=guide.strength is not None,
    )
    return write_sampler(
        _path(path),
        model,
        solver,
        guide,
        chosen,
        brownian_tree=brownian_tree,
        batch=None if batch is None else whole("batch", batch),
        platforms=platforms,
    )


def export_weights(run: Run, path: Path | str) -> dict[str, Any]:
    """Write the run's parameters to the file `path`, of safetensors, with the configuration in its metadata.

    `scorefield import` makes a run of it. They are those of the run's `average`. Returns what was written. Raises
    UsageError where it is there already or is not called .safetensors.
    """
    return weights.export_weights(_path(path), run.model)


def export_diffusers(run: Run, folder: Path | str) -> dict[str, Any]:
    """Write the run as a folder that diffusers loads, and return what was written.

    Raises UsageError for a run whose network is no UNet2DModel, or whose process or prediction diffusers does not have,
    and where the folder is there already.
    """
    return diffusers.export_diffusers(_path(folder), run.model)


class Exported(ExportedSampler):
    """A sampler from a file: `sample` draws from it, `raw` calls its program."""

    @remedied("give a smaller batch, or fewer seeds")
    def sample(
        self, seeds: Sequence[int] = range(64), *, label: Labels | None = None, batch: int | None = None
    ) -> Events:
        """The images of these seeds, or the points, as `Run.sample` of the run gives them.

        `label` is as there, those of the file unless given; `batch` is the number drawn at a time, where the file
        leaves that open. Raises UsageError for what does not go together, or not with the file.
        """
        seeds = checked_seeds(seeds)
        if label is not None and self.classes is None:
            raise UsageError(f"label does not go with {self.path}, which was exported without classes; leave it out.")
        given: np.ndarray | None
        if label is None:
            given = None if self.classes is None else self.classes.of(seeds)
        else:
            given = label_of_each(self.model, label, seeds)
            if given is None:
                raise UsageError(f"{self.path} is told a class, and label {label!r} is none; export another.")
        check_distinct(seeds, given)
        size = self.batch_of(None if batch is None else whole("batch", batch), len(seeds))
        return gather(self.draw(seeds, batch=size, label=given), Throughput(size)).images


def load_exported(path: Path | str) -> Exported:
    """The sampler in the file `path`, which `export_sampler` wrote.

    Raises CheckpointError for another file, one that is damaged, and one that this jax or this platform cannot run.
    """
    read = read_sampler(_path(path))
    return Exported(read.bundle, read.model, read.classes)


def _path(place: Any) -> Path:
    if not isinstance(place, str | os.PathLike) or not os.fspath(place):
        raise UsageError(f"the place of a file is {place!r}; give a path.")
    return Path(place)
