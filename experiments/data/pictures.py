"""All pictures of a data set: decoded into one array on several threads, or, where they are too many, as they are used.

In both forms image i is the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from diffusion.pytree import short_repr
from experiments.data.colour import Treatment
from experiments.data.config import DataConfig
from experiments.data.decode import Header, decode_picture, read_header, silence_warnings, without_warning
from experiments.data.files import Files, unreadable
from experiments.data.index import Index, index_of, kept_index
from experiments.data.lazy import VERSION, LazyImages, places
from experiments.data.shapes import in_threads, pixel_type, read_lazily
from experiments.data.source import Pixels
from experiments.errors import DataError, PictureError
from experiments.names import counted, listed

Shape = tuple[int, int, int]
"""(height, width, channels)."""
_ELSEWHERE = ("source", "flip", "held_out", "label_column", "seed", "memory_gib", "loading", "on_bad")
"""Fields of DataConfig that do not change the pixels of an image."""
_NAMED = 3  # of the pictures that are left out


class Decoded(NamedTuple):
    """Pictures, and what a person should know of how they were decoded."""

    images: Pixels | LazyImages
    notes: tuple[str, ...]
    kept: Int64[np.ndarray, "n"] | None = None
    """Which of the files they are, where some were left out."""
    bad: tuple[str, ...] = ()
    """Why each of those was, where they are decoded as they are used."""

    __repr__ = short_repr


def decode_images(files: Files, config: DataConfig, where: str) -> Decoded:
    """All pictures as `config` wants them; lazily where they would be more than `config.memory_gib`.

    Raises DataError for a file that is not a picture, is damaged or is too large, unless `config.on_bad` says that
    such are left out; for pictures of different shapes without `config.size`; and when all together are more than
    `config.memory_gib` and are to be in memory.
    """
    with without_warning():
        index = kept_index(files, config) if config.loading == "auto" else None
        if index is None and config.loading != "lazy":
            headers, kept = _headers(files, config, where)
            shape = _shape_of(files, kept, headers, config)
            if not read_lazily((len(kept), *shape), config, where):
                return _in_memory(files, kept, shape, config, where)
        index = index_of(files, config) if index is None else index
        _refuse_bad(files, index, config)
        kept = np.flatnonzero(~index.bad)
        if not len(kept):
            raise _none_left(where)
        files_kept, index_kept = (files, index) if len(kept) == len(files) else (files.take(kept), index.take(kept))
        shape = _indexed_shape(files_kept, index_kept, config)
        if not read_lazily((len(kept), *shape), config, where):
            return _in_memory(files, kept, shape, config, where)
    notes = (*_profile_notes(index_kept.treatments), *_left_out(files, kept))
    bad = tuple(_why(files, i, config) for i in np.flatnonzero(index.bad).tolist())
    return Decoded(LazyPictures(files_kept, shape, config, index_kept), notes, _some(kept, len(files)), bad)


class LazyPictures:
    """Pictures that are decoded when they are asked for, on the thread that asks."""

    ndim = 4

    def __init__(self, files: Files, shape: Shape, config: DataConfig, index: Index) -> None:
        """`index` is that of `files`, all of which can be read."""
        self.files, self._config, self._event_shape, self.dtype = files, config, shape, pixel_type(config)
        self._stamps = index.stamps
        self._marks = index.hashes[:, :8].copy()  # enough to know a file by that was only touched
        self.fingerprint = _fingerprint(index, shape, config)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        return (len(self.files), *self._event_shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: np.ndarray | slice | int, /) -> np.ndarray:
        """The pictures of these rows. Raises DataError naming one that has changed, has vanished or is damaged."""
        silence_warnings()
        chosen = places(rows, len(self))
        images = np.empty((chosen.size, *self._event_shape), self.dtype)
        for place, i in enumerate(chosen.ravel().tolist()):
            images[place] = self._picture(i)
        return images.reshape(*chosen.shape, *self._event_shape)

    def _picture(self, i: int) -> np.ndarray:
        content, stamp = self.files.read(i)
        name = self.files.name(i)
        if (
            stamp != tuple(self._stamps[i].tolist())
            and hashlib.sha256(content).digest()[:8] != self._marks[i].tobytes()
        ):
            raise DataError(f"{name} has changed since this command read it first; restore it, or start again.")
        pixels = decode_picture(lambda: io.BytesIO(content), name, self._event_shape[2], self._config)[0]
        if pixels.shape != self._event_shape:
            raise _mixed(name, pixels.shape, "the data set", self._event_shape)
        return pixels


def _headers(files: Files, config: DataConfig, where: str) -> tuple[list[Header], Int64[np.ndarray, "n"]]:
    """(What the headers say, of which files): of all of them, or of those that can be read."""

    def look(i: int) -> Header | None:
        try:
            return read_header(lambda: files.open(i), files.name(i), config)
        except DataError as error:
            if config.on_bad == "refuse":
                raise PictureError(str(error)) from None
            return None

    found = in_threads(look, len(files))
    kept = np.array([i for i, header in enumerate(found) if header is not None], np.int64)
    if not len(kept):
        raise _none_left(where)
    return [header for header in found if header is not None], kept


def _shape_of(files: Files, kept: Int64[np.ndarray, "n"], headers: Sequence[Header], config: DataConfig) -> Shape:
    """The one shape of all images. Raises DataError where it is not one and `config.size` does not make it so."""
    first = headers[0]
    for i, header in zip(kept.tolist(), headers, strict=True):
        if config.size is None and header[:2] != first[:2]:
            raise _mixed(files.name(int(kept[0])), first[:2], files.name(i), header[:2])
    return _target(first[:2], all(header.grey for header in headers), config)


def _indexed_shape(files: Files, index: Index, config: DataConfig) -> Shape:
    first = (int(index.sizes[0, 0]), int(index.sizes[0, 1]))
    if config.size is None:
        for i in np.flatnonzero((index.sizes != index.sizes[0]).any(1))[:1].tolist():
            raise _mixed(files.name(0), first, files.name(i), index.sizes[i].tolist())
        for i in np.flatnonzero(index.late)[:1].tolist():
            raise _mixed(files.name(i), first[::-1], "its header", first)
    return _target(first, bool(index.grey.all()), config)


def _target(size: tuple[int, int], grey: bool, config: DataConfig) -> Shape:
    height, width = config.shape or size
    return height, width, config.channels or (1 if grey else 3)


def _in_memory(files: Files, kept: Int64[np.ndarray, "n"], shape: Shape, config: DataConfig, where: str) -> Decoded:
    images, known = np.empty((len(kept), *shape), pixel_type(config)), kept.tolist()

    def decode(k: int) -> Treatment | None:
        name = files.name(known[k])
        try:
            pixels, profile = decode_picture(lambda: files.open(known[k]), name, shape[2], config)
        except DataError as error:
            if config.on_bad == "refuse":
                raise PictureError(str(error)) from None
            return None
        if pixels.shape != shape:  # an orientation that stands behind the pixels
            raise _mixed(name, pixels.shape, "its header", shape)
        images[k] = pixels
        return profile

    found = in_threads(decode, len(kept))
    good = np.array([k for k, profile in enumerate(found) if profile is not None], np.int64)
    if not len(good):
        raise _none_left(where)
    if len(good) < len(kept):
        for start in range(0, len(good), 64):  # in place, for there may be no room for two
            images[start : start + 64][: len(good) - start] = images[good[start : start + 64]]
        images, kept = images[: len(good)], kept[good]
    notes = (*_profile_notes(Counter(found)), *_left_out(files, kept))
    return Decoded(images, notes, _some(kept, len(files)))


def _fingerprint(index: Index, shape: Shape, config: DataConfig) -> str:
    """Of the contents of the files in their order, and of what makes pixels of them.

    A field of `config` that has its default is not named, so that one that is new changes nothing.
    """
    default = asdict(DataConfig())
    said = {k: v for k, v in asdict(config).items() if k not in _ELSEWHERE and v != default.get(k)}
    digest = hashlib.sha256(repr((len(index.flags), shape, sorted(said.items()))).encode())
    digest.update(np.ascontiguousarray(index.hashes).data)
    return VERSION + digest.hexdigest()


def _refuse_bad(files: Files, index: Index, config: DataConfig) -> None:
    """Raise DataError for the first picture that cannot be read, unless such are left out."""
    if config.on_bad == "skip":
        return
    if index.bad.any():
        raise PictureError(_why(files, int(np.argmax(index.bad)), config))


def _why(files: Files, i: int, config: DataConfig) -> str:
    """Why a picture that is marked as bad cannot be read."""
    name = files.name(i)
    try:
        read_header(lambda: files.open(i), name, config)
        decode_picture(lambda: files.open(i), name, 3, config)
    except DataError as error:
        return str(error)
    except OSError as error:
        return str(unreadable(name, error))
    return f"{name} could not be read, and now can; start again."


def _profile_notes(profiles: Mapping[Treatment | None, int]) -> Iterator[str]:
    said: dict[Treatment, str] = {
        "converted": "converted to sRGB",
        "ignored": "ignored: broken, or of other pixels",
        "wide": "ignored: of 16 bits, which are kept",
    }
    for treatment, how in said.items():
        if count := profiles[treatment]:
            yield f"{counted(count, 'colour profile')} {how}"


def _left_out(files: Files, kept: Int64[np.ndarray, "n"]) -> Iterator[str]:
    if len(kept) < len(files):
        gone = np.setdiff1d(np.arange(len(files)), kept)
        first = listed([files.names()[i] for i in gone[:_NAMED].tolist()])
        more = " …" * (len(gone) > _NAMED)
        yield f"{counted(len(gone), 'picture')} left out that cannot be read ({first}{more})"


def _some(kept: Int64[np.ndarray, "n"], count: int) -> Int64[np.ndarray, "n"] | None:
    return None if len(kept) == count else kept


def _none_left(where: str) -> DataError:
    return DataError(f"none of the pictures of {where} can be read; restore them, or give others.")


class SizesError(DataError):
    """Pictures of several sizes, and none that they are to be brought to."""


def _mixed(first: str, shape: Sequence[int], second: str, other: Sequence[int]) -> SizesError:
    one, two = ("×".join(map(str, s[:2])) for s in (shape, other))
    return SizesError(
        f"{first} is {one} (height×width) and {second} is {two}; give --data.size to crop and resize all to one shape."
    )
