"""Many small trials in a process of their own, which a trial may end or hang without an end to the others."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from benchmarks.reliability.rows import Row

_READY = 120
"""Seconds in which a process imports what it needs."""


def supervise(work: Callable[..., None], arguments: tuple[Any, ...], count: int, seconds: float, row: Row) -> None:
    """Judge `count` trials; a trial is given so many seconds.

    `work(*arguments, first, count, answers)` is done in a process and sends (which way it went, what is wrong with it)
    of each trial from `first` on to `answers`. After a trial that has ended the process, or takes too long, another
    process goes on with the next one.
    """
    context, done, slowest = multiprocessing.get_context("forkserver"), 0, 0.0
    while done < count:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(*arguments, done, count, theirs))
        process.start()
        theirs.close()
        ours.poll(_READY)
        lost = False
        while done < count and not lost:
            start = time.monotonic()
            try:
                lost = not ours.poll(seconds)
                way, wrong = ("", [f"took more than {seconds:g} s"]) if lost else ours.recv()
            except EOFError:
                process.join()
                lost, way, wrong = True, "", [f"ended the process with status {process.exitcode}"]
            slowest = max(slowest, time.monotonic() - start)
            row.judge(way, [f"{line} (trial {done})" for line in wrong])
            done += 1
        process.join(0 if lost else 60)
        process.kill()
        process.join()
    row.figure = f"slowest {slowest:.1f} s"
