"""Pictures of edits: a strip with what was given beside the answers, and the folder that holds all of an edit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from experiments.data.source import Pixels
from experiments.files import require_own, require_writable
from experiments.pictures.files import contact_sheet, read_provenance
from experiments.pictures.films import read_gif_provenance
from experiments.pictures.request import require_apart, without_places
from experiments.pictures.shown import for_grid
from experiments.runs.model import Model

DIGEST = "edit_sha256"
"""The key under which a file's provenance holds the digest of what determines it."""


def strip(given: Sequence[Pixels], answers: Pixels, each: int) -> UInt8[np.ndarray, "rows cols channels"]:
    """A row for each picture: what was given of it, one tile of each of `given` (n, ...), and its `each` answers."""
    n = len(answers) // each
    rows = [np.stack([*(tiles[i] for tiles in given), *answers[i * each : (i + 1) * each]]) for i in range(n)]
    return contact_sheet(for_grid(np.concatenate(rows)), columns=len(given) + each)


def names_of(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture: that of its file, with its number where two files have one."""
    stems = [picture.stem for picture in pictures]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    return [f"{stem}-{i}" if stem in twice else stem for i, stem in enumerate(stems)]


def digest_of(provenance: Mapping[str, Any]) -> str:
    """SHA-256 of what determines the files."""
    asked = without_places(json.loads(json.dumps(dict(provenance))))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def home_of(model: Model, kind: str, word: str, digest: str) -> Path:
    """The folder of files of one kind in the run; in the current folder for a checkpoint that has left its run."""
    path = model.path
    place = path.parent.parent if path is not None and path.parent.name == "checkpoints" else Path()
    return place / kind / f"step-{model.step or 0:07d}-{word}-{digest[:8]}"


def claim(model: Model, folder: Path, names: Sequence[str], digest: str) -> list[Path]:
    """The files of these names in a folder that may be written.

    Raises UsageError for a folder among the run's data, and where a file is there that answers to something else.
    """
    require_apart(model, folder)
    require_writable(folder)

    def own(path: Path) -> bool:
        said = read_gif_provenance(path) if path.suffix == ".gif" else read_provenance(path)
        return said.get(DIGEST) == digest

    for name in names:
        require_own(folder / name, own, "--outdir")
    return [folder / name for name in names]
