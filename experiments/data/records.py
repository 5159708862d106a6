"""Prepared images in one ArrayRecord file, read at random: how the file is laid out, written and read.

    record 0 … n−1    the pixels of an image, uint8 or little-endian uint16 (height, width, channels), the held-out ones
                      behind the others
    record n          the labels of all, int32 little-endian, if they have any
    the last record   the facts, as JSON

A record begins with the CRC-32 of what follows, four bytes little-endian, which starts from the record's number: so a
flipped bit is noticed, and a record in another's place too. A group has one record and none is compressed: of images
of 64×64×3 zstd saves 13 to 15% of the disk and costs a third to a half of the speed, and a group of eight is read as a
whole for each of its images.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from experiments.data.lazy import VERSION, places
from experiments.data.source import Pixels
from experiments.errors import DataError, reason

FORMAT = 1
"""The version of the layout."""
MAGIC = bytes.fromhex("83af70d10d884a3f")
"""What an ArrayRecord file, a file of Riegeli's, begins with."""
_WRITING = "group_size:1,uncompressed"
_READING = {"options": "readahead_buffer_size:0,max_parallelism:0", "file_reader_buffer_size": 32768}
_AT_ONCE = 256
_CHECKSUM = struct.Struct("<I")
_REMEDY = "write it anew with `scorefield data prepare`"


@dataclass(frozen=True, kw_only=True)
class RecordFacts:
    """What a file says of its images."""

    shape: tuple[int, int, int]
    """(height, width, channels)."""
    bits: int = 8
    """Of each number: 8 or 16."""
    images: int
    """How many there are, those held out among them."""
    held_out: int = 0
    """How many of them, the last ones, are the data set's own test split."""
    labelled: bool = False
    class_names: tuple[str, ...] = ()
    fingerprint: str
    """`VERSION` and the SHA-256, in hex, of the shape and the pixels."""
    notes: tuple[str, ...] = ()
    hint: str = ""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """The options that the images were read with."""

    def well_typed(self) -> bool:
        """Whether each field is what it should be, in a file that anybody may have written."""
        numbers = (*self.shape, self.images, self.held_out)
        lists, texts = (self.class_names, self.notes), (self.fingerprint, self.hint)
        return (
            all(type(number) is int for number in numbers)
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(one, tuple) and all(isinstance(text, str) for text in one) for one in lists)
            and isinstance(self.prepared, Mapping)
        )

    @property
    def records(self) -> int:
        """Number of records in the file."""
        return self.images + self.labelled + 1

    @property
    def dtype(self) -> np.dtype:
        """uint8 or uint16."""
        return np.dtype(f"uint{self.bits}")


def is_record_file(path: Path) -> bool:
    """Whether a file begins as an ArrayRecord file does. Raises OSError where one cannot be read."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Fingerprint:
    """SHA-256 of the shape and the pixels of images, as they come; those of 16 bits are of twice the bytes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256(repr(tuple(shape)).encode())

    def add(self, images: Pixels) -> None:
        """The next images."""
        self._digest.update(_little(images).data)

    def __str__(self) -> str:
        return VERSION + self._digest.hexdigest()


def write_records(
    path: Path,
    images: Iterable[Pixels],
    labels: Int32[np.ndarray, "n"] | None,
    **facts: Any,
) -> RecordFacts:
    """Write images, which come in arrays, with the labels of all of them; returns what the file says of them.

    `facts` are fields of RecordFacts. The bytes of the file depend on these arguments alone. Raises OSError.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    fingerprint, shape, bits, count = None, (0, 0, 0), 8, 0
    try:
        writer: Any = ArrayRecordWriter(str(path), _WRITING)
        for block in images:
            shape, bits = block.shape[1:], 8 * block.dtype.itemsize
            fingerprint = fingerprint or Fingerprint(shape)
            fingerprint.add(block)
            for image in _little(block):
                writer.write(_sealed(count, image.tobytes()))
                count += 1
        assert fingerprint is not None, "there is at least one image"
        if labels is not None:
            writer.write(_sealed(count, labels.astype("<i4").tobytes()))
        known = RecordFacts(
            shape=(shape[0], shape[1], shape[2]),
            bits=bits,
            images=count,
            labelled=labels is not None,
            fingerprint=str(fingerprint),
            **facts,
        )
        text = json.dumps({"scorefield_records": FORMAT, **asdict(known)}, sort_keys=True, ensure_ascii=False)
        writer.write(_sealed(known.records - 1, text.encode(errors="surrogatepass")))
        writer.close()
    except RuntimeError as error:  # the library's name for whatever the operating system says
        raise OSError(reason(error)) from None
    return known


class RecordImages:
    """The images of a file, held-out ones included, as `LazyImages`; its records are verified as they are read.

    The file is opened anew in each process. Raises DataError for a file that is none, or is damaged.
    """

    ndim = 4

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self.facts = self._read_facts()
        self.dtype = self.facts.dtype

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        return (self.facts.images, *self.facts.shape)

    @property
    def fingerprint(self) -> str:
        """As it was computed when the file was written."""
        return self.facts.fingerprint

    def __len__(self) -> int:
        """n."""
        return self.facts.images

    def __getitem__(self, rows: np.ndarray | slice | int, /) -> np.ndarray:
        """The images of these rows in one call of the library. Raises DataError naming one that is damaged."""
        chosen = places(rows, len(self))
        numbers, size, stored = chosen.ravel().tolist(), prod(self.facts.shape), self.dtype.newbyteorder("<")
        pixels = np.empty((len(numbers), size), self.dtype)
        for place, (row, record) in enumerate(zip(numbers, self._read(numbers), strict=True)):
            if len(record) != size * self.dtype.itemsize + _CHECKSUM.size:
                raise self._damaged(f"image {row} has {len(record)} bytes")
            pixels[place] = np.frombuffer(self._verified(row, record, f"image {row}"), stored)
        return pixels.reshape(*chosen.shape, *self.facts.shape)

    def labels(self) -> Int32[np.ndarray, "n"] | None:
        """The labels of all images, if they have any."""
        if not self.facts.labelled:
            return None
        (record,) = self._read([self.facts.images])
        labels = np.frombuffer(self._verified(self.facts.images, record, "the record of its labels"), "<i4")
        if len(labels) != len(self) or not 0 <= labels.min() <= labels.max() < len(self.facts.class_names):
            raise self._damaged(f"there are {len(labels)} labels for {len(self)} images, or some are of no class")
        return labels.astype(np.int32)

    def verify(self) -> None:
        """Read every record, and compare all with the fingerprint. Raises DataError naming what is damaged."""
        found = Fingerprint(self.facts.shape)
        for start in range(0, len(self), _AT_ONCE):
            found.add(self[start : start + _AT_ONCE])
        self.labels()
        if str(found) != self.fingerprint:
            raise self._damaged("its images are not those of its fingerprint")

    def _read_facts(self) -> RecordFacts:
        last = self._reader.num_records() - 1
        (record,) = self._read([last])
        try:
            said = json.loads(bytes(self._verified(last, record, "its last record")))
            version = said["scorefield_records"]
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{self.path} is no file of prepared images; {_REMEDY}.") from None
        if version != FORMAT:
            raise DataError(f"{self.path} has the layout {version}, and {FORMAT} is read; {_REMEDY}, or upgrade.")
        known = {one.name for one in fields(RecordFacts)}
        try:
            facts = RecordFacts(**{key: _tuples(value) for key, value in said.items() if key in known})
            fits = facts.records == last + 1 and 0 <= facts.held_out < facts.images
            if fits and min(facts.shape) > 0 and facts.bits in (8, 16) and facts.well_typed():
                return facts
        except (TypeError, ValueError):
            pass
        raise self._damaged(f"it has {last + 1} records, which do not fit what it says of them")

    def _read(self, rows: list[int]) -> list[bytes]:
        if self._reader is None:
            self._reader = _open(self.path)
            if self._reader.num_records() != self.facts.records:
                raise self._damaged("it was replaced while it was read")
        if not rows:
            return []
        try:
            return self._reader.read(rows)
        except (RuntimeError, ValueError) as error:
            if len(rows) == 1:
                how = reason(error).partition(" (")[0]  # without the two hashes that differ
                raise self._damaged(f"record {rows[0]}: {how}") from None
        for row in rows:  # which of them it is
            self._read([row])
        raise self._damaged("records that can be read one by one cannot be read together")

    def _verified(self, number: int, record: bytes, what: str) -> memoryview:
        content = memoryview(record)[_CHECKSUM.size :]
        if record[: _CHECKSUM.size] != _CHECKSUM.pack(zlib.crc32(content, number)):
            raise self._damaged(f"{what} does not have its checksum")
        return content

    def _damaged(self, how: str) -> DataError:
        return DataError(f"{self.path} is damaged ({how}); restore it, or {_REMEDY}.")


def _open(path: Path) -> Any:
    """The library's reader, which by itself takes every file, missing ones too, and says that it has no records."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not is_record_file(path):
        raise DataError(f"{path} is no ArrayRecord file; give one that `scorefield data prepare` has written.")
    reader: Any = ArrayRecordReader(str(path), **_READING)
    if not reader.ok() or not reader.num_records():
        raise DataError(f"{path} is cut short, or damaged at its end; restore it, or {_REMEDY}.")
    return reader


def _little(images: Pixels) -> Pixels:
    """The images, C-ordered, as they lie in a file."""
    return np.ascontiguousarray(images, images.dtype.newbyteorder("<"))


def _sealed(number: int, content: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(content, number)) + content


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
