"""Images that are decoded when they are asked for: what such a source is, and views of it by rows.

A lazy source stands where an array of images does. Only whole images are asked for, by their rows; nothing is kept.
"""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

VERSION = "2:"
"""What the fingerprint of a lazy source starts with. One without it, of the first version, is of the pixels."""


@runtime_checkable
class LazyImages(Protocol):
    """uint8 or uint16 images (n, height, width, channels) that are decoded when their rows are asked for.

    An instance can be pickled, and be used by several threads and processes at once.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """uint8, or uint16 of 16 bits."""
        ...

    @property
    def ndim(self) -> int:
        """4."""
        ...

    @property
    def fingerprint(self) -> str:
        """`VERSION` and the SHA-256, in hex, of the hashes of the contents and of what is done to them."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, rows: np.ndarray | slice | int, /) -> np.ndarray:
        """The images of these rows, decoded now, in a new array: (m, h, w, c), or (h, w, c) for an integer.

        Raises DataError naming a file that has changed, has vanished or cannot be decoded.
        """
        ...


def places(rows: np.ndarray | slice | int, count: int) -> Int64[np.ndarray, "..."]:
    """The numbers, from 0, of the rows that are asked for, of `count`. Raises IndexError for one beyond them."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    wanted = np.asarray(rows)
    if wanted.dtype.kind == "b":
        return np.arange(count)[wanted]
    if wanted.size and (wanted.min() < -count or wanted.max() >= count):
        raise IndexError(f"there are {count} images, and rows {wanted.min()} to {wanted.max()} were asked for")
    return np.asarray(np.where(wanted < 0, wanted + count, wanted), np.int64)


class View:
    """The rows of a lazy source that a part of it has, in their order; no image is copied."""

    ndim = 4

    def __init__(self, images: LazyImages, rows: Int64[np.ndarray, "m"]) -> None:
        if isinstance(images, View):
            images, rows = images.images, images.rows[rows]
        self.images, self.rows, self.dtype = images, np.asarray(rows, np.int64), images.dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(m, height, width, channels)."""
        _, height, width, channels = self.images.shape
        return len(self.rows), height, width, channels

    @property
    def fingerprint(self) -> str:
        """Of the whole and the rows."""
        digest = hashlib.sha256(f"rows of {self.images.fingerprint}".encode())
        digest.update(np.ascontiguousarray(self.rows, "<i8").data)
        return VERSION + digest.hexdigest()

    def __len__(self) -> int:
        """m."""
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray | slice | int, /) -> np.ndarray:
        """The images at these places of the view."""
        return self.images[self.rows[rows]]


class Mirrored:
    """The images of a lazy source, and after them the mirror image of each."""

    ndim = 4

    def __init__(self, images: LazyImages) -> None:
        self.images, self.dtype = images, images.dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(2 n, height, width, channels)."""
        _, height, width, channels = self.images.shape
        return len(self), height, width, channels

    @property
    def fingerprint(self) -> str:
        """Of the images, mirrored."""
        return VERSION + hashlib.sha256(f"mirrored {self.images.fingerprint}".encode()).hexdigest()

    def __len__(self) -> int:
        """2 n."""
        return 2 * len(self.images)

    def __getitem__(self, rows: np.ndarray | slice | int, /) -> np.ndarray:
        """The images at these places; those from n on are mirrored left to right."""
        chosen = places(rows, len(self))
        images = self.images[chosen % len(self.images)]
        mirrored = chosen >= len(self.images)
        if chosen.ndim == 0:
            return images[:, ::-1] if mirrored else images
        images[mirrored] = images[mirrored, :, ::-1]
        return images
