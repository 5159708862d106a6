"""The members of a zip, read in place: each by its offset, from one descriptor, by as many threads as want to.

`zipfile` reads the table of contents; its objects, a kilobyte for each member, are not kept.
Source: APPNOTE.TXT, 4.3.7.
"""

from __future__ import annotations

import io
import os
import struct
import weakref
import zipfile
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int64

from experiments.data.files import Names, Stamp, State
from experiments.errors import DataError, reason

MAX_FILE = 2**30
"""Bytes that one file of the archive may unpack to."""
_HEAD = struct.Struct("<4s22xHH")
_ENCRYPTED, _UTF_8 = 1, 0x800


class ZipFiles:
    """Some members of a zip file."""

    def __init__(self, path: str, infos: list[zipfile.ZipInfo]) -> None:
        """`infos` are theirs, of the archive at `path` as it is now."""
        self.path = path
        self._names = Names(info.filename for info in infos)
        columns = [
            (
                *(info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type),
                *(info.flag_bits, name_checksum(info)),
            )
            for info in infos
        ]
        self._table = np.array(columns, np.int64).reshape(-1, 7)
        self._absolute = os.path.abspath(path)
        self._open()
        self._state = self._now()

    def _open(self) -> None:
        self._descriptor = os.open(self._absolute, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def _now(self) -> State:
        status = os.fstat(self._descriptor)
        return ((status.st_size, status.st_mtime_ns),)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
        if self._now() != self._state:
            raise DataError(f"{self.path} has changed since this command read it; restore it, or start again.")

    @property
    def place(self) -> str:
        """The file from the root."""
        return f"zip:{os.path.realpath(self._absolute)}"

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        """The path within the archive, after that of the archive."""
        return f"{self.path}/{self._names[i]}"

    def open(self, i: int) -> io.BytesIO:
        """The whole member, its checksum verified. Raises DataError naming it."""
        return io.BytesIO(self.read(i)[0])

    def read(self, i: int) -> tuple[bytes, Stamp]:
        """(The member, its size and checksum, which have been verified). Raises DataError naming it."""
        offset, packed, size, checksum, method, flags, named = self._table[i].tolist()
        if size > MAX_FILE:
            raise DataError(f"{self.name(i)} unpacks to {size:,} bytes, above {MAX_FILE:,}; remove it.")
        if flags & _ENCRYPTED:
            raise DataError(f"{self.name(i)} is encrypted; write the zip anew without a password.")
        try:
            content = os.pread(self._descriptor, packed, member_start(self._descriptor, offset, named))
            content = _unpacked(content, method, size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error) as error:
            raise self._damaged(i, reason(error)) from None
        if len(content) != size or zlib.crc32(content) != checksum:
            raise self._damaged(i, "its CRC-32 is wrong")
        return content, (size, checksum)

    def _damaged(self, i: int, how: str) -> DataError:
        return DataError(f"{self.path} is not a whole zip file ({self._names[i]}: {how}); copy or write it again.")

    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Size and checksum of each."""
        return self._table[:, 2:4]

    def state(self) -> State:
        """That of the archive when it was opened."""
        return self._state

    def names(self) -> Names:
        """The paths within the archive."""
        return self._names

    def take(self, rows: Int64[np.ndarray, "m"]) -> ZipFiles:
        """Those of these rows."""
        taken = ZipFiles.__new__(ZipFiles)
        state = self.__getstate__()
        taken.__setstate__({**state, "_names": self._names.take(rows), "_table": self._table[rows]})
        return taken


def require_names(path: str, infos: Iterable[zipfile.ZipInfo]) -> None:
    """Raise BadZipFile where a member is called otherwise in the table of contents than in its own header.

    Of one that is read this is seen as it is read; one that is passed over may be so because of its damaged name.
    """
    with open(path, "rb") as file:
        for info in infos:
            member_start(file.fileno(), info.header_offset, name_checksum(info))


def name_checksum(info: zipfile.ZipInfo) -> int:
    """CRC-32 of the name of a member, as it stands in the table of contents; the format itself has none of names."""
    return zlib.crc32(info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437"))


def member_start(descriptor: int, header: int, named: int) -> int:
    """Where the bytes of a member begin whose own header is at `header`, and whose name has the checksum `named`.

    Raises BadZipFile where there is none, or it is of another name.
    """
    signature, name, extra = _HEAD.unpack(os.pread(descriptor, _HEAD.size, header))
    if signature != b"PK\3\4":
        raise zipfile.BadZipFile("its header is not where it should be")
    if zlib.crc32(os.pread(descriptor, name, header + _HEAD.size)) != named:
        raise zipfile.BadZipFile("its header has another name")
    return header + _HEAD.size + name + extra


def _unpacked(content: bytes, method: int, size: int) -> bytes:
    """At most a byte more than there should be."""
    if method == zipfile.ZIP_STORED:
        return content
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    if method == zipfile.ZIP_BZIP2:
        return BZ2Decompressor().decompress(content, size + 1)
    if method == zipfile.ZIP_LZMA:
        return zipfile.LZMADecompressor().decompress(content)  # pyright: ignore
    raise zipfile.BadZipFile(f"its compression is of an unknown kind, {method}")
