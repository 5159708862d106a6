"""Arrays of images as files hold them, converted to bytes (n, height, width, channels) of one shape or refused.

Under `--data.bits 16` they are converted to uint16: bytes are multiplied by 257, so that white stays white.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from experiments.data.config import MOST_CHANNELS, DataConfig
from experiments.data.labels import check_labels
from experiments.data.shapes import fit, fit_wide, in_threads, pixel_type, pixels_of, require_memory, to_channels
from experiments.data.source import Pixels, Source
from experiments.errors import DataError

_BLOCK = 32  # images converted at once, so that no wide copy of a whole data set is ever made


def from_arrays(
    config: DataConfig, images: np.ndarray, where: str, labels: np.ndarray | None = None, labels_where: str = ""
) -> Source:
    """The Source of `images` in any form that is accepted, in the shape that `config` asks for.

    `where` and `labels_where` name the arrays in the sentences. Raises DataError for images or labels that are not
    what `as_pixels`, `conform` and `check_labels` accept.
    """
    pixels = conform(as_pixels(images, where, config), config, where)
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

    def scale(self, white: int) -> float:
        """What floats are multiplied by."""
        return float(white) if self.high <= 1 else 1.0

    def must_be_whole(self, dtype: np.dtype, rules: int) -> bool:
        """Whether values with a fraction are refused."""
        return dtype.kind == "f" and rules > 1 and self.high > 1


def as_pixels(images: np.ndarray, where: str, config: DataConfig) -> Pixels:
    """`images` (n, h, w) or (n, h, w, c) as bytes with a channel axis, or as uint16 under `config.bits` 16.

    Booleans are 0 and 255. Integers are taken as they are and must lie in 0..255. Floats that all lie in [0, 1] are
    scaled by 255 and rounded; others must be whole numbers of 0..255, or by `config.rules` 1 are rounded to them. With
    16 bits it is 65535 in the place of 255, but uint8 is multiplied by 257. Channels are 1, 3, as many as
    `config.channels` says, or fewer than there are pixels in a side. Raises DataError naming `where`.
    """
    images = images.reshape(with_channels(images.shape, where, config))
    return to_levels(images, levels_of(images, where, config), where, config)


def with_channels(shape: tuple[int, ...], where: str, config: DataConfig) -> tuple[int, int, int, int]:
    """(n, height, width, channels) of an array (n, h, w) or (n, h, w, c). Raises DataError for any other."""
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4:
        raise DataError(f"{where} has shape {shape}; give (n, height, width) or (n, height, width, 3).")
    if 0 in shape:
        raise DataError(f"{where} has shape {shape} and so no pixels; give at least one image.")
    n, height, width, channels = shape
    _require_channels((n, height, width, channels), where, config)
    return n, height, width, channels


def _require_channels(shape: tuple[int, int, int, int], where: str, config: DataConfig) -> None:
    """Raise DataError where the last axis does not seem to be the channels, or they are not those asked for."""
    given, asked = shape[-1], config.channels
    if given in (1, 3) and asked in (None, 1, 3, given):
        return
    if asked not in (None, 1, 3):
        if given != asked:
            raise DataError(f"{where} has shape {shape}, {given} channels; give --data.channels {given}, or leave it.")
        return
    if shape[1] in (1, 3):
        raise DataError(f"{where} has shape {shape}; move the channels last with transpose(0, 2, 3, 1).")
    if given > min(MOST_CHANNELS, *shape[1:3]):
        raise DataError(
            f"{where} has shape {shape}; give 1 (grey) or 3 (RGB) channels, or up to {MOST_CHANNELS} and "
            "--data.channels."
        )
    if asked is not None:
        raise DataError(
            f"{where} has {given} channels, which cannot become --data.channels {asked}; leave it out, or choose "
            "among the channels."
        )


def levels_of(
    images: np.ndarray, where: str, config: DataConfig, first: int = 0, before: Levels | None = None
) -> Levels:
    """The levels of `images` and those `before` them; the number of the first is `first`.

    Raises DataError for values that are none of pixels.
    """
    kind, kept = images.dtype, pixel_type(config)
    white = np.iinfo(kept).max
    if kind in (np.uint8, kept) or kind.kind == "b":
        return Levels(0, white)
    if kind.kind not in "iuf":
        raise DataError(f"{where} holds {kind} values; give uint8, or floats in [0, 1].")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= white):  # also when either is not a number
        if bad := np.count_nonzero(~np.isfinite(images)):
            place = first + int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
            raise DataError(
                f"{where} holds {bad:,} values that are not finite numbers, the first in image {place}; leave such "
                "images out, or mend them."
            )
        near = kind.kind == "f" and low > -0.5 and high < 1.5
        remedy = "clip them to [0, 1]" if near else f"scale them to 0..{white} or [0, 1]"
        if kind == np.uint16:
            remedy += ", or keep them by --data.bits 16"
        raise DataError(f"{where} holds {kind} values from {low:.5g} to {high:.5g}; {remedy}.")
    low, high = float(low), float(high)
    return Levels(low, high) if before is None else Levels(min(low, before.low), max(high, before.high))


def to_levels(images: np.ndarray, levels: Levels, where: str, config: DataConfig) -> Pixels:
    """Images whose whole array has these levels, as `as_pixels` says; the same array where nothing has to change."""
    kind, kept = images.dtype, pixel_type(config)
    white = np.iinfo(kept).max
    if kind == kept:
        return images
    if kind == np.uint8:
        return images.astype(kept) * kept.type(257)
    if kind.kind == "b":
        return images.astype(kept) * kept.type(white)
    if kind.kind != "f":
        return images.astype(kept)
    pixels, scale = np.empty(images.shape, kept), levels.scale(white)
    for i in range(0, len(images), _BLOCK):
        values = images[i : i + _BLOCK].astype(np.float64) * scale
        pixels[i : i + _BLOCK] = np.rint(values)
        if levels.must_be_whole(kind, config.rules) and np.any(values != pixels[i : i + _BLOCK]):
            raise DataError(
                f"{where} holds {kind} values from {levels.low:.4g} to {levels.high:.4g}, not all of them whole; clip "
                f"them to [0, 1], or round them if they are of 0..{white}."
            )
    return pixels


def target_of(shape: tuple[int, int, int, int], config: DataConfig) -> tuple[int, int, int]:
    """(height, width, channels) that `config` asks for of images of this shape."""
    height, width = config.shape or shape[1:3]
    return height, width, config.channels or shape[3]


def conform(images: Pixels, config: DataConfig, where: str) -> Pixels:
    """`images` with the channels, size and crop of `config`; the same array where nothing has to change."""
    n, height, width, channels = images.shape
    target = target_of((n, height, width, channels), config)
    require_memory((n, *target), config, where)
    if target == images.shape[1:]:
        return images
    pixels = np.empty((n, *target), images.dtype)

    def convert(i: int) -> None:
        block = slice(i * _BLOCK, (i + 1) * _BLOCK)
        pixels[block] = converted(images[block], target, config)

    in_threads(convert, -(-n // _BLOCK), block=1)
    return pixels


def converted(images: Pixels, target: tuple[int, int, int], config: DataConfig) -> Pixels:
    """A few images with the channels, then the size and crop of the `target`."""
    recoloured = to_channels(images, target[2])
    return recoloured if target[:2] == images.shape[1:3] else _resized(recoloured, config)


def _resized(images: Pixels, config: DataConfig) -> Pixels:
    from PIL import Image

    if images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        return np.stack([fit_wide(image, config) for image in images])
    grey = images.shape[-1] == 1
    return np.stack([pixels_of(fit(Image.fromarray(i[..., 0] if grey else i), config)) for i in images])
