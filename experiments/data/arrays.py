"""Arrays of images as files hold them, converted to uint8 (n, height, width, channels) of one shape or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from experiments.data.config import DataConfig
from experiments.data.labels import check_labels
from experiments.data.shapes import fit, in_threads, pixels_of, require_memory, to_channels
from experiments.data.source import Source
from experiments.errors import DataError

_BLOCK = 32  # images converted at once, so that no wide copy of a whole data set is ever made


def from_arrays(
    config: DataConfig, images: np.ndarray, where: str, labels: np.ndarray | None = None, labels_where: str = ""
) -> Source:
    """The Source of `images` in any form that is accepted, in the shape that `config` asks for.

    `where` and `labels_where` name the arrays in the sentences. Raises DataError for images or labels that are not
    what `as_uint8`, `conform` and `check_labels` accept.
    """
    pixels = conform(as_uint8(images, where, config.rules), config, where)
    classes = None if labels is None else check_labels(labels, len(pixels), labels_where)
    return Source(name=where, images=pixels, labels=classes)


def paired(source: Source, held_out: Source | None) -> Source:
    """`source` with its own test split; both have the classes of the two together.

    Raises DataError unless they have one shape, and both labels or neither.
    """
    if held_out is None:
        return source
    if source.event_shape != held_out.event_shape:
        ours, theirs = ("×".join(map(str, part.event_shape)) for part in (source, held_out))
        raise DataError(
            f"{source.name} has images of {ours} and {held_out.name} of {theirs}; give --data.size and --data.channels."
        )
    if (source.labels is None) != (held_out.labels is None):
        one, other = (held_out, source) if source.labels is None else (source, held_out)
        raise DataError(f"{one.name} has labels and {other.name} has none; give labels for both or for neither.")
    names = max(source.class_names, held_out.class_names, key=len)
    return replace(source, class_names=names, held_out=replace(held_out, class_names=names))


class Levels(NamedTuple):
    """The least and the largest value of an array of images."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """What floats are multiplied by."""
        return 255.0 if self.high <= 1 else 1.0

    def must_be_whole(self, dtype: np.dtype, rules: int) -> bool:
        """Whether values with a fraction are refused."""
        return dtype.kind == "f" and rules > 1 and self.high > 1


def as_uint8(images: np.ndarray, where: str, rules: int = 2) -> UInt8[np.ndarray, "n height width channels"]:
    """`images` (n, h, w) or (n, h, w, c), c = 1 or 3, as bytes with a channel axis.

    Booleans are 0 and 255. Integers are taken as they are and must lie in 0..255. Floats that all lie in [0, 1] are
    scaled by 255 and rounded; others must be whole numbers of 0..255, or by `rules` 1 are rounded to them. Raises
    DataError naming `where`.
    """
    images = images.reshape(with_channels(images.shape, where))
    return to_levels(images, levels_of(images, where), where, rules)


def with_channels(shape: tuple[int, ...], where: str) -> tuple[int, int, int, int]:
    """(n, height, width, channels) of an array (n, h, w) or (n, h, w, c). Raises DataError for any other."""
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4:
        raise DataError(f"{where} has shape {shape}; give (n, height, width) or (n, height, width, 3).")
    if 0 in shape:
        raise DataError(f"{where} has shape {shape} and so no pixels; give at least one image.")
    if shape[-1] not in (1, 3):
        first = shape[1] in (1, 3)
        remedy = "move the channels last with transpose(0, 2, 3, 1)" if first else "give 1 (grey) or 3 (RGB) channels"
        raise DataError(f"{where} has shape {shape}; {remedy}.")
    n, height, width, channels = shape
    return n, height, width, channels


def levels_of(images: np.ndarray, where: str, first: int = 0, before: Levels | None = None) -> Levels:
    """The levels of `images` and those `before` them; the number of the first is `first`.

    Raises DataError for values that are none of pixels.
    """
    kind = images.dtype
    if kind == np.uint8 or kind.kind == "b":
        return Levels(0, 255)
    if kind.kind not in "iuf":
        raise DataError(f"{where} holds {kind} values; give uint8, or floats in [0, 1].")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # also when either is not a number
        if bad := np.count_nonzero(~np.isfinite(images)):
            place = first + int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
            raise DataError(
                f"{where} holds {bad:,} values that are not finite numbers, the first in image {place}; leave such "
                "images out, or mend them."
            )
        near = kind.kind == "f" and low > -0.5 and high < 1.5
        remedy = "clip them to [0, 1]" if near else "scale them to 0..255 or [0, 1]"
        raise DataError(f"{where} holds {kind} values from {low:.5g} to {high:.5g}; {remedy}.")
    low, high = float(low), float(high)
    return Levels(low, high) if before is None else Levels(min(low, before.low), max(high, before.high))


def to_levels(
    images: np.ndarray, levels: Levels, where: str, rules: int
) -> UInt8[np.ndarray, "n height width channels"]:
    """Images whose whole array has these levels as bytes, as `as_uint8` says; the same array where they are."""
    kind = images.dtype
    if kind == np.uint8:
        return images
    if kind.kind == "b":
        return images.astype(np.uint8) * np.uint8(255)
    if kind.kind != "f":
        return images.astype(np.uint8)
    pixels = np.empty(images.shape, np.uint8)
    for i in range(0, len(images), _BLOCK):
        values = images[i : i + _BLOCK].astype(np.float64) * levels.scale
        pixels[i : i + _BLOCK] = np.rint(values)
        if levels.must_be_whole(kind, rules) and np.any(values != pixels[i : i + _BLOCK]):
            raise DataError(
                f"{where} holds {kind} values from {levels.low:.4g} to {levels.high:.4g}, not all of them whole; clip "
                "them to [0, 1], or round them if they are of 0..255."
            )
    return pixels


def target_of(shape: tuple[int, int, int, int], config: DataConfig) -> tuple[int, int, int]:
    """(height, width, channels) that `config` asks for of images of this shape."""
    return config.size or shape[1], config.size or shape[2], config.channels or shape[3]


def conform(
    images: UInt8[np.ndarray, "n height width channels"], config: DataConfig, where: str
) -> UInt8[np.ndarray, "n h w c"]:
    """`images` with the channels, size and crop of `config`; the same array where nothing has to change."""
    n, height, width, channels = images.shape
    target = target_of((n, height, width, channels), config)
    require_memory((n, *target), config, where)
    if target == images.shape[1:]:
        return images
    pixels = np.empty((n, *target), np.uint8)

    def convert(i: int) -> None:
        block = slice(i * _BLOCK, (i + 1) * _BLOCK)
        pixels[block] = converted(images[block], target, config)

    in_threads(convert, -(-n // _BLOCK), block=1)
    return pixels


def converted(
    images: UInt8[np.ndarray, "n height width channels"], target: tuple[int, int, int], config: DataConfig
) -> UInt8[np.ndarray, "n h w c"]:
    """A few images with the channels, then the size and crop of the `target`."""
    recoloured = to_channels(images, target[2])
    return recoloured if target[:2] == images.shape[1:3] else _resized(recoloured, config)


def _resized(images: UInt8[np.ndarray, "n h w c"], config: DataConfig) -> UInt8[np.ndarray, "n size size c"]:
    from PIL import Image

    grey = images.shape[-1] == 1
    return np.stack([pixels_of(fit(Image.fromarray(i[..., 0] if grey else i), config)) for i in images])
