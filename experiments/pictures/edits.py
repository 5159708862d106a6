"""Pictures of edits: the answers, a strip with what was given beside them, and the folder that holds all of an edit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from experiments import memory
from experiments.data.source import Events, Pixels
from experiments.errors import DataError, UsageError
from experiments.files import require_writable
from experiments.names import counted
from experiments.pictures import files
from experiments.pictures.films import read_gif_provenance
from experiments.pictures.output import Singles
from experiments.pictures.request import Request, require_apart, without_places
from experiments.pictures.shown import for_grid
from experiments.runs.model import Model
from experiments.sampling.seeds import Seeds

DIGEST = "edit_sha256"
"""The key under which a file's provenance holds the digest of what determines it."""
MEASURES = ("consistency_rms", "consistency_over_noise", "distance_rms")
"""What the provenance of an answer says of how well it fits, where that is known."""
_STRIP = "strip.png"


class Answers(Singles):
    """A PNG for each answer, as `Singles` writes them, and a strip of all.

    The answer to picture i with the seed s is told to them as n s + i, n being the number of pictures: so more seeds,
    which come behind, leave each in its place.
    """

    key = DIGEST
    kind = "answer"

    def __init__(
        self,
        model: Model,
        pictures: Sequence[Path],
        given: Sequence[Pixels],
        seeds: Seeds,
        provenance: Mapping[str, Any],
        outdir: Path | None,
    ) -> None:
        """`given` are as in `strip`; the folder is `outdir`, or one in the run.

        Raises UsageError where a file is there that answers to something else.
        """
        self._pictures, self._given, self._seeds = pictures, given, seeds
        self._stems = names_of(pictures)
        self._number = {stem: i for i, stem in enumerate(self._stems)}
        self.numbers = seeds.spread(len(pictures))
        """Those of all answers, in the order in which they are drawn."""
        self.told_of: list[dict[str, Any]] = []
        """What is known of each answer, picture by picture, when all are written."""
        request = Request(model, "png", self.numbers, provenance)
        super().__init__(request, outdir or home_of(model, "edits", provenance["edit"], request.digest))

    def parted(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(The picture, the seed) of each of these answers."""
        seeds, pictures = np.divmod(np.asarray(numbers, np.int64), len(self._pictures))
        return pictures, seeds

    def name(self, seed: int) -> str:
        """The name of an answer."""
        return f"{self._stems[seed % len(self._stems)]}-{files.single(seed // len(self._stems))}"

    def seed_of(self, name: str) -> int | None:
        """The answer of this name; None where it is no such name."""
        stem, _, rest = name.rpartition("-")
        picture, seed = self._number.get(stem), files.seed_of(rest)
        return None if picture is None or seed is None else seed * len(self._stems) + picture

    def add(
        self, seeds: Sequence[int], events: Events, nfe: int, facts: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Write the answers `seeds` that are not there, `facts` holding the `MEASURES` of each."""
        own = [
            {"image": str(self._pictures[picture]), "seed": seed, **({} if facts is None else facts[row])}
            for row, (picture, seed) in enumerate(zip(*map(np.ndarray.tolist, self.parted(seeds)), strict=True))
        ]
        super().add(seeds, events, nfe, own)

    def finish(self, measured: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
        """Make the strip of all answers, read back; returns the files, picture by picture, and the strip's.

        Raises DataError for an answer that is not there any more.
        """
        n = len(self._pictures)
        order = [(i, seed) for i in range(n) for seed in self._seeds]
        paths = [self._folder / self.name(seed * n + i) for i, seed in order]
        with ThreadPoolExecutor(16) as pool:
            kept = list(pool.map(files.read_png, paths))
        self.told_of = [
            {"image": str(self._pictures[i]), "seed": seed, "file": str(path)}
            | {name: said[name] for name in MEASURES if name in said}
            for (i, seed), path, (_, said) in zip(order, paths, kept, strict=True)
        ]
        picture = strip(self._given, np.stack([pixels for pixels, _ in kept]), len(self._seeds))
        named = [{**told, "file": Path(told["file"]).name} for told in self.told_of]
        files.save_png(self._folder / _STRIP, picture, {**self._whole(measured), "answers": named})
        return [*paths, self._folder / _STRIP]

    def _look(self) -> None:
        super()._look()
        self._answers(self._folder / _STRIP)
        self._require_alone()

    def _require_alone(self) -> None:
        """Raise UsageError for a folder with answers of another command, or with the pictures that are edited."""
        if any(picture.resolve().parent == self._folder.resolve() for picture in self._pictures):
            raise UsageError(f"--outdir {self._folder} holds the pictures that are edited; give another.")
        for path in sorted(self._folder.glob("*.png")):
            if self.seed_of(path.name) not in self.numbers:
                with contextlib.suppress(DataError):
                    other = files.read_provenance(path).get(DIGEST)
                    if other not in (None, self._request.digest):
                        raise UsageError(
                            f"{path} is an answer to another command; give another --outdir, or move it away; nothing "
                            "was written."
                        )

    def _answers(self, path: Path) -> dict[str, Any] | None:
        return _said(path, self._request.digest)

    def _require_memory(self) -> None:
        count = len(self.numbers)
        size = 2 * count * math.prod(self._request.model.event_shape)  # once more in the picture
        memory.require(size, f"the strip of {counted(count, 'answer')}", "give fewer --seeds")


def strip(given: Sequence[Pixels], answers: Pixels, each: int) -> UInt8[np.ndarray, "rows cols channels"]:
    """A row for each picture: what was given of it, one tile of each of `given` (n, ...), and its `each` answers."""
    n = len(answers) // each
    rows = [np.stack([*(tiles[i] for tiles in given), *answers[i * each : (i + 1) * each]]) for i in range(n)]
    return files.contact_sheet(for_grid(np.concatenate(rows)), columns=len(given) + each)


def names_of(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture: that of its file, with its number where two would have one."""
    stems = [picture.stem for picture in pictures]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    names = [f"{stem}-{i}" if stem in twice else stem for i, stem in enumerate(stems)]
    return names if len({*names}) == len(names) else [f"{stem}-{i}" for i, stem in enumerate(stems)]


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
    paths = [folder / name for name in names]
    for path in paths:
        _said(path, digest)
    return paths


def _said(path: Path, digest: str) -> dict[str, Any] | None:
    """The provenance of a file with this digest, None where none is there. Raises UsageError for any other file."""
    if not (path.is_symlink() or path.exists()):
        return None
    try:
        said = read_gif_provenance(path) if path.suffix == ".gif" else files.read_provenance(path)
        if said.get(DIGEST) == digest:
            return said
    except DataError:
        pass
    raise UsageError(
        f"{path} is there, and of another command or of somebody else; give another --outdir, or move it away; "
        "nothing was overwritten."
    )
