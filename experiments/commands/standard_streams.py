"""Standard input, output and error of a command's own process: there from the start, and error to the end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def hold() -> None:
    """Put nothing in the place of a stream that is closed, and let standard error outlast whoever reads it.

    Otherwise the next file that is opened, a checkpoint perhaps, has the number of the closed one, and what a library
    says there is written into it; and Python prints to standard output what is meant for a standard error that is not.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    sys.stderr = Unbroken(sys.stderr)


class Unbroken:
    """A stream that loses what nobody reads: a training goes on when the terminal, or `| head`, is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as far as somebody reads."""
        with self._lost():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as somebody reads."""
        with self._lost():
            self._stream.flush()

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a closed pipe, a terminal that is gone, a full disk
            to_nowhere(self._stream)


def to_nowhere(stream: Any) -> None:
    """What is left in a stream's buffer, and what comes, goes nowhere; Python would try again as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
