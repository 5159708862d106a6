"""SIGTERM, SIGINT and SIGHUP to a command that does not train: it ends with a word on what was written, and 128 + n."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from experiments.errors import warn
from experiments.training.interrupt import SIGNALS


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
    before: dict[int, Any] = {}
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            before[signum] = signal.signal(signum, lambda *_: None)  # whose number is written to the pipe
    wakeup = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(ear,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        os.close(mouth)


def _listen(ear: int) -> None:
    while heard := os.read(ear, 1):
        if heard[0] in SIGNALS:
            with suppress(OSError, ValueError):
                warn(f"stopped by {signal.Signals(heard[0]).name}; {_written()}.")
                sys.stdout.flush()
            os._exit(128 + heard[0])
    os.close(ear)
