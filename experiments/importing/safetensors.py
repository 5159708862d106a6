"""Files of safetensors, read with numpy alone: what they hold is known from their header, before an array is read.

    8 bytes    the length of the header, little-endian
    header     JSON: name -> {"dtype", "shape", "data_offsets": [begin, end]}, and texts under "__metadata__"
    the rest   the arrays one after the other, in the order of rows, without a gap

Arrays of floating-point numbers come as float32, whatever they are in the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import CheckpointError, one_line, reason
from experiments.names import listed

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The types of floating-point numbers, and their bytes."""
_BYTES = {**FLOATS, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The types in memory; that of BF16 holds its bits."""
METADATA = "__metadata__"
"""The name of the texts in the header."""
LONGEST_HEADER = 100_000_000
"""Bytes of a header beyond which it is none, as in the reference implementation."""
MOST_AXES = 32
"""Axes of an array beyond which its shape is none."""


@dataclass(frozen=True)
class Entry:
    """An array as the header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """The place of its first byte in the file."""
    size: int
    """Its bytes."""


@dataclass(frozen=True)
class SafeTensors:
    """A file whose header has been read and agrees with its length."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    def read(self, name: str, *, finite: bool = True) -> np.ndarray:
        """An array of floating-point numbers, as float32.

        Raises CheckpointError where it is none, or not `finite` as it should be.
        """
        entry, called = self.entries[name], listed([name])
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{self.path}: {called} is of type {entry.dtype}; its numbers are to be floating-point."
            )
        array = np.empty(entry.shape, NUMPY[entry.dtype])
        try:
            with self.path.open("rb") as file:
                file.seek(entry.begin)
                count = file.readinto(array.reshape(-1).data.cast("B")) if entry.size else 0
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read ({reason(error)}); restore it.") from None
        if count != entry.size:
            raise CheckpointError(f"{self.path} ends within {called}; it has become shorter: fetch it again.")
        if entry.dtype == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if finite and not np.isfinite(array).all():
            raise CheckpointError(f"{self.path}: {called} holds numbers that are not finite; fetch the file again.")
        return array


def open_safetensors(path: Path, begin: int = 0, length: int | None = None) -> SafeTensors:
    """The file at `path`, of which the header alone is read; or one that lies within it, as in a zip, by its place.

    Such a one has `length` bytes from `begin` on. Raises CheckpointError for what is no such file, and where the arrays
    do not fill it exactly, by the first of them.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is no file; give a file of safetensors.")
        with path.open("rb") as file:
            length, text = path.stat().st_size - begin if length is None else length, b""
            file.seek(begin)
            size = int.from_bytes(file.read(8), "little") if length >= 8 else 0
            if 2 <= size <= min(length - 8, LONGEST_HEADER):
                text = file.read(size)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); give a file of safetensors.") from None
    try:
        if not text:
            raise ValueError("its header has no end")
        header = json.loads(text.decode(), object_pairs_hook=once)
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no file of safetensors, or is cut off ({reason(error)}); fetch it again, by `git lfs pull` "
            "where it is a pointer to a large file."
        ) from None
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} has metadata that are not texts; write it anew.")
    entries = [_entry(path, name, said, begin + 8 + size) for name, said in header.items()]
    _require_filled(
        path, sorted(entries, key=lambda entry: (entry.begin, entry.size)), begin + 8 + size, begin + length
    )
    return SafeTensors(path, {entry.name: entry for entry in entries}, metadata)


def shown(value: Any) -> str:
    """What a file says, for a sentence: on one line, and not all of what is long."""
    return one_line(repr(value), 100)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}).") from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON table. Raises ValueError for a name that is there twice."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{listed([name])} is there twice")
        table[name] = value
    return table


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(path: Path, name: str, said: Any, start: int) -> Entry:
    """An array by what the header says of it. Raises CheckpointError where that makes no sense."""
    said = said if isinstance(said, dict) else {}
    dtype, shape, place = said.get("dtype"), said.get("shape"), said.get("data_offsets")
    called = listed([name])
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise CheckpointError(f"{path}: {called} is of type {shown(dtype)}, which is not known; write it as F32.")
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(map(_is_count, shape)):
        raise CheckpointError(f"{path}: {called} has shape {shown(shape)}, which is none; fetch the file again.")
    if not isinstance(place, list) or len(place) != 2 or not all(map(_is_count, place)):
        raise CheckpointError(f"{path}: {called} has no place in the file ({shown(place)}); fetch the file again.")
    size = math.prod(shape) * _BYTES[dtype]
    if place[1] - place[0] != size:
        raise CheckpointError(
            f"{path}: {called} has {place[1] - place[0]} bytes, and {dtype}{shown(shape)} takes {shown(size)}; fetch "
            "the file again."
        )
    return Entry(name, dtype, tuple(shape), start + place[0], size)


def _require_filled(path: Path, entries: list[Entry], begin: int, length: int) -> None:
    """Raise CheckpointError unless the arrays, in the order of their places, lie without a gap up to the file's end."""
    for entry in entries:
        called = listed([entry.name])
        if entry.begin != begin:
            what = "overlaps the array before it" if entry.begin < begin else "does not follow the array before it"
            raise CheckpointError(f"{path}: {called} {what}; fetch the file again.")
        begin += entry.size
        if begin > length:
            raise CheckpointError(
                f"{path} is cut off within {called}: it has {length} bytes of at least {begin}; fetch it again."
            )
    if begin < length:
        raise CheckpointError(f"{path} has {length - begin} bytes after its last array; fetch it again.")
