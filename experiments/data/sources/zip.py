"""Pictures in a zip file, with classes as `layout` says: in `dataset.json`, as in the EDM data sets, or by folders."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from experiments.data.config import DataConfig
from experiments.data.members import ZipFiles, require_names
from experiments.data.pictures import decode_images
from experiments.data.source import Source
from experiments.data.sources.layout import lay_out
from experiments.data.sources.paths import file_at
from experiments.errors import DataError, reason


def read(where: str, config: DataConfig) -> Source:
    """Every picture of the archive, in the order of its path; hidden files and `__MACOSX` are skipped."""
    path = file_at(where, "zip")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            files = [name for name in archive.namelist() if not name.endswith(("/", "\\"))]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(path, error) from None
    skip = config.on_bad == "skip"

    def unpack(name: str) -> bytes:
        return ZipFiles(str(path), [infos[name]]).read(0)[0]

    found = lay_out(files, str(path), unpack, kind="zip", rules=config.rules, skip=skip)
    if config.rules > 1:
        taken = {*found.names}
        try:
            require_names(str(path), (info for name, info in infos.items() if name not in taken))
        except (zipfile.BadZipFile, struct.error) as error:
            raise _damaged(path, error) from None
    members = ZipFiles(str(path), [infos[name] for name in found.names])
    del infos, files  # a kilobyte each
    return found.source(where, decode_images(members, config, str(path)))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a whole zip file ({reason(error)}); copy or write it again.")
