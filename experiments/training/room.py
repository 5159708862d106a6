"""Whether the disk has room for checkpoints, asked before one is begun."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jax

from experiments.errors import CheckpointError, reason
from experiments.files import free_on
from experiments.memory import shown

_MARGIN, _FILES = 1.05, 2**17
"""What is asked for before a training, over the size of its arrays; and the bytes of the other files."""
_SURELY = 0.9
"""The part of its size that no checkpoint gets below by compression, but for the first ones."""


def size_of(tree: Any) -> int:
    """The bytes of the arrays in a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def require_room(directory: Path, size: int, count: int, besides: int = 0) -> None:
    """Raise CheckpointError unless there is room for `count` more checkpoints of `size` bytes, before any is written.

    `besides` are the bytes of what else will be written. Nothing is asked where the disk does not tell.
    """
    needed, free = count * (_MARGIN * size + _FILES) + _MARGIN * besides, free_on(directory)
    if free is not None and free < needed:
        and_more = f" and {shown(besides)} of snapshots" if besides else ""
        raise CheckpointError(
            f"{directory} has {shown(free)} free, and this run needs {shown(needed)} for {count} more "
            f"checkpoints of {shown(size)}{and_more}; make room, or give another --outdir."
        )


def lacking(directory: Path, size: int) -> str | None:
    """Why a checkpoint of `size` bytes cannot be written, None where it may be."""
    free = free_on(directory)
    if free is None or free >= _SURELY * size:
        return None
    return f"{os.strerror(28)}: {shown(free)} free, {shown(size)} needed"


def why(error: BaseException) -> str:
    """What a person needs of an error of Orbax's: what the operating system said, if it said anything."""
    said = re.search(r"os_error_code='(\d+)'", str(error))
    if said:
        return os.strerror(int(said[1]))
    first = (str(error).splitlines() or [""])[0]
    return reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {first}"
