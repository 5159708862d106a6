"""Images in an array on the disk, read in place: row by row at their offset, and converted as those in memory are.

They are read and not mapped: pages of a map count as memory of the process that touched them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.arrays import Levels, converted, levels_of, target_of, to_levels, with_channels
from experiments.data.config import DataConfig
from experiments.data.files import DOUBTFUL
from experiments.data.labels import check_labels
from experiments.data.lazy import VERSION, places
from experiments.data.shapes import pixel_type, pixels_gib, read_lazily
from experiments.data.source import Source
from experiments.errors import DataError, UsageError, warn
from experiments.files import user_cache, write_text
from experiments.progress import tracked

_BLOCK = 2**24
"""Bytes that are looked at at once."""


@dataclass(frozen=True)
class Stored:
    """An array as it lies in a file: C-ordered, uncompressed."""

    path: Path
    offset: int
    """Bytes before its first element."""
    shape: tuple[int, ...]
    dtype: np.dtype
    checksum: tuple[bytes, int] | None = None
    """The bytes before it that its CRC-32 takes in, and the CRC-32; None where it has none."""
    unpacked: int | None = None
    """The descriptor of the file in which it lies so, where the one at `path` is compressed."""

    @property
    def row(self) -> int:
        """Bytes of an image."""
        return prod(self.shape[1:]) * self.dtype.itemsize


def too_large_for_memory(shape: tuple[int, ...], dtype: np.dtype, config: DataConfig, where: str) -> bool:
    """Whether an array of images is read in place: it, or what becomes of it, is beyond `config.memory_gib`.

    Raises DataError where `config.loading` wants in memory what is beyond it.
    """
    target = target_of(with_channels(shape, where, config), config)
    return read_lazily(shape, config, where, dtype) or read_lazily((shape[0], *target), config, where)


class NotInPlaceError(DataError):
    """An array that is to be read in place and is not stored plainly."""


def cannot_be_read_in_place(
    where: str, why: str, shape: tuple[int, ...], dtype: np.dtype, config: DataConfig, *, in_memory: bool = False
) -> NotInPlaceError:
    """What is said of an array that is too large for memory, or wanted lazily, and not stored plainly.

    To prepare it needs it whole `in_memory`, or else no more than the disk.
    """
    target = (shape[0], *target_of(with_channels(shape, where, config), config))
    needed = max(pixels_gib(shape, config, dtype), pixels_gib(target, config))
    large = needed > config.memory_gib
    reasons = (f"above --data.memory-gib {config.memory_gib:g}",) * large + ("wanted lazily",) * (not large)
    room = f" --memory-gib {ceil(needed)}" * (large and in_memory)
    return NotInPlaceError(
        f"{where} is {reasons[0]} and {why}, so that it cannot be read in place; train on the records:FILE that "
        f"scorefield data prepare{room} writes of it{', which has all of it in memory once' * bool(room)}."
    )


def from_lazy(images: StoredImages, where: str, labels: np.ndarray | None, labels_where: str) -> Source:
    """The Source of images that are read in place. Raises DataError for labels that `check_labels` refuses."""
    classes = None if labels is None else check_labels(labels, len(images), labels_where)
    return Source(name=where, images=images, labels=classes)


class StoredImages:
    """The images of a `Stored` array, read and converted when they are asked for."""

    ndim = 4

    def __init__(self, array: Stored, config: DataConfig, where: str) -> None:
        """Raises DataError for a file that is too short or damaged, and for values that are none of pixels."""
        self._array, self._config, self._where = array, config, where
        self._source_shape = with_channels(array.shape, where, config)
        self._target, self.dtype = target_of(self._source_shape, config), pixel_type(config)
        self._open()
        status = os.fstat(self._descriptor)
        self._stamp = (status.st_size, status.st_mtime_ns)
        needed = array.offset + prod(array.shape) * array.dtype.itemsize
        if status.st_size < needed:
            raise DataError(
                f"{array.path} is cut short: {status.st_size:,} of the {needed:,} bytes that its header promises are "
                "there; copy or download it again."
            )
        digest, self._levels = self._known()
        said = (array.shape, array.dtype.str, self._target, config.crop, config.rules, config.bits)
        self.fingerprint = VERSION + hashlib.sha256(repr((said, digest)).encode()).hexdigest()

    def _open(self) -> None:
        path, unpacked = self._array.path, self._array.unpacked
        self._descriptor = (
            os.open(path.absolute(), os.O_RDONLY | os.O_CLOEXEC) if unpacked is None else os.dup(unpacked)
        )
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        return (len(self), *self._target)

    def __len__(self) -> int:
        return self._array.shape[0]

    def __getitem__(self, rows: np.ndarray | slice | int, /) -> np.ndarray:
        """The images of these rows. Raises DataError where the file has changed."""
        chosen = places(rows, len(self))
        if not chosen.size:
            return np.empty((*chosen.shape, *self._target), self.dtype)
        images = np.empty((chosen.size, *self._source_shape[1:]), self._array.dtype)
        flat = images.reshape(chosen.size, -1)
        for place, i in enumerate(chosen.ravel().tolist()):
            content = os.pread(self._descriptor, self._array.row, self._array.offset + i * self._array.row)
            if len(content) != self._array.row:
                raise self._changed()
            flat[place] = np.frombuffer(content, self._array.dtype)
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != self._stamp:
            raise self._changed()
        pixels = to_levels(images, self._levels, self._where, self._config)
        pixels = converted(pixels, self._target, self._config)
        return pixels.reshape(*chosen.shape, *self._target)

    def _changed(self) -> DataError:
        return DataError(
            f"{self._array.path} has changed since this command read it first; restore it, or start again."
        )

    def _known(self) -> tuple[str, Levels]:
        """(SHA-256 of the array, what its values are), kept in the cache as long as the file is the same."""
        array = self._array
        if array.unpacked is not None:
            return self._read_whole()
        place = f"{os.path.realpath(array.path)}:{array.offset}"
        key = [place, list(array.shape), array.dtype.str, self._config.rules, self._config.bits]
        folder, name = user_cache(), f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
        if folder is None:
            return self._read_whole()
        path = folder / "index" / name
        try:
            kept = json.loads(path.read_bytes())
            sound = kept["key"] == key and tuple(kept["stamp"]) == self._stamp
            if sound and self._stamp[1] <= kept["read"] - DOUBTFUL:
                return str(kept["sha256"]), Levels(float(kept["low"]), float(kept["high"]))
        except OSError:
            pass
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            warn(f"the index {path} cannot be used ({error}); it is made anew.")
        begun = time.time_ns()
        digest, levels = self._read_whole()
        kept = {"key": key, "stamp": self._stamp, "read": begun, "sha256": digest, "low": levels.low}
        try:
            write_text(path, json.dumps({**kept, "high": levels.high}))
        except UsageError as error:
            why = str(error).partition(";")[0]
            warn(f"the index of {array.path.name} is not kept ({why}); it is made anew the next time.")
        return digest, levels

    def _read_whole(self) -> tuple[str, Levels]:
        array, digest, levels, start = self._array, hashlib.sha256(), None, 0
        checksum = 0 if array.checksum is None else zlib.crc32(array.checksum[0])
        for content in tracked(
            self._blocks(), "first reading of the array", -(-len(self) // self._rows), compiles=False
        ):
            digest.update(content)
            checksum = zlib.crc32(content, checksum)
            images = np.frombuffer(content, array.dtype).reshape(-1, *self._source_shape[1:])
            levels = levels_of(images, self._where, self._config, start, levels)
            start += len(images)
        if array.checksum is not None and checksum != array.checksum[1]:
            raise DataError(f"{self._where} is damaged (its CRC-32 is wrong); copy or write it again.")
        assert levels is not None  # there is an image, as `with_channels` has seen
        for content in self._blocks() if levels.must_be_whole(array.dtype, self._config.rules) else ():
            images = np.frombuffer(content, array.dtype).reshape(-1, *self._source_shape[1:])
            to_levels(images, levels, self._where, self._config)
        return digest.hexdigest(), levels

    @property
    def _rows(self) -> int:
        return max(1, _BLOCK // self._array.row)

    def _blocks(self) -> Iterator[bytes]:
        for start in range(0, len(self), self._rows):
            count = min(self._rows, len(self) - start) * self._array.row
            content = os.pread(self._descriptor, count, self._array.offset + start * self._array.row)
            if len(content) != count:
                raise self._changed()
            yield content
