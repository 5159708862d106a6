"""What a run reports: a line of progress, `metrics.jsonl`, and whatever trackers are wanted."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from experiments.config.tree import Config
from experiments.tracking.choice import chosen
from experiments.tracking.json_lines import JsonLines, newest, series
from experiments.tracking.tracker import Tracker, Trackers, named

_EARLY = 2.0
"""Seconds of steps after which the speed is shown for the first time, whenever the first line is due."""


class StepRecord(NamedTuple):
    """The metrics of a step as Python numbers, in the order of `step.Metrics`."""

    loss: float
    grad_norm: float
    learning_rate: float
    finite: float


class Display(Protocol):
    """Where a person sees how the run goes."""

    every: float
    """Seconds between words on what takes long."""

    def progress(self, step: int, text: str) -> None:
        """Show the state of the run."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainDisplay:
    """One line for each message, on standard error: for files and pipes."""

    every = 30.0

    def progress(self, step: int, text: str) -> None:
        """Print the line."""
        self.say(text)

    def say(self, text: str) -> None:
        """Print the line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class RichDisplay:
    """A bar that stays on its line, for a terminal."""

    every = 0.5

    def __init__(self, start: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(BarColumn(24), TextColumn("{task.description}"), console=Console(stderr=True))
        self._task = self._bar.add_task("compiling", completed=start, total=total)
        self._bar.start()

    def progress(self, step: int, text: str) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, description=text)

    def say(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


class Silent:
    """A display that shows nothing, for the processes of a run that do not write."""

    every = math.inf

    def progress(self, step: int, text: str) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


def make_display(start: int, total: int, quiet: bool = False) -> Display:
    """The display that fits standard error."""
    if quiet:
        return Silent()
    return RichDisplay(start, total) if sys.stderr.isatty() else PlainDisplay()


class Recorder:
    """Collects the metrics of every step; every `log_every` steps they become a line.

    A line holds means since the last one. With `outdir` None no file is written, and `loss` is known all the same.
    """

    def __init__(
        self,
        config: Config,
        outdir: Path | None,
        start: int,
        quiet: bool = False,
        trackers: Iterable[Tracker] = (),
        told: Mapping[str, Any] | None = None,
    ) -> None:
        """Continue the files of `outdir` from step `start`: what they hold of later steps will be written again.

        The `trackers` that the configuration names, and these, are `told` of the run as they begin.
        """
        self._training, self._start = config.training, start
        self._records: list[StepRecord] = []
        self._busy, self._timed, self._measured = 0.0, 0, False
        self._last: float | None = None
        self.loss: float | None = None
        self.held_out_loss: float | None = None
        self.held_out_losses: list[tuple[int, float]] = []
        """(step, loss) of those that were measured before step `start`, on the process that writes."""
        self._lines, reached = None, 0
        if outdir is not None:
            self._lines = JsonLines(path := outdir / "metrics.jsonl", start)
            self.loss, self.held_out_loss = newest(path, "loss"), newest(path, "held_out_loss")
            self.held_out_losses = series(path, "held_out_loss") if start else []
            reached = self._lines.reached if start else 0  # what begins anew is new to its trackers, too
        self.trackers = Trackers(start, reached)
        if self._lines is not None and outdir is not None:
            with contextlib.ExitStack() as undo:
                undo.callback(self._lines.close)
                for name, make in (*chosen(config, outdir, start), *named(trackers)):
                    self.trackers.begin(name, make, told or {})
                undo.pop_all()
        self._display = make_display(start, config.training.steps, quiet or outdir is None)

    def record(self, step: int, record: StepRecord) -> None:
        """Take in the metrics of step `step`."""
        now = time.perf_counter()
        if self._last is not None:
            self._busy, self._timed = self._busy + now - self._last, self._timed + 1
        self._last = now
        self._records.append(record)
        if step % self._training.log_every == 0 or step == self._training.steps:
            self._line(step)
        elif not self._measured and self._timed > 1 and self._busy > _EARLY:
            self._show(step, record.loss)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Tell of a compilation while it lasts, with its seconds."""
        start, over, every = time.perf_counter(), threading.Event(), self._display.every

        def tell() -> None:
            while not over.wait(every):
                self._display.progress(self._start, f"compiling, {time.perf_counter() - start:.0f} s")

        thread = threading.Thread(target=tell, name="compiling", daemon=True)
        if math.isfinite(every):
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()

    def restart_clock(self) -> None:
        """Leave the time since the last step out of the images per second: it went into something else."""
        self._last = time.perf_counter()

    def write(self, step: int, **values: float) -> None:
        """Append {"step": step, ...} to metrics.jsonl, and tell the trackers."""
        if self._lines is not None:
            self._lines.log(step, values)
        self.trackers.log(step, values)

    def say(self, text: str) -> None:
        """Show a line."""
        self._display.say(text)

    def close(self) -> None:
        """Close the files and the display."""
        self._display.close()
        if self._lines is not None:
            self._lines.close()
        self.trackers.finish()

    def _line(self, step: int) -> None:
        count = len(self._records)
        loss, grad_norm = (
            sum(getattr(record, name) for record in self._records) / count for name in ("loss", "grad_norm")
        )
        learning_rate, rate = self._records[-1].learning_rate, self._steps_per_second * self._training.batch_size
        self.write(step, loss=loss, grad_norm=grad_norm, learning_rate=learning_rate, images_per_second=rate)
        self._show(step, loss)
        self.loss = loss
        self._records, self._busy, self._timed = [], 0.0, 0

    @property
    def _steps_per_second(self) -> float:
        return self._timed / self._busy if self._busy else 0.0

    def _show(self, step: int, loss: float) -> None:
        """Show where the training is, how fast it goes and when it ends."""
        steps_per_second = self._steps_per_second
        rate, left = steps_per_second * self._training.batch_size, self._training.steps - step
        self._measured = self._measured or self._timed > 0
        eta = _duration(left / steps_per_second) if steps_per_second else "?"
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        self._display.progress(
            step, f"step {step}/{self._training.steps}  loss {loss:.4g}  {speed} images/s  ETA {eta}"
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
