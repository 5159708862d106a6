"""SIGTERM, SIGINT and SIGHUP as requests: finish the step, save, leave; and before the first step, leave at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from experiments.errors import end_process
from experiments.training import peers

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks to stop; SIGHUP, of a terminal that is closed, unless it is ignored, as `nohup` has it."""
NOTHING_SAVED = 7
"""The exit status of a training that a signal has ended before its first step."""


class Interruption:
    """Whether a signal has asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.begun = False

    def begin(self) -> None:
        """Say that a step is done: from now on there is something to save."""
        self.begun = True


_whole: Interruption | None = None
"""That of a command, while one runs."""


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Catch the first of `SIGNALS`; a second one acts as it would have without this.

    Enter it after `jax.distributed.initialize`, which puts a handler of its own in the place of Python's. Outside
    the main thread, where Python has no signals, it catches nothing. Within `leaving` it is that which is there.
    """
    request = _whole or Interruption()
    if _whole is not None or threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def catch(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        restore()

    for signum in SIGNALS:
        if signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN:
            continue
        before[signum] = signal.signal(signum, catch)
    try:
        yield request
    finally:
        restore()


@contextmanager
def leaving() -> Iterator[None]:
    """`interruption` for a whole command: until a step is done, a signal ends the process with a word and a status.

    It does so at once, also while a program is compiled, in which Python hears of no signal for minutes: there is
    nothing to save yet, and nothing that is half written takes the place of a file.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _whole
    with interruption() as request:

        def answer(signum: int) -> None:
            if not request.begun:
                line = f"stopped by {signal.Signals(signum).name} before the first step; there was nothing to save."
                peers.leave(NOTHING_SAVED, line)
                end_process(NOTHING_SAVED, line)

        _whole = request
        try:
            with hearing(answer):
                yield
        finally:
            _whole = None


@contextmanager
def hearing(answer: Callable[[int], None]) -> Iterator[None]:
    """Call `answer` with the number of each of `SIGNALS` that arrives, in a thread, whatever the main thread is at.

    Python writes the numbers of signals that it has a handler for. To be entered in the main thread.
    """
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)

    def listen() -> None:
        while heard := os.read(ear, 1):
            if heard[0] in SIGNALS:
                answer(heard[0])
        os.close(ear)

    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(mouth)
