"""Whether the disk has room for what is to be written of a data set."""

from __future__ import annotations

from pathlib import Path

from experiments.errors import UsageError
from experiments.files import free_on
from experiments.memory import shown


def require_room(folder: Path, size: int, purpose: str) -> None:
    """Raise UsageError where the disk of a folder tells that it has not `size` bytes left."""
    free = free_on(folder)
    if free is not None and free < size:
        raise UsageError(
            f"{folder} has {shown(free)} free, and {shown(size)} are needed {purpose}; make room, or give another "
            "--out."
        )
