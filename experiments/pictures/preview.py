"""The pictures that a training draws of its samples."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from experiments.config.file import to_json
from experiments.config.tree import Config
from experiments.data.sources.plane import law_of
from experiments.pictures import files, rows
from experiments.runs.classes import class_names
from experiments.runs.model import Model
from experiments.runs.provenance import versions
from experiments.sampling.drawing import draw
from experiments.sampling.labels import choose_classes
from experiments.sampling.solver import build_own
from experiments.training.data import Facts
from experiments.training.model import network_of

_IMAGES = 64  # in the picture that the training loop writes
_POINTS = 2000


class GridWriter:
    """Called by the training loop: writes samples of the first average to OUTDIR/samples/, images or points."""

    def __init__(self, config: Config, facts: Facts, outdir: Path) -> None:
        """Raises UsageError when the run's own sampler cannot sample its process."""
        self.model = Model(config, facts, network_of(config, facts), None)
        self.solver = build_own(config)
        self.digest = hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode()).hexdigest()
        self.folder = outdir / "samples"

    def __call__(self, step: int, params: Any) -> UInt8[np.ndarray, "height width channels"]:
        """Draw and write the samples of one step; returns the picture."""
        start, seeds = time.perf_counter(), range(_POINTS if self.model.of_points else _IMAGES)
        model = dataclasses.replace(self.model, params=params)
        classes = choose_classes(model)
        labels = None if classes is None else classes.of(seeds)
        drawn = next(draw(model, self.solver, seeds, batch=len(seeds), label=labels))
        provenance = {
            **self.solver.provenance,
            "nfe": drawn.nfe,
            "seeds": f"0-{len(seeds) - 1}",
            "class": None if classes is None else classes.word,
            "parameters": model.parameters,
            "step": step,
            "config_sha256": self.digest,
            "seconds": round(time.perf_counter() - start, 2),
            **versions(),
        }
        path = self.folder / f"step-{step:07d}.png"
        if not model.of_points:
            names = [] if labels is None else class_names(model)
            picture = rows.sheet(drawn.images, labels, names)
            files.save_png(path, picture, {**provenance, **rows.facts(model, labels)})
            return picture
        from experiments.pictures.plane import model_picture

        picture = model_picture(model, law_of(model.config.data.source), drawn.images, density=False)
        files.save_png(path, picture.pixels, {**provenance, **picture.facts})
        return picture.pixels[..., :3]  # opaque
