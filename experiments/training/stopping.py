"""SIGTERM, SIGINT and SIGHUP to a command that does not train: it ends with a word on what was written, and 128 + n."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from experiments import files
from experiments.errors import end_process
from experiments.names import counted
from experiments.training.interrupt import SIGNALS, hearing

Words = Callable[[int], str]
"""What to say of so many files that a command has written."""


def _said(count: int) -> str:
    return f"{counted(count, 'file')} {'was' if count == 1 else 'were'} written" if count else "nothing was written"


_words: Words = _said


def tell_written(words: Words) -> None:
    """Let the line of a stopped command end in `words(n)` after n files, such as "128 of 1000 samples are written"."""
    global _words
    _words = words


@contextmanager
def stopping() -> Iterator[None]:
    """End the process at the first signal, at once and from another thread.

    An exception would be heard only after a compilation, which takes minutes, and be lost where JAX calls Python; what
    is half written takes the place of no file, and is removed. A signal that is ignored stays so, such as SIGHUP under
    `nohup`. Outside the main thread this does nothing.
    """
    tell_written(_said)
    begun = files.written()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def answer(signum: int) -> None:
        files.abandon()
        end_process(128 + signum, f"stopped by {signal.Signals(signum).name}; {_words(files.written() - begun)}.")

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
