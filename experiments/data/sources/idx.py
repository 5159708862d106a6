"""The IDX files of MNIST and its relatives: a big-endian header, then bytes; gzipped or not, as their content shows.

    train-images-idx3-ubyte[.gz]   magic 0x00000803, count, height, width, pixels
    train-labels-idx1-ubyte[.gz]   magic 0x00000801, count, labels
    t10k-…                         the same for the held-out split

Only the first is needed. Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from experiments.data.arrays import from_arrays, paired
from experiments.data.config import DataConfig
from experiments.data.inplace import Stored, StoredImages, cannot_be_read_in_place, from_lazy, too_large_for_memory
from experiments.data.shapes import require_memory
from experiments.data.source import Source
from experiments.data.sources.paths import folder_at
from experiments.data.unpack import unpacked, unpacks
from experiments.errors import DataError, reason


def read(where: str, config: DataConfig) -> Source:
    """The `train` files of a folder; its `t10k` files, if there are any, are held out."""
    folder = folder_at(where, "idx")
    source = _read_split(folder, "train", config)
    if source is None:
        raise DataError(f"{folder} holds no train-images-idx3-ubyte or .gz; give the folder of the IDX files.")
    return paired(source, _read_split(folder, "t10k", config))


def read_idx(path: Path, dimensions: int, config: DataConfig) -> UInt8[np.ndarray, "..."]:
    """The array of bytes in an IDX file of that many dimensions.

    Raises DataError for another magic number, a file that is too short, too long or damaged, and one above
    `config.memory_gib`.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read_bytes(raw, path, dimensions, config)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _read_bytes(unpacked, path, dimensions, config)
    except EOFError:
        raise _cut_short(path, "its compressed data end early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, error) from None


def _read_bytes(file: gzip.GzipFile | io.BufferedReader, path: Path, dimensions: int, config: DataConfig) -> np.ndarray:
    header = file.read(4 + 4 * dimensions)
    magic, wanted = header[:4], bytes((0, 0, 8, dimensions))  # 8 says: unsigned bytes
    if len(magic) == 4 and magic != wanted:
        kind = "images" if dimensions == 3 else "labels"
        raise DataError(
            f"{path} starts with the magic number 0x{magic.hex()} and not 0x{wanted.hex()}; give an IDX file of {kind}."
        )
    if len(header) < 4 + 4 * dimensions:
        raise _cut_short(path, f"its header has {len(header)} of {4 + 4 * dimensions} bytes")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    require_memory(shape, config, str(path), np.dtype(np.uint8))
    values, done = np.empty(prod(shape), np.uint8), 0
    while done < len(values) and (count := file.readinto(values[done:].data)):
        done += count
    if done < len(values):
        raise _cut_short(path, f"{done:,} of the {len(values):,} bytes that its header promises are there")
    if file.read(1):
        raise DataError(f"{path} goes on after its {len(values):,} bytes of data; copy or download it again.")
    return values.reshape(shape)


def _read_split(folder: Path, part: str, config: DataConfig) -> Source | None:
    images, labels = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    if images is None:
        return None
    classes = None if labels is None else read_idx(labels, 1, config)
    lazy = _lazily(images, config)
    if lazy is None:
        source = from_arrays(config, read_idx(images, 3, config), str(images), classes, str(labels))
    else:
        source = from_lazy(lazy, str(images), classes, str(labels))
    return replace(source, hint=f"; no {part}-labels-idx1-ubyte or .gz lies beside its images")


def _lazily(path: Path, config: DataConfig) -> StoredImages | None:
    """The images read in place, where they are too many for memory; None of others, and of what `read_idx` refuses."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            header = (gzip.GzipFile(fileobj=raw) if packed else raw).read(16)
        except (EOFError, OSError, zlib.error):
            return None
        length = os.fstat(raw.fileno()).st_size
    if len(header) < 16 or header[:4] != b"\0\0\x08\x03":
        return None
    shape = struct.unpack(">3I", header[4:])
    if 0 in shape or not too_large_for_memory(shape, np.dtype(np.uint8), config, str(path)):
        return None
    stored = Stored(path, 16, shape, np.dtype(np.uint8))
    if not packed:
        images = StoredImages(stored, config, str(path))
        return _not_longer(images, path, length, shape)
    if not unpacks():
        raise cannot_be_read_in_place(str(path), "compressed", shape, np.dtype(np.uint8), config)
    try:
        with gzip.open(path) as file, unpacked(file.read, 16 + prod(shape), str(path)) as found:
            images = StoredImages(replace(stored, unpacked=found), config, str(path))
            return _not_longer(images, path, os.fstat(found).st_size, shape)
    except EOFError:
        raise _cut_short(path, "its compressed data end early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, error) from None


def _not_longer(images: StoredImages, path: Path, length: int, shape: tuple[int, ...]) -> StoredImages:
    if length > 16 + prod(shape):
        raise DataError(f"{path} goes on after its {prod(shape):,} bytes of data; copy or download it again.")
    return images


def _find(folder: Path, stem: str, dimensions: int) -> Path | None:
    """The file of that stem; unpacked before packed, with `-` or, as some archives have it, `.` before idx."""
    names = [f"{stem}{dash}idx{dimensions}-ubyte{end}" for end in ("", ".gz") for dash in "-."]
    return next((folder / name for name in names if (folder / name).exists()), None)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is a damaged gzip file ({reason(error)}); copy or download it again.")


def _cut_short(path: Path, how: str) -> DataError:
    return DataError(f"{path} is cut short: {how}; copy or download it again.")
