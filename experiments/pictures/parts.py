"""A file of samples that several processes draw: each writes its part, and the last that ends puts all together.

    samples.part-2-of-4.npz     those of process 1, counted from 0, and a .json beside it that says which they are

They meet in the folder alone. Which of them is the last is seen by the parts that are there, under a lock on the first
of them, which ends with its process. The parts go when the whole is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from experiments.data.source import Events
from experiments.errors import DataError, UsageError
from experiments.pictures import files
from experiments.pictures.output import Output, output
from experiments.pictures.request import Request
from experiments.sampling.share import Share

_AT_ONCE = 64
"""Samples of a part that are read at a time."""


class Part(Output):
    """The part of one process, and at the end perhaps the whole."""

    _writer: files.ArrayWriter | None = None

    def __init__(self, request: Request, folder: Path, share: Share, places: Sequence[range], whole: Output) -> None:
        """`places` are those of the seeds of every process among the request's, and `whole` is the file of all.

        Raises UsageError as `Output` does.
        """
        self._share, self._places, self._of_all = share, places, whole
        super().__init__(request, folder)

    @property
    def _mine(self) -> range:
        return self._places[self._share.index]

    def told(self, count: int) -> str:
        """What a command that is stopped has written, after `count` files."""
        kept = bool(self.there) or count > 0
        return f"the part of process {self._share.index} is {'written' if kept else 'not written'}"

    def _path(self, index: int) -> Path:
        return self._folder / f"samples.part-{index + 1}-of-{self._share.count}.npz"

    def _names(self) -> set[str]:
        path = self._path(self._share.index)
        return {path.name, path.with_suffix(".json").name}

    def _look(self) -> None:
        self._look_at_others()
        said = self._said(self._share.index)
        if said is not None and self._differ(self._share.index, said):
            said = None  # it was drawn by another --batch
        if self._of_all.there or said is not None:
            self.there = self._request.seeds[self._mine.start : self._mine.stop]
            self.nfe = self._of_all.nfe if said is None else said.get("nfe")

    def _look_at_others(self) -> None:
        """Raise UsageError, before anything is drawn, for a part that cannot be put together with this one."""
        for index in range(self._share.count):
            said = self._answers(self._path(index).with_suffix(".json"))
            if said is not None and index != self._share.index:
                self._require_places(index, said)

    def _said(self, index: int) -> dict[str, Any] | None:
        """The provenance of a part, None where it is not there or not whole. Raises UsageError for another's file."""
        path = self._path(index)
        if self._answers(path.with_suffix(".json")) is None:
            self._answers(path)
            return None
        with contextlib.suppress(DataError):
            return files.read_provenance(path)
        return None

    def add(self, seeds: Sequence[int], events: Events, nfe: int) -> None:
        """Write a batch of the part. Raises UsageError when the disk refuses."""
        super().add(seeds, events, nfe)
        if self._writer is None:
            mine = self._request.seeds[self._mine.start : self._mine.stop]
            self._writer = files.ArrayWriter(self._path(self._share.index), self._array, len(mine), seeds=mine)
        self._writer.add(events)

    @property
    def _array(self) -> str:
        return "points" if self._request.model.of_points else "images"

    def finish(self, measured: Mapping[str, Any] = MappingProxyType({})) -> Sequence[Path]:
        """Write the part, and the whole where all parts are there; returns the file of the whole if it is."""
        if self._writer is not None:
            self._writer.finish({**self._whole(measured), **self._facts(self._share.index)})
        with _alone(self._path(0)):
            return self._put_together()

    def _put_together(self) -> Sequence[Path]:
        """Write the whole, unless a part is missing or another process has written it meanwhile."""
        whole = self._of_all
        whole.look_again()
        if whole.there:
            return whole.finish()
        parts = {index: self._said(index) for index, places in enumerate(self._places) if places}
        self.missing = [index for index, said in parts.items() if said is None]
        if self.missing:
            return []
        with whole:
            for index, said in parts.items():
                self._require_places(index, said or {})
                place = self._places[index].start
                for events in files.read_rows(self._path(index), self._array, _AT_ONCE):
                    whole.add(self._request.seeds[place : place + len(events)], events, (said or {})["nfe"])
                    place += len(events)
            paths = whole.finish()
        for index in parts:
            for path in (self._path(index), self._path(index).with_suffix(".json")):
                with contextlib.suppress(OSError):
                    path.unlink()
        return paths

    def _facts(self, index: int) -> dict[str, Any]:
        """Which part it is of a process."""
        first, count = self._places[index].start, len(self._places[index])
        return {"process": index, "processes": self._share.count, "first_place": first, "samples": count}

    def _differ(self, index: int, said: Mapping[str, Any]) -> bool:
        """Whether a part is not of the samples that this process takes for those of process `index`."""
        return any(said.get(name) != value for name, value in self._facts(index).items())

    def _require_places(self, index: int, said: Mapping[str, Any]) -> None:
        """Raise UsageError where they differ."""
        if self._differ(index, said):
            facts = self._facts(index)
            raise UsageError(
                f"{self._path(index)} has {said.get('samples')} samples from place {said.get('first_place')} on, and "
                f"not {facts['samples']} from {facts['first_place']}; remove it, and give every process the same "
                "--batch."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close(error)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock on a file, which is not made; without it where there is none, or the disk knows no locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def shared_output(request: Request, outdir: Path | None, share: Share, batch: int) -> Output:
    """What `share`'s process writes of a request that is drawn in batches of `batch`, as `output` does for one alone.

    Single pictures are files of their own seeds; of one file there is a `Part`. Raises UsageError as `output` does.
    """
    if share.count == 1:
        return output(request, outdir)
    outdir = request.folder() if outdir is None else outdir
    places = [Share(index, share.count).places(len(request.seeds), batch) for index in range(share.count)]
    mine = places[share.index]
    if request.form == "png":
        return output(dataclasses.replace(request, seeds=request.seeds[mine.start : mine.stop]), outdir)
    return Part(request, outdir, share, places, output(request, outdir))
