"""Pictures brought to one shape, within the memory that is allowed, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import UInt8

from experiments.data.config import DataConfig
from experiments.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


def require_memory(shape: tuple[int, ...], config: DataConfig, where: str) -> None:
    """Raise DataError when that many bytes are more than `config.memory_gib`."""
    gib = prod(shape) / 2**30
    if gib > config.memory_gib:
        size = "×".join(map(str, shape))
        raise DataError(
            f"{where} is {gib:.3g} GiB of pixels ({size}), above --data.memory-gib {config.memory_gib:g}; "
            "raise the limit if the machine has the memory, or take fewer or smaller images (--data.size)."
        )


def read_lazily(shape: tuple[int, ...], config: DataConfig, where: str) -> bool:
    """Whether images of this shape (n, h, w, c) are decoded when they are asked for: beyond `config.memory_gib`.

    Raises DataError as `require_memory` does where `config.loading` wants them in memory.
    """
    if config.loading == "memory":
        require_memory(shape, config, where)
    return config.loading == "lazy" or (config.loading == "auto" and prod(shape) > config.memory_gib * 2**30)


def fit(picture: Image, config: DataConfig) -> Image:
    """`picture` as `config.size` × `config.size` pixels: its central square ("center"), or all of it ("none")."""
    from PIL.Image import Resampling

    if config.size is None or picture.size == (config.size, config.size):
        return picture
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if config.crop == "center" else (0, 0, width, height)
    return picture.resize((config.size, config.size), Resampling.LANCZOS, box=box)


def pixels_of(picture: Image) -> UInt8[np.ndarray, "height width channels"]:
    """The bytes of an 8-bit grey or RGB picture, with a channel axis."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def to_channels(
    images: UInt8[np.ndarray, "n height width channels"], channels: int
) -> UInt8[np.ndarray, "n height width c"]:
    """Grey to RGB by repetition, RGB to grey by the luma 0.299 R + 0.587 G + 0.114 B of ITU-R BT.601, rounded.

    The weights are 16-bit fixed-point numbers that add up to 1, the same as Pillow's: equal channels keep their value.
    """
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, axis=-1)
    wide = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((wide + 0x8000) >> 16).astype(np.uint8)[..., None]


def in_threads(work: Callable[[int], T], count: int, block: int = 32) -> list[T]:
    """`work` of 0..count−1 in order; of several errors the first in that order is raised, and the rest is dropped.

    A thread takes `block` of them at a time.
    """
    blocks = [range(i, min(i + block, count)) for i in range(0, count, block)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode") as executor:
        done = executor.map(lambda numbers: [work(i) for i in numbers], blocks)
        return [result for results in done for result in results]
