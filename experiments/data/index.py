"""What is known of each picture of a data set before its pixels are asked for, kept in the user's cache folder.

The first reading takes every file whole: its SHA-256, and whether, as what and how it decodes. Later ones look at the
size and the time of each file alone, and read those that have changed. An index that is damaged or of something else is
made anew, and one that cannot be written is not kept: nothing but time is lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from diffusion.pytree import short_repr
from experiments.data.colour import Treatment
from experiments.data.config import DataConfig
from experiments.data.decode import decode_picture, read_header
from experiments.data.files import DOUBTFUL, Files, Names
from experiments.data.shapes import in_threads
from experiments.errors import DataError, UsageError, warn
from experiments.files import replacing, user_cache
from experiments.progress import tracked

_MAGIC = b"scorefield index 1\n"
_KEPT = 8192
"""Pictures after whose reading the index is kept: what is stopped then loses no more than these."""
_GREY, _LATE, _CONVERTED, _IGNORED, _BAD, _WIDE = 1, 2, 4, 8, 16, 32
_OF_TREATMENT: dict[Treatment, int] = {"": 0, "converted": _CONVERTED, "ignored": _IGNORED, "wide": _WIDE}


@dataclass(frozen=True)
class Index:
    """A row for each picture."""

    stamps: Int64[np.ndarray, "n 2"]
    hashes: UInt8[np.ndarray, "n 32"]
    """SHA-256 of the files' contents."""
    sizes: Int32[np.ndarray, "n 2"]
    """Height and width in the header, as the picture is shown."""
    flags: UInt8[np.ndarray, "n"]

    __repr__ = short_repr

    @property
    def grey(self) -> Bool[np.ndarray, "n"]:
        """Whether each is grey."""
        return (self.flags & _GREY) > 0

    @property
    def late(self) -> Bool[np.ndarray, "n"]:
        """Whether each has another shape than its header says, for an orientation that stands behind the pixels."""
        return (self.flags & _LATE) > 0

    @property
    def bad(self) -> Bool[np.ndarray, "n"]:
        """Whether each cannot be read, or has not been yet."""
        return (self.flags & _BAD) > 0

    @property
    def treatments(self) -> Counter[Treatment | None]:
        """How many colour profiles were treated how."""
        return Counter({how: int(np.count_nonzero(self.flags & bit)) for how, bit in _OF_TREATMENT.items() if bit})

    def take(self, rows: np.ndarray) -> Index:
        """These rows."""
        return Index(*(getattr(self, name)[rows] for name in _ARRAYS))


_ARRAYS = ("stamps", "hashes", "sizes", "flags")


def kept_index(files: Files, config: DataConfig) -> Index | None:
    """The index of exactly these files as they are now, if there is one, and no picture has to be read for it."""
    path = _path(files, config)
    if path is None or not path.exists():
        return None
    index, trusted = _known(files, files.stamps(), config, quiet=True)
    return index if trusted.all() else None


def index_of(files: Files, config: DataConfig) -> Index:
    """The index of these files: what is kept of it is taken where a file has not changed, and the rest is read.

    Pictures that cannot be read are marked as bad, and read again the next time.
    """
    stamps, begun = files.stamps(), time.time_ns()
    index, trusted = _known(files, stamps, config)
    missing = np.flatnonzero(~trusted)
    if not len(missing):
        return index

    def examine(k: int) -> None:
        i = int(missing[k])
        index.hashes[i], index.sizes[i], index.flags[i] = _examined(files, i, config)

    for start in tracked(range(0, len(missing), _KEPT), f"first reading of pictures, {_KEPT:,} each", compiles=False):
        in_threads(lambda k, start=start: examine(start + k), min(_KEPT, len(missing) - start), block=16)
        _keep(index, files, config, begun)
    return index


def _examined(files: Files, i: int, config: DataConfig) -> tuple[UInt8[np.ndarray, "32"], tuple[int, int], int]:
    name, digest = files.name(i), np.zeros(32, np.uint8)
    try:
        content = files.read(i)[0]
        digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        header = read_header(lambda: io.BytesIO(content), name, config)
        whole = replace(config, size=None)
        pixels, treatment = decode_picture(lambda: io.BytesIO(content), name, 1 if header.grey else 3, whole)
    except DataError:
        return digest, (0, 0), _BAD
    late = _LATE * (pixels.shape[:2] != header[:2])
    return digest, header[:2], _GREY * header.grey | late | _OF_TREATMENT[treatment]


def _known(
    files: Files, stamps: np.ndarray, config: DataConfig, quiet: bool = False
) -> tuple[Index, Bool[np.ndarray, "n"]]:
    """(A row for each of the files, whether what is kept of each can be taken.)"""
    count = len(files)
    unread = np.full(count, _BAD, np.uint8)
    index = Index(stamps, np.zeros((count, 32), np.uint8), np.zeros((count, 2), np.int32), unread)
    trusted = np.zeros(count, bool)
    path = _path(files, config)
    found = None if path is None else _load(path, _key(files, config), quiet)
    if found is None:
        return index, trusted
    kept, names, state, read = found
    now = files.state()
    if state != now or any(changed > read - DOUBTFUL for _, changed in now):
        return index, trusted
    mine, rows = files.names(), np.arange(count)
    if names.same(mine):
        theirs = rows
    else:
        places = {name: i for i, name in enumerate(names)}
        theirs = np.array([places.get(name, -1) for name in mine], np.int64)
        rows = np.flatnonzero(theirs >= 0)
        theirs = theirs[rows]
    same = (kept.stamps[theirs] == stamps[rows]).all(1) & ~kept.bad[theirs] & (stamps[rows, 0] >= 0)
    same &= stamps[rows, 1] <= read - DOUBTFUL
    for name in _ARRAYS:
        getattr(index, name)[rows[same]] = getattr(kept, name)[theirs[same]]
    trusted[rows[same]] = True
    return index, trusted


def _key(files: Files, config: DataConfig) -> dict[str, Any]:
    """What the rows of an index depend on, beside the files."""
    how = {"rules": config.rules, "bits": config.bits, "pillow": version("pillow")}
    return {"place": files.place, **how, "columns": list(_ARRAYS)}


def _path(files: Files, config: DataConfig) -> Path | None:
    """Where it is kept; None where the files have no place, or the user has none."""
    folder = user_cache()
    if folder is None or not files.place:
        return None
    name = hashlib.sha256(json.dumps(_key(files, config), sort_keys=True).encode()).hexdigest()
    return folder / "index" / f"{name[:32]}.index"


def _load(path: Path, key: dict[str, Any], quiet: bool) -> tuple[Index, Names, tuple[tuple[int, int], ...], int] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    try:
        whole = content[:head] == _MAGIC + hashlib.sha256(content[head:]).digest()
        if not whole:
            raise ValueError("its checksum is wrong")
        with np.load(io.BytesIO(content[head:]), allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            if meta["key"] != key:
                raise ValueError("it is of other files")
            names = Names.of(arrays["text"], arrays["ends"])
            index = Index(*(arrays[name] for name in _ARRAYS))
            if {len(getattr(index, name)) for name in _ARRAYS} != {len(names)}:
                raise ValueError("its columns differ in length")
            state = tuple((int(size), int(changed)) for size, changed in meta["state"])
            return index, names, state, int(meta["read"])
    except Exception as error:  # whatever stands in a file of the cache, it is made anew
        if not quiet:
            warn(f"the index {path} cannot be used ({error}); it is made anew.")
        return None


def _keep(index: Index, files: Files, config: DataConfig, begun: int) -> None:
    names, path = files.names(), _path(files, config)
    if path is None:
        return
    meta = json.dumps({"key": _key(files, config), "state": files.state(), "read": begun}).encode()
    buffer = io.BytesIO()
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    np.savez(buffer, text=names.text, ends=names.ends, meta=np.frombuffer(meta, np.uint8), **arrays)
    content = buffer.getbuffer()
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest())
            file.write(content)
    except (UsageError, OSError) as error:
        why = str(error).partition(";")[0]
        warn(f"the index of {os.path.basename(files.place)} is not kept ({why}); it is made anew the next time.")
