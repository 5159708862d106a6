"""NumPy archives. Nothing is ever unpickled, and no array is read before its header has been checked."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from experiments.data.arrays import from_arrays, paired
from experiments.data.config import DataConfig
from experiments.data.inplace import Stored, StoredImages, cannot_be_read_in_place, from_lazy, too_large_for_memory
from experiments.data.members import member_start, name_checksum
from experiments.data.shapes import require_memory
from experiments.data.source import Source
from experiments.data.sources.paths import file_at
from experiments.data.unpack import unpacked, unpacks
from experiments.errors import DataError, reason
from experiments.names import listed

Pairs = tuple[tuple[str, str], ...]
TRAIN: Pairs = (
    ("images", "labels"),
    ("x", "y"),
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
    ("arr_0", "arr_1"),
)
TEST: Pairs = (("x_test", "y_test"), ("test_images", "test_labels"))


def read(where: str, config: DataConfig) -> Source:
    """The first pair of `TRAIN` whose images exist, with or without labels; the first of `TEST` is held out."""
    path = file_at(where, "npz")
    try:
        with zipfile.ZipFile(path) as archive:
            source = _read_pair(archive, str(path), TRAIN, config)
            held_out = None if source is None else _read_pair(archive, str(path), TEST, config)
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is not a whole npz file ({reason(error)}); write it anew with numpy.savez.") from None
    if source is None:
        wanted = ", ".join(images for images, _ in TRAIN)
        raise DataError(f"{path} holds {listed(keys) or 'nothing'} and no images; save them under one of {wanted}.")
    return _with_rest(paired(source, held_out), keys)


def _with_rest(source: Source, keys: list[str]) -> Source:
    """`source` with what is to be said of the arrays of its archive that were not read."""
    pairs = [pair for pairs in (TRAIN, TEST) if (pair := next((p for p in pairs if p[0] in keys), None))]
    rest = [key for key in keys if key not in {name for pair in pairs for name in pair}]
    images, labels = pairs[0]
    there = f", not as {listed(rest)}" if rest else ""
    notes = (f"{'an array' if len(rest) == 1 else f'{len(rest):,} arrays'} passed over ({listed(rest)})",) * bool(rest)
    return replace(source, notes=notes, hint=f"; save them as {labels} beside {images}{there}")


def _read_pair(archive: zipfile.ZipFile, where: str, pairs: Pairs, config: DataConfig) -> Source | None:
    names = set(archive.namelist())
    for images, labels in pairs:
        if f"{images}.npy" in names:
            classes = _read_array(archive, labels, where, config) if f"{labels}.npy" in names else None
            lazy = _lazily(archive, images, where, config)
            if lazy is not None:
                return from_lazy(lazy, f"{where}[{images}]", classes, f"{where}[{labels}]")
            pixels = _read_array(archive, images, where, config)
            return from_arrays(config, pixels, f"{where}[{images}]", classes, f"{where}[{labels}]")
    return None


def _lazily(archive: zipfile.ZipFile, key: str, where: str, config: DataConfig) -> StoredImages | None:
    """The images read in place, where they are too many for memory; None where they are not."""
    name, info = f"{where}[{key}]", archive.getinfo(f"{key}.npy")
    shape, transposed, dtype, head = _header(archive, key, where)
    if len(shape) not in (3, 4) or not too_large_for_memory(shape, dtype, config, name):
        return None
    compressed = info.compress_type != zipfile.ZIP_STORED
    if transposed or (compressed and not unpacks()):
        why = "stored by columns" if transposed else "compressed"
        raise cannot_be_read_in_place(name, why, shape, dtype, config, in_memory=transposed)
    if info.file_size != len(head) + prod(shape) * dtype.itemsize:
        raise DataError(f"{name} is cut short, or goes on after its array; write it anew with numpy.savez.")
    if compressed:
        with archive.open(info) as file, unpacked(file.read, info.file_size, name) as found:
            return StoredImages(Stored(Path(where), len(head), shape, dtype, (head, info.CRC), found), config, name)
    with open(where, "rb") as file:
        offset = member_start(file.fileno(), info.header_offset, name_checksum(info)) + len(head)
    return StoredImages(Stored(Path(where), offset, shape, dtype, (head, info.CRC)), config, name)


def _header(archive: zipfile.ZipFile, key: str, where: str) -> tuple[tuple[int, ...], bool, np.dtype, bytes]:
    """(Shape, whether its first axis is the innermost, type, the bytes that say so) of an array."""
    with archive.open(f"{key}.npy") as file:
        try:
            version = npy.read_magic(file)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, transposed, dtype = reader(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise DataError(f"{where}[{key}] is not an array ({reason(error)}); write it with numpy.savez.") from None
        length = file.tell()
    if dtype.hasobject:
        raise DataError(
            f"{where}[{key}] holds Python objects, which are never unpickled; save images of one shape as uint8."
        )
    with archive.open(f"{key}.npy") as file:
        return shape, transposed, dtype, file.read(length)


def _read_array(archive: zipfile.ZipFile, key: str, where: str, config: DataConfig) -> np.ndarray:
    shape, _, dtype, _ = _header(archive, key, where)
    require_memory(shape, config, f"{where}[{key}]", dtype)
    with archive.open(f"{key}.npy") as file:
        try:
            array = npy.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{where}[{key}] is cut short ({reason(error)}); write it anew with numpy.savez.") from None
        if file.read(1):
            raise DataError(f"{where}[{key}] goes on after its array; write it anew with numpy.savez.")
    return np.asarray(array, order="C")
