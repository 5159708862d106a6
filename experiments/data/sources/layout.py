"""Which files are pictures and what their folders say of classes: one rule for a folder and for a zip.

Sub-folders are classes, however deep their pictures lie; numbers in their names sort as numbers. A `dataset.json` of
the EDM layout replaces them. A folder that wraps everything is passed through. `\\` in a name is `/`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from diffusion.pytree import short_repr
from experiments.data.formats import UNREADABLE, endings
from experiments.data.labels import manifest_labels
from experiments.data.pictures import Decoded
from experiments.data.source import Source
from experiments.errors import DataError, PictureError
from experiments.names import counted, listed

MANIFEST = "dataset.json"
_METADATA = ("metadata.csv", "metadata.jsonl")
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_MORE = r"([ _-]?(set|images?|imgs?|data|split|[0-9]+))*"
_TRAIN = re.compile("(train|training)" + _MORE)
_TEST = re.compile("(test|testing|val|valid|validation|eval|dev)" + _MORE)
_CALLED = re.compile("(train|training|test|testing|val|valid|validation|eval|evaluation|dev|h[oe]ld[ _-]?out)" + _MORE)
"""What splits are called; a class of such a name that is not refused is mentioned."""

_TEXTS = 16_384
"""The bytes of a PNG within which its first texts are."""


@dataclass(frozen=True)
class Layout:
    """Pictures in their order, and their classes."""

    names: list[str]
    """As the folder or the archive spells them, in the order of that spelling."""
    labels: Int32[np.ndarray, "n"] | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was passed over."""
    bad: tuple[str, ...] = ()
    """Why each picture of a kind that is not read was left out."""
    hint: str = ""
    """Where classes might be, if there are none here."""

    __repr__ = short_repr

    def source(self, name: str, decoded: Decoded) -> Source:
        """The data set of these pictures, or of those that could be read."""
        labels = self.labels
        return Source(
            name=name,
            images=decoded.images,
            labels=labels if labels is None or decoded.kept is None else labels[decoded.kept],
            class_names=self.class_names,
            notes=(*self.notes, *decoded.notes),
            bad=(*self.bad, *decoded.bad),
            hint=self.hint,
        )


def lay_out(
    files: Iterable[str], where: str, read: Callable[[str], bytes], *, kind: str, rules: int, skip: bool = False
) -> Layout:
    """The pictures among all `files` of a folder or zip (the `kind`) at `where`, and their classes; `read` opens one.

    Those of a kind that is not read are refused or, with `skip`, passed over.

    By `rules` 1 classes sort as strings, those of a zip are in `dataset.json` alone, nothing is passed through, `\\` is
    a character like others, and pictures that cannot be read are passed over.

    Raises DataError where there are no pictures or some that cannot be read or have one name, a picture beside classes,
    splits instead of classes, and for a `dataset.json` that does not fit.
    """
    clean, known = _path if rules > 1 else str, endings(rules)
    everything = [(name, clean(name)) for name in sorted(files)]
    pictures = [
        (name, path) for name, path in everything if is_picture(path, known) and not _is_strip(name, path, read)
    ]
    if rules > 1 and not skip:
        _refuse_unreadable(everything, where, known)
    if not pictures:
        raise DataError(
            f"{where} holds no pictures; give a {kind} of pictures, such as .png, .jpg, .webp and .tif files."
        )
    names, paths = [name for name, _ in pictures], [path for _, path in pictures]
    twice = next((path for path, times in Counter(paths).items() if times > 1), None)
    if twice:
        remedy = "write the zip anew" if kind == "zip" else "rename one"
        raise DataError(f"{where} holds {listed([twice])} twice; {remedy}.")
    by_path = {path: name for name, path in everything}
    root = _root(paths, by_path) if rules > 1 else ""
    inner, manifest = [path[len(root) :] for path in paths], by_path.get(root + MANIFEST)
    labels, class_names = None, ()
    if manifest is not None:
        labels = manifest_labels(read(manifest), inner, f"{where}/{manifest}", clean)
    elif rules > 1 or kind == "folder":
        labels, class_names = _folder_labels(names, inner, f"{where}/{root}".rstrip("/"), where, kind, rules)
    beside = [root + name for name in _METADATA if root + name in by_path]
    hint = f"; {beside[0]} beside the pictures is read by hf:{where}" if beside and kind == "folder" else ""
    hint = hint if manifest is None else f"; {manifest} has null for labels"
    taken = {*names, manifest}
    others = [path for name, path in everything if name not in taken]
    unread = [name for name, path in everything if is_picture(path, UNREADABLE - known)] if skip else []
    bad = tuple(_unreadable([name], where) for name in unread)
    doubtful = _doubtful(class_names) if rules > 1 and manifest is None else ()
    return Layout(names, labels, class_names, (*doubtful, *_notes(others, known, skip)), bad, hint)


def is_picture(path: str, known: Iterable[str]) -> bool:
    """Whether a path written with `/` has one of the `known` endings and no hidden part."""
    return not _hidden(path) and _ending(path) in known


def _is_strip(name: str, path: str, read: Callable[[str], bytes]) -> bool:
    """Whether a picture is the sheet that `scorefield edit` shows all answers on, beside them."""
    return path.rpartition("/")[2] == "strip.png" and b"edit_sha256" in read(name)[:_TEXTS]


def splits_beside_classes(folders: Iterable[str]) -> list[str]:
    """The folders that are called like a training and like a test split, if both are there."""
    found = [[name for name in folders if kind.fullmatch(name.lower())] for kind in (_TRAIN, _TEST)]
    return sorted(found[0] + found[1]) if all(found) else []


def natural(name: str) -> list[str | tuple[int, str]]:
    """A key that sorts the numbers in a name by their value."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if i % 2 else part for i, part in enumerate(parts)]


def _path(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _ending(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[1].lower()


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _refuse_unreadable(files: list[tuple[str, str]], where: str, known: frozenset[str]) -> None:
    unreadable = UNREADABLE - known
    found = [name for name, path in files if is_picture(path, unreadable)]
    if found:
        raise PictureError(_unreadable(found, where))


def _unreadable(found: list[str], where: str) -> str:
    kinds = sorted({_ending(name) for name in found})
    more = f" and {len(found) - 1:,} more are" if len(found) > 1 else " is"
    return (
        f"{listed([f'{where}/{found[0]}'], 160)}{more} of a kind that scorefield does not read "
        f"({listed(kinds, 40)}); convert to PNG or JPEG, or move away."
    )


def _root(pictures: list[str], files: Container[str]) -> str:
    """The folder, with a `/` at its end, in which the classes or `dataset.json` are; "" where nothing wraps them."""
    root = ""
    while root + MANIFEST not in files:
        top, slash, _ = pictures[0][len(root) :].partition("/")
        inner = f"{root}{top}/"
        if not slash or not all(path.startswith(inner) for path in pictures):
            break
        # A folder of nothing but pictures is a class, unless its name says that it is none.
        if any("/" not in path[len(inner) :] for path in pictures) and inner + MANIFEST not in files:
            return inner if top.lower() in _SPLITS else root
        root = inner
    return root


def _folder_labels(
    names: list[str], inner: list[str], root: str, where: str, kind: str, rules: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    tops = [path.split("/")[0] if "/" in path else "" for path in inner]
    classes = sorted(set(tops), key=lambda name: (natural(name), name) if rules > 1 else name)
    if classes == [""]:
        return None, ()
    if "" in classes:
        stray = listed([f"{where}/{names[tops.index('')]}"], 160)
        raise DataError(f"{stray} lies beside sub-folders of pictures, which are classes; move it into one of them.")
    splits = [name for name in classes if name.lower() in _SPLITS]
    if splits == classes or (rules > 1 and (splits := splits_beside_classes(classes))):
        first = next((name for name in splits if name.lower().startswith("train")), splits[0])
        remedy = f"give one, folder:{root}/{first}" if kind == "folder" else f"make a zip of {first} alone"
        raise DataError(f"{root} holds the splits {', '.join(splits)} and not classes; {remedy}.")
    numbers = {name: i for i, name in enumerate(classes)}
    return np.array([numbers[top] for top in tops], np.int32), tuple(classes)


def _doubtful(classes: Iterable[str]) -> tuple[str, ...]:
    """What is said of classes that are called as splits are: runs go on with them, and so they are not refused."""
    found = [name for name in classes if _CALLED.fullmatch(name.lower())]
    if len(found) > 1:
        return (f"the folders {listed(found)} are classes, though called like splits (if they are, give one of them)",)
    return (f"the folder {listed(found)} is a class, though called like a split (if it is, move it away)",) * len(found)


def _notes(others: list[str], known: frozenset[str], skip: bool) -> tuple[str, ...]:
    """What is said of files that were passed over; hidden ones are mentioned if they are pictures."""
    kinds = Counter(_ending(path) or "no ending" for path in others if not _hidden(path))
    hidden = sum(_is_hidden_picture(path, known) for path in others)
    unread = sum(kinds.pop(kind) for kind in sorted(kinds.keys() & UNREADABLE - known)) if skip else 0
    count, said = kinds.total(), listed([f"{kind} {many:,}" for kind, many in sorted(kinds.items())])
    what = f"{count:,} files passed over that are no pictures" if count > 1 else "a file passed over that is no picture"
    hiding = f"{hidden:,} hidden pictures passed over" if hidden > 1 else "a hidden picture passed over"
    kept = f"{counted(unread, 'picture')} left out of kinds that are not read"
    return (f"{what} ({said})",) * bool(count) + (hiding,) * bool(hidden) + (kept,) * bool(unread)


def _is_hidden_picture(path: str, known: frozenset[str]) -> bool:
    """Whether a hidden file is a picture by its ending, and not what macOS writes beside each file."""
    name = path.rpartition("/")[2]
    return _hidden(path) and "__MACOSX" not in path and not name.startswith("._") and _ending(name.lstrip(".")) in known
