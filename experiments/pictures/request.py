"""What is asked of `scorefield sample`, and what determines the files that answer it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusion.pytree import short_repr
from experiments.data.place import data_folder
from experiments.errors import UsageError
from experiments.runs.classes import class_name
from experiments.runs.model import Model
from experiments.sampling.labels import Classes

Form = Literal["grid", "png", "npz"]
_PLACES = ("checkpoint",)
"""What does not change a sample: where a checkpoint lies, which its SHA-256 names."""


@dataclass(frozen=True)
class Request:
    """What is asked for, before anything is drawn."""

    model: Model
    form: Form
    seeds: Sequence[int]
    provenance: Mapping[str, Any]
    """All that determines the samples, as JSON values, `seeds` as they were typed among it."""
    classes: Classes | None = None
    """Those of the seeds, None for no class."""

    __repr__ = short_repr

    def facts(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """What the samples of these seeds have in their provenance each by itself: the class."""
        if self.classes is None:
            return [{} for _ in seeds]
        numbers = self.classes.of(seeds).tolist()
        return [{"label": number, "class_name": class_name(self.model, number)} for number in numbers]

    @property
    def determining(self) -> dict[str, Any]:
        """What a file must share to answer this request; single pictures may be of any list of seeds."""
        asked = without_places(json.loads(json.dumps(self.provenance)))
        return {name: value for name, value in asked.items() if name != "seeds" or self.form != "png"}

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the files."""
        return hashlib.sha256(json.dumps(self.determining, sort_keys=True).encode()).hexdigest()

    def folder(self) -> Path:
        """The folder for the files unless another is asked for: in the run, named from what determines them.

        A checkpoint that was copied out of its run stays as it is: there it is a folder in ./samples.
        """
        said, path = self.provenance, self.model.path
        words = [f"step-{said['checkpoint_step']:07d}", said["sampler"], said.get("steps")]
        told = {**said, "class": said.get("class_name", said.get("class"))}
        words += [f"{name}-{_said_short(told[name])}" for name in ("class", "guidance") if told.get(name) is not None]
        name = "-".join([re.sub(r"[^\w.]+", "-", str(word))[:40] for word in words] + [self.digest[:8]])
        home = path.parent.parent if path is not None and path.parent.name == "checkpoints" else Path()
        return home / "samples" / name


def require_apart(model: Model, folder: Path) -> None:
    """Raise UsageError for a folder among the run's own data, where pictures would be taken for them."""
    of = data_folder(model.data or model.config.data.source, None if model.data else model.facts.place)
    if of is not None and folder.resolve().is_relative_to(of.resolve()):
        raise UsageError(f"--outdir {folder} is in {of}, among the data of the run; give another.")


def _said_short(value: Any) -> str:
    """A value in the name of a folder."""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def without_places(said: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without what does not change a sample."""
    parts = {name: without_places(value) if isinstance(value, dict) else value for name, value in said.items()}
    return {name: value for name, value in parts.items() if name not in _PLACES}
