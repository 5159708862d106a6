"""Pictures in a folder; its sub-folders are the classes, as `layout` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from experiments.data.config import DataConfig
from experiments.data.files import FolderFiles
from experiments.data.pictures import decode_images
from experiments.data.source import Source
from experiments.data.sources.layout import lay_out
from experiments.data.sources.paths import folder_at


def read(where: str, config: DataConfig) -> Source:
    """Every picture below the folder, in the order of its path written with `/`.

    Pictures are recognised by their suffix, in either case; other files, hidden ones and hidden folders are skipped.
    """
    folder = folder_at(where, "folder")
    skip = config.on_bad == "skip"
    found = lay_out(
        _files(folder),
        str(folder),
        lambda name: (folder / name).read_bytes(),
        kind="folder",
        rules=config.rules,
        skip=skip,
    )
    return found.source(where, decode_images(FolderFiles(str(folder), found.names), config, str(folder)))


def _files(folder: Path) -> Iterator[str]:
    """Paths of files relative to `folder`; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(root, folder)
        yield from files if below == os.curdir else (f"{below}/{name}" for name in files)


def _refuse(error: OSError) -> None:
    raise error
