"""How far a command is: one line that changes on a terminal, and a line now and then where there is none.

What takes long says so by `tracked`, or by `stage` where it cannot count; who runs it decides by `reporting` whether
it is shown. In Python nothing is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TextIO, TypeVar

T = TypeVar("T")

BATCHES = "samples, in batches"
"""What the drawing of samples is called."""
FIRST, EVERY, SELDOM = 2.0, 0.5, 30.0
"""Seconds before the first word, between words on a terminal, and between lines elsewhere."""
_WEIGHT = 0.2  # of the newest item in the smoothed time of one


class Reporter:
    """Tells of the innermost thing that is under way."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.started = clock()
        self.stages: list[Stage] = []
        self.said, self.width = self.started, 0
        self.writing = threading.Lock()

    def begin(self, what: str, total: int | None, compiles: bool = True) -> Stage:
        """Something begins, within what has begun already."""
        stage = Stage(what, total, self.clock, compiles)
        self.stages.append(stage)
        return stage

    def end(self, stage: Stage) -> None:
        """It is over."""
        self.stages.remove(stage)

    def tell(self) -> None:
        """Say what is under way, unless that was said just now."""
        stages, now = list(self.stages), self.clock()
        on_terminal = self.stream.isatty()
        if not stages or now - self.started < FIRST or now - self.said < (EVERY if on_terminal else SELDOM):
            return
        self.said, words = now, stages[-1].words()
        with self.writing:
            if on_terminal:
                self.stream.write(f"\r{words:<{self.width}}")
                self.width = len(words)
            else:
                self.stream.write(f"scorefield: {words}\n")
            self.stream.flush()

    def clear(self) -> None:
        """Wipe the line on a terminal."""
        with self.writing:
            if self.width:
                self.stream.write(f"\r{'':<{self.width}}\r")
                self.stream.flush()
                self.width = 0


class Stage:
    """One thing that takes long, of so many items if that is known."""

    def __init__(self, what: str, total: int | None, clock: Callable[[], float], compiles: bool = True) -> None:
        self.what, self.total, self.clock, self.compiles = what, total, clock, compiles
        self.done, self.begun = 0, clock()
        self.last, self.each = self.begun, 0.0

    def advance(self) -> None:
        """Another item is done. The first one's time is mostly compilation, and foretells nothing."""
        now = self.clock()
        if self.done:
            newest = now - self.last
            self.each = newest if self.done == 1 else (1 - _WEIGHT) * self.each + _WEIGHT * newest
        self.done, self.last = self.done + 1, now

    def words(self) -> str:
        """What is done of how much, and the seconds that are left or, while nothing is done, gone by."""
        gone = self.clock() - self.begun
        if self.total is None:
            return f"{self.what}, {gone:.0f} s"
        if self.done == 0:
            return f"{self.what}: the first of {self.total}{', with compilation' * self.compiles}, {gone:.0f} s"
        left = f", {duration(self.each * (self.total - self.done))} left" if self.each else ""
        return f"{self.what}: {self.done} of {self.total}{left}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min, 2 h 5 min, 12 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds > 4 * 86400:
        return f"{seconds / 86400:,.0f} days"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


_reporters: list[Reporter] = []
"""The reporter of the command that runs, if it wants one."""


def make_way() -> None:
    """Wipe the line of progress, if there is one, before another line is printed on the same terminal."""
    for reporter in _reporters:
        reporter.clear()


def tell(line: str) -> None:
    """Print a line on standard output while progress may be shown."""
    make_way()
    print(line, flush=True)


def tracked(items: Iterable[T], what: str, total: int | None = None, *, compiles: bool = True) -> Iterator[T]:
    """The items, each told of as done when the next is asked for; `total` is their number if they do not know it.

    The first of them takes longer where it `compiles` a program.
    """
    if not _reporters:
        yield from items
        return
    count = len(items) if total is None and isinstance(items, Sized) else total
    reporter = _reporters[-1]
    stage = reporter.begin(what, count, compiles)
    try:
        for item in items:
            yield item
            stage.advance()
    finally:
        reporter.end(stage)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Something that takes long and cannot be counted."""
    if not _reporters:
        yield
        return
    reporter = _reporters[-1]
    begun = reporter.begin(what, None)
    try:
        yield
    finally:
        reporter.end(begun)


@contextmanager
def reporting(quiet: bool = False, stream: TextIO | None = None) -> Iterator[None]:
    """Show what is under way on standard error, unless `quiet`, until the block ends."""
    if quiet:
        yield
        return
    reporter, over = Reporter(stream or sys.stderr), threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            reporter.tell()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    _reporters.append(reporter)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _reporters.remove(reporter)
        reporter.clear()
