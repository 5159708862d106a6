"""Arrays on the disk whose file names carry their own SHA-256: STEM.<64 hex digits>.npz, and never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UsageError
from experiments.files import replacing, user_cache

Notice = Callable[[str], None]
"""A function that shows one line to the user."""


def default_folder() -> Path | None:
    """$XDG_CACHE_HOME/scorefield, or ~/.cache/scorefield, or what takes its place on macOS; None without a home."""
    return user_cache()


def save(folder: Path | None, stem: str, arrays: Mapping[str, Any], notice: Notice) -> None:
    """Write `arrays` whole or not at all; if the disk refuses, say so and go on, for nothing is lost but time."""
    if folder is None:
        return
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = folder / f"{stem}.{hashlib.sha256(buffer.getvalue()).hexdigest()}.npz"
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())
    except UsageError as error:
        notice(f"Not kept for the next time: {error}")


def load(folder: Path | None, stem: str, notice: Notice) -> dict[str, np.ndarray] | None:
    """What `save` wrote, or None; a file that does not match its digest is removed with a notice."""
    if folder is None:
        return None
    for path in sorted(folder.glob(f"{stem}.*.npz")):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if path.name == f"{stem}.{hashlib.sha256(content).hexdigest()}.npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return dict(file)
        notice(f"{path} does not match the SHA-256 in its name; it is removed and made anew.")
        with contextlib.suppress(OSError):
            path.unlink()
    return None
