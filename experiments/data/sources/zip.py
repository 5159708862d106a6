"""Pictures in a zip file, with classes as `layout` says: in `dataset.json`, as in the EDM data sets, or by folders."""

from __future__ import annotations

import io
import zipfile
import zlib

from experiments.data.config import DataConfig
from experiments.data.decode import decode_images
from experiments.data.source import Source
from experiments.data.sources.layout import lay_out
from experiments.data.sources.paths import file_at
from experiments.errors import DataError, reason

MAX_FILE = 2**30
"""Bytes that one file of the archive may unpack to."""


def read(where: str, config: DataConfig) -> Source:
    """Every picture of the archive, in the order of its path; hidden files and `__MACOSX` are skipped."""
    path = file_at(where, "zip")
    try:
        with zipfile.ZipFile(path) as archive:
            files = [name for name in archive.namelist() if not name.endswith(("/", "\\"))]
            found = lay_out(
                files, str(path), lambda name: _unpack(archive, name).read(), kind="zip", rules=config.rules
            )
            decoded = decode_images(
                [f"{path}/{name}" for name in found.names],
                lambda i: _unpack(archive, found.names[i]),
                config,
                str(path),
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path} is not a whole zip file ({reason(error)}); copy or write it again.") from None
    return found.source(where, decoded)


def _unpack(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    """The whole file, its checksum verified."""
    info = archive.getinfo(name)
    if info.file_size > MAX_FILE:
        raise DataError(
            f"{archive.filename}/{name} unpacks to {info.file_size:,} bytes, above {MAX_FILE:,}; remove it."
        )
    if info.flag_bits & 1:
        raise DataError(f"{archive.filename}/{name} is encrypted; write the zip anew without a password.")
    return io.BytesIO(archive.read(info))
