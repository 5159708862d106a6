"""SIGTERM, SIGINT and SIGHUP to a command that does not train: it ends with a word on what was written, and 128 + n."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from experiments.errors import end_process
from experiments.training.interrupt import SIGNALS, hearing


def _nothing() -> str:
    return "nothing was written"


_written: Callable[[], str] = _nothing


def tell_written(words: Callable[[], str]) -> None:
    """Let the line of a stopped command end in `words()`, such as "128 of 1000 samples are written"."""
    global _written
    _written = words


@contextmanager
def stopping() -> Iterator[None]:
    """End the process at the first signal, at once and from another thread.

    An exception would be heard only after a compilation, which takes minutes, and be lost where JAX calls Python; what
    is half written takes the place of no file. A signal that is ignored stays so, such as SIGHUP under `nohup`. Outside
    the main thread this does nothing.
    """
    tell_written(_nothing)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def answer(signum: int) -> None:
        end_process(128 + signum, f"stopped by {signal.Signals(signum).name}; {_written()}.")

    before: dict[int, Any] = {}
    with hearing(answer):
        for signum in SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, lambda *_: None)  # without a handler none is heard
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
