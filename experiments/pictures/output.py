"""Samples on the disk, written as they are drawn: one picture, single PNGs or arrays.

Every file says which request it answers. The same request goes on where it stopped; a file of another one, or of
somebody else, is never overwritten.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from experiments import files as disk
from experiments import memory
from experiments.data.source import Events
from experiments.data.sources.plane import law_of
from experiments.errors import DataError, UsageError, reason
from experiments.names import counted
from experiments.pictures import files, rows
from experiments.pictures.named import Labels, Named, Paths
from experiments.pictures.request import Form, Request, require_apart, without_places
from experiments.pictures.shown import require_png, side_by_side
from experiments.runs.classes import class_names
from experiments.sampling.seeds import Seeds

REQUEST = "request_sha256"
"""The key under which a file's provenance holds the digest of its request."""
_AT_ONCE = 1024
"""Pictures whose provenance is read at a time."""


class Output:
    """The files of a request, written batch by batch within `with`; an error leaves no half of one."""

    key = REQUEST
    """The key under which their provenance holds the digest of the request."""

    def __init__(self, request: Request, folder: Path) -> None:
        """Raises UsageError when `folder` holds a file of that name which another request, or somebody else, wrote."""
        self._request, self._folder = request, folder
        self._provenance = {**request.provenance, self.key: request.digest}
        self.nfe: int | None = None
        """Network calls for each sample, once one is known."""
        self.there: Collection[int] = Seeds()
        """The seeds whose files are there already."""
        self.missing: list[int] = []
        """The processes for whose parts the file waits, of one that several write."""
        require_apart(request.model, folder)
        disk.require_writable(folder)
        disk.sweep(folder, self._names())  # also where nothing is left to write
        self._require_memory()
        self._look()

    def add(self, seeds: Sequence[int], events: Events, nfe: int) -> None:
        """Write a batch, or keep it for the file that holds all. Raises UsageError when the disk refuses."""
        self.nfe = nfe

    def finish(self, measured: Mapping[str, Any] = MappingProxyType({})) -> Sequence[Path]:
        """Write what holds all samples, which have been added in the order of the seeds; returns the files.

        `measured` is what the drawing of all has shown, for the provenance of a file that holds all.
        """
        raise NotImplementedError

    def told(self, count: int) -> str:
        """What a command that is stopped has written, after `count` files."""
        if self.there or count:
            return "the samples are written"
        keeping = "" if self._request.model.of_points else "; --format png keeps what is drawn"
        return f"nothing was written{keeping}"

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def look_again(self) -> None:
        """See whether another process has written meanwhile what was not there."""
        self._look()

    def _whole(self, measured: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._provenance, **measured, "nfe": self.nfe}

    def _names(self) -> Container[str]:
        """The names of the files."""
        raise NotImplementedError

    def _look(self) -> None:
        """See which files are there. Raises UsageError for one that does not answer the request."""
        raise NotImplementedError

    def _take(self, said: Mapping[str, Any] | None) -> None:
        """Take a file that holds all, of this provenance, for what would be drawn."""
        if said is not None:
            self.there, self.nfe = Seeds.of(self._request.seeds), said.get("nfe")

    def _bytes(self) -> float:
        """The memory that the samples take until they are written, all together."""
        return 0

    def _require_memory(self) -> None:
        kind = "point" if self._request.model.of_points else "image"
        what = f"--format {self._request.form} of {counted(len(self._request.seeds), kind)}"
        memory.require(self._bytes(), what, f"give fewer --seeds{', or --format png' * (kind == 'image')}")

    def _answers(self, path: Path) -> dict[str, Any] | None:
        """The provenance of the file at `path` if it answers the request, None if there is none.

        Raises UsageError for a file of another request, or of somebody else.
        """
        if not (path.is_symlink() or path.exists()):
            return None
        remedy = "give another --outdir, or move them away"
        try:
            said = _said(path)
        except DataError:
            what = f"{path.name}, which is not one of scorefield's own"
            raise UsageError(f"{self._folder} holds {what}; {remedy}; nothing was overwritten.") from None
        if said.get(self.key) == self._provenance[self.key]:
            return said
        here, there = self._request.determining, without_places(said)
        differing = next((name for name in here if here[name] != there.get(name)), None)
        if differing == "class":
            here, there = ({"class": said.get("class_name", said.get("class"))} for said in (here, there))
        why = f" ({differing} {there.get(differing)}, not {here[differing]})" if differing else ""
        raise UsageError(f"{self._folder} holds samples of another command{why}; {remedy}; nothing was overwritten.")


class Singles(Output):
    """A PNG for each seed."""

    kind = "sample"
    """What there is one of for each seed."""

    def __init__(self, request: Request, folder: Path) -> None:
        require_png(request.model.event_shape, request.model.bits)
        super().__init__(request, folder)

    def told(self, count: int) -> str:
        """What a command that is stopped has written, after `count` pictures."""
        every = len(self._request.seeds)
        return f"{min(len(self.there) + count, every)} of {counted(every, self.kind)} are written"

    def name(self, seed: int) -> str:
        """The name of the picture of a seed."""
        return files.single(seed)

    def seed_of(self, name: str) -> int | None:
        """The seed whose picture has this name; None where it is no such name."""
        return files.seed_of(name)

    def _names(self) -> Container[str]:
        return Named(self._request.seeds, self.seed_of)

    def _look(self) -> None:
        known = Seeds.of(self._seeds_in())
        nfe = None
        with ThreadPoolExecutor(16) as pool:  # a disk that is far away answers many at once
            for start in range(0, len(known), _AT_ONCE):
                part = known[start : start + _AT_ONCE]
                for said in pool.map(lambda seed: self._answers(self._folder / self.name(seed)), part):
                    nfe = (said or {}).get("nfe") if nfe is None else nfe
        self.there, self.nfe = known, nfe

    def add(
        self, seeds: Sequence[int], events: Events, nfe: int, facts: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Write those of a batch that are not there, with `facts` of each. Raises UsageError when the disk refuses."""
        super().add(seeds, events, nfe)
        missing = [row for row, seed in enumerate(seeds) if seed not in self.there]
        provenance = {name: value for name, value in self._provenance.items() if name != "seeds"} | {"nfe": nfe}
        new = [seeds[row] for row in missing]
        facts = self._request.facts(new) if facts is None else [facts[row] for row in missing]
        files.save_singles(self._folder, side_by_side(events[missing]), new, provenance, facts, self.name)

    def finish(self, measured: Mapping[str, Any] = MappingProxyType({})) -> Sequence[Path]:
        """The files, all of which are written already."""
        return Paths(self._folder, self._request.seeds, self.name)

    def _seeds_in(self) -> Iterator[int]:
        """The seeds of whose pictures something is in the folder. Raises UsageError when it cannot be read."""
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    seed = self.seed_of(entry.name)
                    if seed is not None and seed in self._request.seeds:
                        yield seed
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UsageError(f"{self._folder} cannot be read ({reason(error)}); choose another --outdir.") from None


class _Sheet(Output):
    """All images in one picture, or points beside their densities."""

    _all: np.ndarray | None = None
    _count = 0

    def _names(self) -> Container[str]:
        return {"samples.png"}

    def _look(self) -> None:
        self._take(self._answers(self._folder / "samples.png"))

    def _bytes(self) -> float:
        shape, count = self._request.model.event_shape, len(self._request.seeds)
        return count * (
            4 * shape[0] if len(shape) == 1 else self._request.model.bits // 4 * math.prod(shape)
        )  # and once more in the picture

    def add(self, seeds: Sequence[int], events: Events, nfe: int) -> None:
        super().add(seeds, events, nfe)
        if self._all is None:
            self._all = np.empty((len(self._request.seeds), *events.shape[1:]), events.dtype)
        self._all[self._count : self._count + len(events)] = events
        self._count += len(events)

    def finish(self, measured: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
        path, model, classes = self._folder / "samples.png", self._request.model, self._request.classes
        if self.there:
            return [path]
        labels = None if classes is None else classes.of(self._request.seeds)
        provenance = {**self._whole(measured), **rows.facts(model, labels)}
        assert self._all is not None  # there is a seed at least
        if model.of_points:
            from experiments.pictures.plane import model_picture

            picture = model_picture(model, law_of(model.config.data.source), self._all)
            files.save_png(path, picture.pixels, {**provenance, **picture.facts})
        else:
            names = [] if labels is None else class_names(model)
            files.save_png(path, rows.sheet(self._all, labels, names), provenance)
        return [path]


class _Archive(Output):
    """One array file, of which no more than a batch is in memory."""

    _writer: files.ArrayWriter | None = None

    def _names(self) -> Container[str]:
        return {"samples.npz", "samples.json"}

    def _look(self) -> None:
        # The archive's provenance is written first, so that a process that is killed between the two goes on.
        said = self._answers(self._folder / "samples.json")
        if said is None:
            self._answers(self._folder / "samples.npz")
        else:
            with contextlib.suppress(DataError):  # a file that is not whole is written anew
                self._take(files.read_provenance(self._folder / "samples.npz"))

    def add(self, seeds: Sequence[int], events: Events, nfe: int) -> None:
        super().add(seeds, events, nfe)
        if self._writer is None:
            asked, part = self._request, "points" if self._request.model.of_points else "images"
            arrays: dict[str, Sequence[int] | np.ndarray] = {"seeds": asked.seeds}
            if asked.classes is not None:
                names = np.asarray(class_names(asked.model))
                arrays |= {"labels": Labels(asked.classes, asked.seeds), "class_names": names}
            self._writer = files.ArrayWriter(self._folder / "samples.npz", part, len(asked.seeds), **arrays)
        self._writer.add(events)

    def finish(self, measured: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
        if self._writer is not None:
            self._writer.finish(self._whole(measured))
        return [self._folder / "samples.npz"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close(error)


_FORMS: dict[Form, type[Output]] = {"grid": _Sheet, "png": Singles, "npz": _Archive}


def output(request: Request, outdir: Path | None) -> Output:
    """The files of a request in `outdir`, or in the request's own folder.

    Raises UsageError when a file of somebody else, or of another request, would have to be overwritten.
    """
    return _FORMS[request.form](request, request.folder() if outdir is None else outdir)


def _said(path: Path) -> dict[str, Any]:
    """The provenance of a file, JSON or picture. Raises DataError where there is none, or the file is not whole."""
    if path.suffix == ".png":
        return files.read_provenance(path)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        said = json.loads(path.with_suffix(".json").read_bytes())
        if isinstance(said, dict) and path.suffix == ".json":
            return said
    raise DataError(f"{path} carries no readable provenance; give a file that scorefield wrote.")
