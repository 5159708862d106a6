"""What a tracker is, and how several of them are told what a training measures, none of which can stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from experiments.errors import UsageError, reason, warn

Picture = UInt8[np.ndarray, "height width channels"]
"""A picture, of one channel or three."""


class Tracker(Protocol):
    """Where the numbers and pictures of a training go. An object of the user's own needs these four methods alone.

    What it raises ends it, with a line on standard error, and not the training. A run that goes on tells a tracker of
    no step twice. One that drops by itself what it holds of later steps than the one that is gone on from says so by
    an attribute `rewinds` that is True, and is told of them again.
    """

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Begin, or go on: the configuration of the run, its data and the versions, as JSON values."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take in numbers by their names, after `step` updates. One step may come in several calls, none goes back."""
        ...

    def log_images(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Take in uint8 pictures (height, width, 1 or 3) by their names."""
        ...

    def finish(self) -> None:
        """End: the training has."""
        ...


class Trackers:
    """All trackers of a training; one that fails is left out from then on, as a line says."""

    def __init__(self, start: int, reached: int) -> None:
        """The training goes on from `start`, and the trackers may have been told of all steps up to `reached`."""
        self._start, self._reached = start, max(start, reached)
        self._living: list[tuple[str, Tracker, int]] = []

    def begin(self, name: str, make: Callable[[], Tracker], config: Mapping[str, Any]) -> None:
        """Add the tracker that is made. Raises UsageError where that says that it cannot be had."""
        try:
            tracker = make()
            tracker.log_config(config)
        except UsageError:
            raise
        except Exception as error:
            _warn(name, error)
            return
        self._living.append((name, tracker, self._start if getattr(tracker, "rewinds", False) else self._reached))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell each of them, unless it knows."""
        self._tell(lambda tracker: tracker.log(step, values), step)

    def log_images(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Tell each of them, unless it knows."""
        self._tell(lambda tracker: tracker.log_images(step, pictures), step)

    def finish(self) -> None:
        """End them all."""
        self._tell(lambda tracker: tracker.finish(), None)
        self._living = []

    def _tell(self, what: Callable[[Tracker], None], step: int | None) -> None:
        for name, tracker, after in list(self._living):
            if step is not None and step <= after:
                continue
            try:
                what(tracker)
            except Exception as error:
                self._living = [one for one in self._living if one[1] is not tracker]
                _warn(name, error)


def named(trackers: Iterable[Tracker]) -> list[tuple[str, Callable[[], Tracker]]]:
    """Trackers of the user's own as `begin` takes them. Raises UsageError for an object that is none."""
    for tracker in trackers:
        for method in ("log_config", "log", "log_images", "finish"):
            if isinstance(tracker, type) or not callable(getattr(tracker, method, None)):
                raise UsageError(f"trackers has {tracker!r}, which has no method {method}; see scorefield.Tracker.")
    return [(type(tracker).__name__, lambda tracker=tracker: tracker) for tracker in trackers]


def _warn(name: str, error: Exception) -> None:
    warn(f"{name} takes nothing more ({reason(error)}); the training goes on without it.")
