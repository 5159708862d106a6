"""What a run notes that was not trained here: the files of somebody else's that its parameters came from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import CheckpointError, UsageError, reason
from experiments.training.checkpoint import find_checkpoints

KEY = "imported"
"""The name of the record in checkpoint.json."""


@dataclass(frozen=True)
class Imported:
    """Where the parameters of an imported run came from."""

    scheme: str
    """How they were read, such as edm."""
    source: str
    """The file or folder, from the root."""
    sha256: Mapping[str, str]
    """Of each file that was read, by its name."""
    arrays: int
    """How many arrays were taken."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "sha256": dict(self.sha256)}

    @staticmethod
    def from_json(value: Any) -> Imported:
        """The inverse of `to_json`. Raises ValueError for what was never written."""
        names = {field.name for field in dataclasses.fields(Imported)}
        if not isinstance(value, Mapping) or set(value) != names or not isinstance(value["sha256"], Mapping):
            raise ValueError(f"{KEY} is no record of files")
        record = Imported(**value)
        texts = (record.scheme, record.source, *record.sha256, *record.sha256.values())
        if type(record.arrays) is not int or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{KEY} has fields of other types")
        return record


def imported_from(checkpoint: Path) -> Imported | None:
    """What a checkpoint notes of the files that it was made from; None where it was trained."""
    try:
        said = json.loads((checkpoint / "checkpoint.json").read_bytes()).get(KEY)
        return None if said is None else Imported.from_json(said)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint / 'checkpoint.json'} is damaged ({reason(error)}); restore it.") from None


def require_trained_here(outdir: Path) -> None:
    """Raise UsageError where a training is to go on with a run that was imported: there is none."""
    for checkpoint in find_checkpoints(outdir / "checkpoints"):
        if checkpoint.sound and imported_from(checkpoint.path) is not None:
            raise UsageError(
                f"{outdir} was imported, and holds no training to go on with; begin one with --init-from {outdir} and "
                "another --outdir."
            )
