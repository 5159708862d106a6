"""A data set written once as one file of records: resized, in the order of its source, in parts that survive a stop.

Images are decoded in parts of at most a thousand, by several threads, and each part is a file in `FILE.parts` beside
the file to be. When all are there the file is written from them whole, and they are removed. So never more than a part
of the pixels is in memory, a preparation that was stopped decodes only what is missing, and its file is the same to the
byte. A plan beside the parts says what they are parts of; others are neither taken nor removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.config import DataConfig
from experiments.data.records import RecordFacts, write_records
from experiments.data.room import require_room
from experiments.data.shapes import in_threads
from experiments.data.source import Pixels, Source
from experiments.errors import BusyError, UsageError
from experiments.files import replacing, require_writable, sweep, write_text
from experiments.progress import tracked

PART_BYTES, PART_IMAGES = 2**24, 1024
"""The most pixels and the most images of a part: what a stop can lose."""
_OVERHEAD = 80
"""Bytes of a record beside its content, at most; and the file is padded to a multiple of `_PADDING`."""
_PADDING = 2**16
_THREADED = 32
"""Images that a thread decodes at a time."""
_CHECKSUM = 4
_NOT_OF_PIXELS = ("flip", "held_out", "seed", "memory_gib", "loading")
"""Options that are for training and do not change what is written."""


def prepare(source: Source, config: DataConfig, out: Path) -> RecordFacts:
    """Write `source`, which `config` has opened, with its test split to the file `out`, or go on with that.

    Raises UsageError where the file is there already, the disk has not the room, or the parts beside it are of other
    images or options; BusyError where another process is preparing it; DataError for an image that cannot be decoded.
    """
    if source.of_points:
        raise UsageError(f"{source.name} has points and no pixels; give a data set of images.")
    require_new(out)
    require_writable(out.parent)
    parts = Parts(source, config, out)
    with parts.mine():
        parts.agree()
        missing = [i for i in range(len(parts)) if not parts.there(i)]
        try:
            _require_room(out, parts, missing)
        except UsageError:
            if len(missing) == len(parts):
                parts.remove()
            raise
        for i in tracked(missing, f"images in parts of {parts.size:,}", compiles=False):
            parts.write(i)
        with replacing(out) as temporary:
            facts = parts.join(temporary)
            require_new(out)
        parts.remove()
    return facts


def require_new(out: Path) -> None:
    """Raise UsageError where there is something at `out` already."""
    if out.is_symlink() or out.exists():
        raise UsageError(f"{out} exists already, and nothing is overwritten; remove it, or give another --out.")


@dataclass(frozen=True)
class Parts:
    """The parts of a file that is being prepared, in the folder beside it."""

    source: Source
    config: DataConfig
    out: Path

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.out.with_name(f"{self.out.name}.parts")

    @property
    def count(self) -> int:
        """Number of images, those of a test split among them."""
        return len(self.source) + (0 if self.source.held_out is None else len(self.source.held_out))

    @property
    def size(self) -> int:
        """Images in a part; the last may have fewer."""
        return max(1, min(PART_IMAGES, PART_BYTES // self.image_bytes))

    @property
    def image_bytes(self) -> int:
        """The size of the pixels of an image."""
        return prod(self.source.event_shape) * self.source.images.dtype.itemsize

    def __len__(self) -> int:
        """Number of parts."""
        return -(-self.count // self.size)

    def rows(self, i: int) -> range:
        """The images of a part."""
        return range(i * self.size, min((i + 1) * self.size, self.count))

    def bytes_of(self, i: int) -> int:
        """The size of the file of a part."""
        return len(self.rows(i)) * self.image_bytes + _CHECKSUM

    def there(self, i: int) -> bool:
        """Whether a part has been written."""
        try:
            return self._path(i).stat().st_size == self.bytes_of(i)
        except OSError:
            return False

    def write(self, i: int) -> Pixels:
        """Decode a part and write it with its checksum; returns its images."""
        images = self._decoded(self.rows(i))
        with replacing(self._path(i), swept=True) as temporary, open(temporary, "wb") as file:
            file.write(images.data)
            file.write(zlib.crc32(images.data).to_bytes(_CHECKSUM, "little"))
        return images

    def read(self, i: int) -> Pixels:
        """The images of a part, which is written anew if it is damaged."""
        content = self._path(i).read_bytes()
        pixels = memoryview(content)[:-_CHECKSUM]
        if len(content) != self.bytes_of(i) or zlib.crc32(pixels).to_bytes(_CHECKSUM, "little") != content[-_CHECKSUM:]:
            return self.write(i)
        images = np.frombuffer(pixels, self.source.images.dtype)
        return images.reshape(len(self.rows(i)), *self.source.event_shape)

    def join(self, path: Path) -> RecordFacts:
        """Write all parts into one file."""
        source, held_out = self.source, self.source.held_out
        labels = source.labels
        if labels is not None and held_out is not None and held_out.labels is not None:
            labels = np.concatenate([labels, held_out.labels])
        return write_records(
            path,
            (self.read(i) for i in tracked(range(len(self)), "parts put together", compiles=False)),
            labels,
            held_out=0 if held_out is None else len(held_out),
            class_names=source.class_names,
            notes=source.notes,
            hint=source.hint,
            prepared=self._options(),
        )

    @contextlib.contextmanager
    def mine(self) -> Iterator[None]:
        """Hold the folder, which is made, against other processes. Raises BusyError, or UsageError from the disk."""
        if self.folder.is_symlink():
            raise UsageError(f"{self.folder} is a link, through which nothing is written; remove it.")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", flags, 0o666)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written ({error.strerror}); give another --out.") from None
        with os.fdopen(descriptor):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"{self.out} is being prepared by another process; wait for it, or stop it.") from None
            yield

    def agree(self) -> None:
        """Write the plan, or see that the one beside the parts is the same. Raises UsageError where it is another."""
        path, plan = self.folder / "plan.json", self._plan()
        try:
            if json.loads(path.read_text(encoding="utf-8")) != plan:
                raise UsageError(
                    f"{self.folder} holds parts of other images, or of the same with other options, from a "
                    "preparation that was stopped; remove that folder, or give another --out."
                )
        except (OSError, ValueError, RecursionError):  # none was written whole, so that no part can be trusted
            for left in self.folder.glob("*.part"):
                left.unlink()
            write_text(path, json.dumps(plan))
        sweep(self.folder, {self._path(i).name for i in range(len(self))})

    def remove(self) -> None:
        """Remove the folder with what was written there."""
        for path in (*self.folder.glob("*.part"), self.folder / "plan.json", self.folder / "lock"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # where somebody else has put something there
            self.folder.rmdir()

    def _path(self, i: int) -> Path:
        return self.folder / f"{i:06}.part"

    def _decoded(self, rows: range) -> Pixels:
        images = np.empty((len(rows), *self.source.event_shape), self.source.images.dtype)
        border, held_out = len(self.source), self.source.held_out

        def decode(k: int) -> None:
            for part, offset, last in ((self.source, 0, border), (held_out, border, self.count)):
                first = rows.start + k * _THREADED
                wanted = range(max(first, offset), min(first + _THREADED, rows.stop, last))
                if part is not None and wanted:
                    found = part.images[wanted.start - offset : wanted.stop - offset]
                    images[wanted.start - rows.start : wanted.stop - rows.start] = found

        in_threads(decode, -(-len(rows) // _THREADED), block=1)
        return images

    def _options(self) -> dict[str, Any]:
        """What the images were read with, as far as they depend on it."""
        return {name: value for name, value in asdict(self.config).items() if name not in _NOT_OF_PIXELS}

    def _plan(self) -> dict[str, Any]:
        source, held_out = self.source, self.source.held_out
        parts = [source] if held_out is None else [source, held_out]
        labels = hashlib.sha256()
        for part in parts:
            labels.update(b"none" if part.labels is None else np.ascontiguousarray(part.labels, "<i4").tobytes())
        return {
            "fingerprints": [part.fingerprint for part in parts],
            "shape": [self.count, *source.event_shape],
            "labels": labels.hexdigest(),
            "class_names": list(source.class_names),
            "part": self.size,
            "options": {**self._options(), "source": None},  # which may have moved meanwhile
        }


def _require_room(out: Path, parts: Parts, missing: list[int]) -> None:
    """Raise UsageError unless the disk has room for the parts that are missing and for the file."""
    file = parts.count * (parts.image_bytes + _OVERHEAD + 4 * (parts.source.labels is not None))
    needed = sum(map(parts.bytes_of, missing)) + file + 4 * _PADDING
    require_room(out.parent, needed, f"for {out.name} and the parts that it is made from")
