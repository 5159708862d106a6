"""Scalars and pictures for TensorBoard, written at once.

`SummaryWriter` has a thread, which dies of a full disk and is waited for.

An event file is a row of records, of which none after a torn one is read; after an error there is a new file.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from experiments.errors import UsageError, reason, warn
from experiments.tracking.tracker import Picture


class Board:
    """The event files of a run."""

    rewinds = True
    """Of the files before no later step is shown than the one that is gone on from."""

    def __init__(self, folder: Path, start: int) -> None:
        """Continue after step `start`: what earlier files hold of later steps will be written again.

        Raises UsageError where tensorboardX is not installed.
        """
        try:
            self._files, self._events, self._summary = (
                importlib.import_module(f"tensorboardX.{name}")
                for name in ("event_file_writer", "proto.event_pb2", "summary")
            )
        except ImportError:
            raise UsageError("--track tensorboard needs tensorboardX; install scorefield[tensorboard].") from None
        folder.mkdir(exist_ok=True)
        self._folder, self._numbers = folder, itertools.count()
        self._writer: Any = None
        self._next = start + 1
        self._open(self._next)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration as a text, of this or the next step that has something."""
        text = "    " + json.dumps(config, indent=2).replace("\n", "\n    ")
        self._write(self._next, [lambda: self._summary.text("config", text)])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step, or say that they are missing: a full disk is no reason to lose the training."""
        self._write(step, [partial(self._summary.scalar, name, value) for name, value in values.items()])

    def log_images(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Write the pictures of a step, or say that they are missing."""
        made = partial(self._summary.image, dataformats="HWC")
        self._write(step, [partial(made, name, picture) for name, picture in pictures.items()])

    def finish(self) -> None:
        """Close the file."""
        self.close()

    def _write(self, step: int, summaries: Iterable[Callable[[], Any]]) -> None:
        try:
            if self._writer is None:
                self._open(step)
            for make in summaries:
                self._add(step=step, summary=make())
            cast(Any, self._writer).flush()
        except OSError as error:
            self.close()
            with contextlib.suppress(OSError):
                for path in self._folder.glob(f"events.*{self._suffix}"):
                    if not path.stat().st_size:
                        path.unlink()
            why = reason(error)
            warn(f"{self._folder.name}/ lacks its values of step {step} ({why}); the training goes on, so make room.")

    def close(self) -> None:
        """Close the file; what cannot be written is missing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()

    def _open(self, step: int) -> None:
        """Begin a file in which step `step` comes next: of the files before no later one is shown."""
        self._suffix = f".{next(self._numbers)}"
        self._writer = self._files.EventsWriter(str(self._folder / "events"), self._suffix)
        log = self._events.SessionLog(status=self._events.SessionLog.START)
        self._add(step=step, file_version="brain.Event:2")
        self._add(step=step, session_log=log)

    def _add(self, **fields: Any) -> None:
        self._writer.write_event(self._events.Event(wall_time=time.time(), **fields))
