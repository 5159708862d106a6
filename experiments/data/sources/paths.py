"""Paths that a user gave, found or refused."""

from __future__ import annotations

from pathlib import Path

from experiments.errors import DataError


def folder_at(where: str, scheme: str) -> Path:
    """The folder `where`, `~` expanded; DataError when it is missing or a file."""
    path = _present(where, scheme)
    if not path.is_dir():
        remedy = f"zip:{where}" if path.suffix.lower() == ".zip" else f"npz:{where}"
        wanted = remedy if path.suffix.lower() in (".zip", ".npz") else "a folder"
        raise DataError(f"{path} is a file and {scheme}: takes a folder; give {wanted}.")
    return path


def file_at(where: str, scheme: str) -> Path:
    """The file `where`, `~` expanded; DataError when it is missing or a folder."""
    path = _present(where, scheme)
    if path.is_dir():
        raise DataError(f"{path} is a folder and {scheme}: takes a file; give the file, or folder:{where}.")
    return path


def _present(where: str, scheme: str) -> Path:
    path = Path(where).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; correct the path after {scheme}:, which starts from {Path.cwd()}.")
    return path
