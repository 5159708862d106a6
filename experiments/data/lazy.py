"""Images that are decoded when they are asked for: what such a source is, and views of it by rows.

A lazy source stands where an array of images does. Only whole images are asked for, by their rows; nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

VERSION = "2:"
"""What the fingerprint of a lazy source starts with. One without it, of the first version, is of the pixels."""


@runtime_checkable
class LazyImages(Protocol):
    """uint8 images (n, height, width, channels) that are decoded when their rows are asked for.

    An instance can be pickled, and be used by several threads and processes at once.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
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


class View:
    """The rows of a lazy source that a part of it has, in their order; no image is copied."""

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, images: LazyImages, rows: Int64[np.ndarray, "m"]) -> None:
        if isinstance(images, View):
            images, rows = images.images, images.rows[rows]
        self.images, self.rows = images, np.asarray(rows, np.int64)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(m, height, width, channels)."""
        return (len(self.rows), *self.images.shape[1:])

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


def blocks(images: np.ndarray | LazyImages, size: int = 256) -> Iterator[UInt8[np.ndarray, "m height width channels"]]:
    """All images in their order, `size` of them at a time, so that no more are in memory."""
    return (np.asarray(images[start : start + size]) for start in range(0, len(images), size))
