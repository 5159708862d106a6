"""SIGTERM and SIGINT as requests: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether a signal has asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signum: int | None = None


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Catch the first SIGTERM or SIGINT; a second one acts as it would have without this.

    Enter it after `jax.distributed.initialize`, which puts a handler of its own in the place of Python's. Outside
    the main thread, where Python has no signals, it catches nothing.
    """
    request = Interruption()
    if threading.current_thread() is not threading.main_thread():
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
        before[signum] = signal.signal(signum, catch)
    try:
        yield request
    finally:
        restore()
