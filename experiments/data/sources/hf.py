"""Data sets of the Hugging Face `datasets` library, from its hub, from a folder or from a file on the disk."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from experiments.data.arrays import paired
from experiments.data.cells import CellFiles
from experiments.data.config import DataConfig
from experiments.data.formats import endings
from experiments.data.labels import MAX_CLASSES, check_labels
from experiments.data.pictures import decode_images
from experiments.data.source import Source
from experiments.data.sources.layout import is_picture, natural, splits_beside_classes
from experiments.errors import DataError, did_you_mean, reason
from experiments.names import listed

_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
"""The splits of a folder of pictures, by the folders that hold them."""
_TABLES = {".parquet", ".arrow", ".csv", ".json", ".jsonl", ".tar", ".zip", ".txt"}


def read(where: str, config: DataConfig) -> Source:
    """The split `train` (or the only one) of a name on the hub, a folder of files, or one that `save_to_disk` wrote.

    The first image column holds the pictures. `config.label_column` holds the classes, texts sorted as `layout` sorts
    folders; without it the first class column does, or else an integer `label`.
    A split `test`, or else `validation`, is held out, unless its labels are withheld (−1).
    """
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise DataError(f"hf:{where} needs the datasets library; install scorefield[hf].") from None
    with _without_retries():
        splits = _load(library, where, config.rules)
    part = next(iter(splits)) if len(splits) == 1 else "train"
    if part not in splits:
        raise DataError(f"hf:{where} has the splits {', '.join(splits)} and no train; save one with save_to_disk.")
    label = _label_column(library, splits[part], config, f"hf:{where}[{part}]")
    held_out = next((s for s in ("test", "validation") if s in splits and s != part and _has(splits[s], label)), None)
    parts = [part] if held_out is None else [part, held_out]
    texts = _texts(splits, parts, label, where)
    sources = [_read_split(library, splits[one], config, f"hf:{where}[{one}]", label, texts) for one in parts]
    return paired(sources[0], sources[1] if len(sources) > 1 else None)


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    """Silence what the hub's client says of each attempt to reach it; what it raises in the end is told."""
    client = logging.getLogger("huggingface_hub")
    before = client.level
    client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        client.setLevel(before)


def _load(library: Any, where: str, rules: int) -> dict[str, Any]:
    """Name to split."""
    path = Path(where).expanduser()
    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            loaded = library.load_from_disk(str(path))
        elif path.suffix.lower() == ".parquet" and path.is_file():
            loaded = library.load_dataset("parquet", data_files={"train": str(path)})
        elif rules > 1 and path.is_dir() and (patterns := _picture_splits(path)):
            loaded = library.load_dataset("imagefolder", data_dir=str(path), data_files=patterns)
        else:
            loaded = library.load_dataset(str(path) if path.exists() else where)
    except DataError:
        raise
    except Exception as error:  # the library has no common base for what it raises
        raise DataError(
            f"hf:{where} cannot be loaded ({reason(error)}); correct the name, or fetch it where there is a network."
        ) from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _picture_splits(folder: Path) -> dict[str, list[str]] | None:
    """Patterns of the splits in a folder of pictures, None where it mostly holds others, or says its splits itself.

    Only folders at its top are splits, and only if all are: the library would look for `train` within every name.
    Raises DataError for splits beside other folders.
    """
    known, tops, pictures, tables, card = endings(1), set(), 0, 0, folder / "README.md"
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = sum(is_picture(name, known) for name in files)
        pictures, tables = pictures + here, tables + sum(Path(name).suffix.lower() in _TABLES for name in files)
        if here:
            tops.add(Path(root).relative_to(folder).parts[:1])
    names = sorted(top[0] for top in tops if top)
    if pictures <= tables or (card.is_file() and "data_files" in card.read_text(errors="replace")):
        return None
    if () in tops or not {name.lower() for name in names} <= _SPLIT_OF.keys():
        if splits := splits_beside_classes(names):
            raise DataError(f"{folder} holds the splits {', '.join(splits)} beside other folders; move those away.")
        return {"train": ["**"]}
    patterns: dict[str, list[str]] = {}
    for name in names:
        patterns.setdefault(_SPLIT_OF[name.lower()], []).append(f"{name}/**")
    return patterns


def _read_split(
    library: Any, split: Any, config: DataConfig, where: str, label: str | None, texts: Sequence[str]
) -> Source:
    columns = ", ".join(split.features)
    column = next((name for name, kind in split.features.items() if isinstance(kind, library.Image)), None)
    if column is None:
        raise DataError(f"{where} has the columns {columns} and none of images; cast one to datasets.Image first.")
    if not len(split):
        raise DataError(f"{where} has no rows; choose a data set with images.")
    labels, names = _labels(split, where, label, texts)
    packed = split.select_columns([column]).cast_column(column, library.Image(decode=False))

    images, notes, kept, bad = decode_images(CellFiles(packed, column, where), config, where)
    labels = labels if labels is None or kept is None else labels[kept]
    others = [f"{name} ({_dtype(split, name) or 'other'})" for name in split.features if name != column]
    remedy = f": its columns are {listed(others)}; choose one by --data.label-column"
    hint = remedy if others else ", and no other column than its images"
    return Source(name=where, images=images, labels=labels, class_names=names, notes=notes, bad=bad, hint=hint)


def _labels(
    split: Any, where: str, label: str | None, texts: Sequence[str]
) -> tuple[Int32[np.ndarray, "n"] | None, tuple[str, ...]]:
    """(Class of each row, names of the classes, if they have any.)"""
    if label is None or label not in split.features:
        return None, ()
    if texts:
        numbers = {text: i for i, text in enumerate(texts)}
        return np.array([numbers[text] for text in split[label]], np.int32), tuple(texts)
    names = tuple(getattr(split.features[label], "names", None) or ())
    values = np.asarray(list(split[label]))
    return check_labels(values, len(split), f"{where}.{label}", len(names) or MAX_CLASSES), names


def _texts(splits: dict[str, Any], parts: list[str], label: str | None, where: str) -> list[str]:
    """The classes of a column of texts, over all `parts`; of another column none."""
    if label is None or not _dtype(splits[parts[0]], label).endswith("string"):
        return []
    found: set[str] = set()
    for part in parts:
        values = set(splits[part][label]) if label in splits[part].features else set()
        if None in values:
            raise DataError(f"hf:{where}[{part}].{label} has rows without a text; filter them out first.")
        found |= values
    if len(found) > MAX_CLASSES:
        raise DataError(f"hf:{where}.{label} has {len(found):,} different texts; choose a column of classes.")
    return sorted(found, key=lambda text: (natural(text), text))


def _label_column(library: Any, split: Any, config: DataConfig, where: str) -> str | None:
    wanted = config.label_column
    if wanted is not None:
        usable = [name for name, kind in split.features.items() if not isinstance(kind, library.Image)]
        if wanted not in usable:
            raise DataError(
                f"{where} has no column {wanted} for --data.label-column{did_you_mean(wanted, usable)}; choose among "
                f"{listed(usable) or 'others: it has none but images'}."
            )
        return wanted
    classes = [name for name, kind in split.features.items() if isinstance(kind, library.ClassLabel)]
    numbers = [name for name in ("label", "labels") if _dtype(split, name).startswith("int")]
    return next(iter(classes + numbers), None)


def _dtype(split: Any, name: str) -> str:
    return str(getattr(split.features.get(name), "dtype", ""))


def _has(split: Any, label: str | None) -> bool:
    """Whether the labels of a split are not withheld, which the hub marks by −1."""
    return label is None or label not in split.features or not any(value == -1 for value in split[label])
