"""Data sets of the Hugging Face `datasets` library, from its hub or from a folder on disk."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.arrays import paired
from experiments.data.config import DataConfig
from experiments.data.decode import decode_images
from experiments.data.labels import MAX_CLASSES, check_labels
from experiments.data.source import Source
from experiments.errors import DataError, reason


def read(where: str, config: DataConfig) -> Source:
    """The split `train` (or the only one) of a name on the hub, a folder of files, or one that `save_to_disk` wrote.

    The first image column holds the pictures, and the first class column, or else an integer `label`, the classes.
    A split `test`, or else `validation`, is held out, unless its labels are withheld (−1).
    """
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise DataError(f"hf:{where} needs the datasets library; install scorefield[hf].") from None
    splits = _load(library, where)
    part = next(iter(splits)) if len(splits) == 1 else "train"
    if part not in splits:
        raise DataError(f"hf:{where} has the splits {', '.join(splits)} and no train; save one with save_to_disk.")
    source, held_out = _read_split(library, splits[part], config, f"hf:{where}[{part}]"), None
    for name in ("test", "validation"):
        if name in splits and name != part and held_out is None and not _withheld(library, splits[name]):
            held_out = _read_split(library, splits[name], config, f"hf:{where}[{name}]")
    return paired(source, held_out)


def _load(library: Any, where: str) -> dict[str, Any]:
    """Name to split."""
    path = Path(where).expanduser()
    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    try:
        place = str(path) if path.exists() else where
        loaded = library.load_from_disk(place) if saved else library.load_dataset(place)
    except Exception as error:  # the library has no common base for what it raises
        raise DataError(
            f"hf:{where} cannot be loaded ({reason(error)}); correct the name, or fetch it where there is a network."
        ) from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _read_split(library: Any, split: Any, config: DataConfig, where: str) -> Source:
    columns = ", ".join(split.features)
    column = next((name for name, kind in split.features.items() if isinstance(kind, library.Image)), None)
    if column is None:
        raise DataError(f"{where} has the columns {columns} and none of images; cast one to datasets.Image first.")
    if not len(split):
        raise DataError(f"{where} has no rows; choose a data set with images.")
    label = _label_column(library, split)
    names = tuple(getattr(split.features[label], "names", None) or ()) if label else ()
    labels = None
    if label is not None:
        values = np.asarray(list(split[label]))
        labels = check_labels(values, len(split), f"{where}.{label}", len(names) or MAX_CLASSES)
    packed = split.select_columns([column]).cast_column(column, library.Image(decode=False))

    def open_file(i: int) -> io.BytesIO | io.BufferedReader:
        cell = packed[i][column]
        if cell is None:
            raise DataError(f"{where}[{i}] has no picture; filter such rows out first.")
        return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else open(cell["path"], "rb")

    decoded = decode_images([f"{where}[{i}]" for i in range(len(split))], open_file, config, where)
    return Source(name=where, images=decoded.images, labels=labels, class_names=names, notes=decoded.notes)


def _label_column(library: Any, split: Any) -> str | None:
    classes = [name for name, kind in split.features.items() if isinstance(kind, library.ClassLabel)]
    dtypes = {name: str(getattr(kind, "dtype", "")) for name, kind in split.features.items()}
    numbers = [name for name in ("label", "labels") if dtypes.get(name, "").startswith("int")]
    return next(iter(classes + numbers), None)


def _withheld(library: Any, split: Any) -> bool:
    """Whether the labels of a split are kept secret, which the hub marks by −1."""
    label = _label_column(library, split)
    return label is not None and any(value == -1 for value in split[label])
