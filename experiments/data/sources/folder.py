"""Pictures in a folder; its first-level sub-folders are the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.data.config import DataConfig
from experiments.data.decode import EXTENSIONS, decode_images
from experiments.data.labels import manifest_labels
from experiments.data.source import Source
from experiments.data.sources.paths import folder_at
from experiments.errors import DataError

MANIFEST = "dataset.json"
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


def read(where: str, config: DataConfig) -> Source:
    """Every picture below the folder, in the order of its path written with `/`.

    Pictures are recognised by their suffix, in either case; other files, hidden ones and hidden folders are skipped.
    The class of a picture is the first-level sub-folder in which it lies, however deep, numbered in the order of the
    names; pictures outside sub-folders have no classes. A `dataset.json` of the EDM layout replaces this rule.
    """
    folder = folder_at(where, "folder")
    names = sorted(_pictures(folder))
    if not names:
        raise DataError(f"{folder} holds no pictures; give a folder of {', '.join(sorted(EXTENSIONS))} files.")
    manifest = folder / MANIFEST
    if manifest.exists():
        labels, class_names = manifest_labels(manifest.read_bytes(), names, str(manifest)), ()
    else:
        labels, class_names = _folder_labels(folder, names)
    paths = [folder / name for name in names]
    images = decode_images(list(map(str, paths)), lambda i: paths[i].open("rb"), config, str(folder))
    return Source(name=where, images=images, labels=labels, class_names=class_names)


def is_picture(name: str) -> bool:
    """Whether a path written with `/` has the suffix of a picture and no hidden part."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and os.path.splitext(parts[-1])[1].lower() in EXTENSIONS


def _pictures(folder: Path) -> Iterator[str]:
    """Paths of pictures relative to `folder`; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(root).relative_to(folder)
        yield from filter(is_picture, ((relative / name).as_posix() for name in files))


def _refuse(error: OSError) -> None:
    raise error


def _folder_labels(folder: Path, names: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops))
    if classes == [""]:
        return None, ()
    if "" in classes:
        stray = names[tops.index("")]
        raise DataError(
            f"{folder / stray} lies beside sub-folders of pictures, which are classes; move it into one of them."
        )
    if {name.lower() for name in classes} <= _SPLITS:
        raise DataError(
            f"{folder} holds the splits {', '.join(classes)} and not classes; give one, folder:{folder / classes[0]}."
        )
    numbers = {name: i for i, name in enumerate(classes)}
    return np.array([numbers[top] for top in tops], np.int32), tuple(classes)
