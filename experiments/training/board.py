"""Scalars for TensorBoard, written at once: `SummaryWriter` has a thread, which dies of a full disk and is waited for.

An event file is a row of records, of which none after a torn one is read; after an error there is a new file.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from experiments.errors import UsageError, reason, warn


class Board:
    """The event files of a run."""

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
            raise UsageError("--training.tensorboard needs tensorboardX; install scorefield[tensorboard].") from None
        folder.mkdir(exist_ok=True)
        self._folder, self._numbers = folder, itertools.count()
        self._writer: Any = None
        self._open(start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step, or say that they are missing: a full disk is no reason to lose the training."""
        try:
            if self._writer is None:
                self._open(step)
            for name, value in values.items():
                self._add(step=step, summary=self._summary.scalar(name, value))
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
