"""What Orbax, asyncio and TensorStore print by themselves of a save or a load that fails: nothing.

A `CheckpointError` says it in a sentence. They print from threads of their own, at any time after the failure, so they
are silenced for good when the first checkpoint is written or read; all else that goes the same ways is left alone.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

_ORBAX = f"{os.sep}orbax{os.sep}"
_STATUS = re.compile(r"[A-Z]+(?:_[A-Z]+)*: ")
"""How TensorStore's errors begin that name nobody: DATA_LOSS: and its like."""


@functools.cache
def silence() -> None:
    """Let pass what others log and raise, and drop what belongs to checkpoints; the second call does nothing."""
    logging.getLogger("absl").addFilter(lambda record: _ORBAX not in record.pathname)
    logging.getLogger("asyncio").addFilter(_not_of_checkpoints)
    sys.unraisablehook = functools.partial(_hook, sys.unraisablehook)


def _not_of_checkpoints(record: logging.LogRecord) -> bool:
    error = str(record.exc_info[1]) if record.exc_info else ""
    said = record.getMessage() + error
    named = any(word in said for word in ("tensorstore", "orbax", "Event loop is closed"))
    return not (named or _STATUS.match(error))


def _hook(before: Callable[[Any], None], unraisable: Any) -> None:
    """TensorStore's threads call into a loop that Orbax has closed at the first of several errors."""
    closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
    if not (closed and _innermost(unraisable.exc_traceback) == "_check_closed"):
        before(unraisable)


def _innermost(trace: TracebackType | None) -> str:
    name = ""
    while trace is not None:
        name, trace = trace.tb_frame.f_code.co_name, trace.tb_next
    return name.rpartition(".")[2]
