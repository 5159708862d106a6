"""Compressed arrays beyond memory, for one who goes through them once: unpacked on the disk and read there."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from experiments.data.room import require_room
from experiments.errors import UsageError
from experiments.files import require_writable
from experiments.memory import shown
from experiments.progress import tracked

_BLOCK = 2**24
_folder: ContextVar[Path | None] = ContextVar("unpacking", default=None)


@contextlib.contextmanager
def unpacking(folder: Path) -> Iterator[None]:
    """Have compressed arrays that are too large for memory unpacked on the disk of a folder.

    Their files have no name, so that nothing of them is left when the process ends, however it does.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def unpacks() -> bool:
    """Whether an `unpacking` lasts."""
    return _folder.get() is not None


@contextlib.contextmanager
def unpacked(read: Callable[[int], bytes], size: int, name: str) -> Iterator[int]:
    """The descriptor of a file with all that `read` gives, `size` bytes if it is sound.

    Raises UsageError where the disk has not the room, and whatever `read` raises.
    """
    folder = _folder.get()
    assert folder is not None
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, size, f"to unpack {name}")
    with tempfile.TemporaryFile(dir=folder) as out:
        blocks = iter(lambda: read(_BLOCK), b"")
        for block in tracked(blocks, f"unpacking, in blocks of {shown(_BLOCK)}", -(-size // _BLOCK), compiles=False):
            try:
                out.write(block)
            except OSError as error:
                raise UsageError(f"{folder} cannot be written ({error.strerror}); give another --out.") from None
        out.flush()
        yield out.fileno()
