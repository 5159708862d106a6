"""SIGTERM, SIGINT and SIGHUP to a command that does not train: it ends with a word on what was written, and 128 + n."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from experiments.errors import warn
from experiments.training.interrupt import SIGNALS

SECONDS = 1.0
"""How long a command may take to hear of a signal; in a compilation, Python hears of none for minutes."""


class Stopped(BaseException):
    """A signal has asked the command to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as a shell has it."""
        return 128 + self.signum


def _nothing() -> str:
    return "nothing was written"


_written: Callable[[], str] = _nothing


def tell_written(words: Callable[[], str]) -> None:
    """Let the line of a stopped command end in `words()`, such as "128 of 1,000 samples are written"."""
    global _written
    _written = words


def tell(stop: Stopped) -> int:
    """Print the line of a stopped command; returns its exit status."""
    warn(f"stopped by {signal.Signals(stop.signum).name}; {_written()}.")
    return stop.exit_status


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` at the first signal; end the process where nobody hears of it. A second acts as without this.

    A signal that is ignored stays so, such as SIGHUP under `nohup`. Outside the main thread it does nothing.
    """
    tell_written(_nothing)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def catch(signum: int, frame: FrameType | None) -> None:
        restore()
        raise Stopped(signum)

    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    over = threading.Event()
    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            before[signum] = signal.signal(signum, catch)
    wakeup = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=(ear, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(wakeup)
        restore()
        os.close(mouth)


def _insist(ear: int, over: threading.Event) -> None:
    """End the process a while after a signal, unless the command is over by then."""
    while heard := os.read(ear, 1):
        if heard[0] in SIGNALS and not over.wait(SECONDS):
            status = tell(Stopped(heard[0]))
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(status)
    os.close(ear)
