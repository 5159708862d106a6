"""Pictures in a zip file, with labels in `dataset.json`: the layout of the EDM data sets."""

from __future__ import annotations

import io
import zipfile
import zlib
from itertools import pairwise

from experiments.data.config import DataConfig
from experiments.data.decode import EXTENSIONS, decode_images
from experiments.data.labels import manifest_labels
from experiments.data.source import Source
from experiments.data.sources.folder import MANIFEST, is_picture
from experiments.data.sources.paths import file_at
from experiments.errors import DataError, reason

MAX_FILE = 2**30
"""Bytes that one file of the archive may unpack to."""


def read(where: str, config: DataConfig) -> Source:
    """Every picture of the archive, in the order of its path; hidden files and `__MACOSX` are skipped.

    Labels come from `dataset.json`, {"labels": [["00000/img.png", 3], …]}; without it, or with null, there are none.
    """
    path = file_at(where, "zip")
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if is_picture(name))
            if not names:
                raise DataError(f"{path} holds no pictures; give a zip of {', '.join(sorted(EXTENSIONS))} files.")
            twice = [name for name, after in pairwise(names) if name == after]
            if twice:
                raise DataError(f"{path} holds {twice[0]} twice; write the zip anew.")
            labels = None
            if MANIFEST in archive.namelist():
                labels = manifest_labels(_unpack(archive, MANIFEST).read(), names, f"{path}/{MANIFEST}")
            images = decode_images(
                [f"{path}/{name}" for name in names], lambda i: _unpack(archive, names[i]), config, str(path)
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path} is not a whole zip file ({reason(error)}); copy or write it again.") from None
    return Source(name=where, images=images, labels=labels)


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
