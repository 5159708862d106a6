"""Folders taken away so that no half of one is ever mistaken for the whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove(path: Path) -> None:
    """Delete a folder, such as a checkpoint, so that no half of it ever has its name."""
    if path.exists():
        hidden = path.with_name(f".deleting-{path.name}")
        if hidden.is_symlink() or hidden.exists():
            delete(hidden)
        path.rename(hidden)
        delete(hidden)


def delete(path: Path) -> None:
    """Delete a folder, or a link or a file that has its name, and nothing that a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
