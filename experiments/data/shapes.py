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
from experiments.data.source import Pixels
from experiments.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


def pixel_type(config: DataConfig) -> np.dtype:
    """uint8 or, under `config.bits` 16, uint16."""
    return np.dtype(np.uint16 if config.bits == 16 else np.uint8)


def require_memory(shape: tuple[int, ...], config: DataConfig, where: str, dtype: np.dtype | None = None) -> None:
    """Raise DataError when that many numbers, by default pixels, are more than `config.memory_gib`."""
    gib = pixels_gib(shape, config, dtype)
    if gib > config.memory_gib:
        size = "×".join(map(str, shape))
        raise DataError(
            f"{where} is {gib:.3g} GiB ({size}), above --data.memory-gib {config.memory_gib:g}; "
            "raise the limit if the machine has the memory, or take fewer or smaller images (--data.size)."
        )


def read_lazily(shape: tuple[int, ...], config: DataConfig, where: str, dtype: np.dtype | None = None) -> bool:
    """Whether images of this shape, by default of pixels, are decoded when they are asked for: beyond
    `config.memory_gib`.

    Raises DataError as `require_memory` does where `config.loading` wants them in memory.
    """
    if config.loading == "memory":
        require_memory(shape, config, where, dtype)
    return config.loading == "lazy" or (
        config.loading == "auto" and pixels_gib(shape, config, dtype) > config.memory_gib
    )


def pixels_gib(shape: tuple[int, ...], config: DataConfig, dtype: np.dtype | None = None) -> float:
    """GiB of that many numbers, by default pixels."""
    return prod(shape) * (dtype or pixel_type(config)).itemsize / 2**30


def fit(picture: Image, config: DataConfig) -> Image:
    """`picture` in the size of `config`: its middle in the proportions of the size ("center"), all of it squeezed
    ("none"), or all of it in its own proportions, in the middle, its outermost pixels repeated beyond ("pad").
    """
    from PIL import Image
    from PIL.Image import Resampling

    shape = config.shape
    if shape is None or picture.size == (shape[1], shape[0]):
        return picture
    (wide, tall), (rows, columns) = picture.size, shape
    if config.crop == "pad":
        part = min(columns / wide, rows / tall)
        inner = max(1, min(columns, round(part * wide))), max(1, min(rows, round(part * tall)))
        whole = np.asarray(picture.resize(inner, Resampling.LANCZOS))
        left, top = (columns - inner[0]) // 2, (rows - inner[1]) // 2
        around = ((top, rows - inner[1] - top), (left, columns - inner[0] - left), (0, 0))
        return Image.fromarray(np.pad(whole, around[: whole.ndim], mode="edge"))
    box = (0, 0, wide, tall)
    if config.crop == "center":
        width, height = min(wide, max(1, round(tall * columns / rows))), min(tall, max(1, round(wide * rows / columns)))
        left, top = (wide - width) // 2, (tall - height) // 2
        box = (left, top, left + width, top + height)
    return picture.resize((columns, rows), Resampling.LANCZOS, box=box)


def fit_wide(pixels: np.ndarray, config: DataConfig) -> np.ndarray:
    """`fit` of pixels (height, width, channels) of any number of channels and of 16 bits too, rounded, in their type.

    Each channel is resized by itself, in floating point, for Pillow resizes no more than 8 bits of colour.
    """
    from PIL import Image

    if config.shape is None or pixels.shape[:2] == config.shape:
        return pixels
    channels = np.moveaxis(pixels, -1, 0).astype(np.float32)
    parts = [np.asarray(fit(Image.fromarray(channel), config)) for channel in channels]
    return np.stack(parts, axis=-1).round().clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def pixels_of(picture: Image) -> UInt8[np.ndarray, "height width channels"]:
    """The bytes of an 8-bit grey or RGB picture, with a channel axis."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def to_channels(images: Pixels, channels: int) -> Pixels:
    """Grey to RGB by repetition, RGB to grey by the luma 0.299 R + 0.587 G + 0.114 B of ITU-R BT.601, rounded.

    The weights are 16-bit fixed-point numbers that add up to 1, the same as Pillow's: equal channels keep their value.
    """
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, axis=-1)
    wide = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)  # below 2^32, also of 16 bits
    return ((wide + 0x8000) >> 16).astype(images.dtype)[..., None]


def in_threads(work: Callable[[int], T], count: int, block: int = 32) -> list[T]:
    """`work` of 0..count−1 in order; of several errors the first in that order is raised, and the rest is dropped.

    A thread takes `block` of them at a time.
    """
    blocks = [range(i, min(i + block, count)) for i in range(0, count, block)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode") as executor:
        done = executor.map(lambda numbers: [work(i) for i in numbers], blocks)
        return [result for results in done for result in results]
