"""Arrays of images as files hold them, converted to uint8 (n, height, width, channels) of one shape or refused."""

from __future__ import annotations

from dataclasses import replace

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


def as_uint8(images: np.ndarray, where: str, rules: int = 2) -> UInt8[np.ndarray, "n height width channels"]:
    """`images` (n, h, w) or (n, h, w, c), c = 1 or 3, as bytes with a channel axis.

    Booleans are 0 and 255. Integers are taken as they are and must lie in 0..255. Floats that all lie in [0, 1] are
    scaled by 255 and rounded; others must be whole numbers of 0..255, or by `rules` 1 are rounded to them. Raises
    DataError naming `where`.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"{where} has shape {images.shape}; give (n, height, width) or (n, height, width, 3).")
    if 0 in images.shape:
        raise DataError(f"{where} has shape {images.shape} and so no pixels; give at least one image.")
    if images.shape[-1] not in (1, 3):
        first = images.shape[1] in (1, 3)
        remedy = "move the channels last with transpose(0, 2, 3, 1)" if first else "give 1 (grey) or 3 (RGB) channels"
        raise DataError(f"{where} has shape {images.shape}; {remedy}.")
    if images.dtype == np.uint8:
        return images
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind not in "iuf":
        raise DataError(f"{where} holds {images.dtype} values; give uint8, or floats in [0, 1].")
    low, high, kind = images.min(), images.max(), images.dtype
    if not (low >= 0 and high <= 255):  # also when either is not a number
        if bad := np.count_nonzero(~np.isfinite(images)):
            first = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
            raise DataError(
                f"{where} holds {bad:,} values that are not finite numbers, the first in image {first}; leave such "
                "images out, or mend them."
            )
        near = kind.kind == "f" and low > -0.5 and high < 1.5
        remedy = "clip them to [0, 1]" if near else "scale them to 0..255 or [0, 1]"
        raise DataError(f"{where} holds {kind} values from {low:.5g} to {high:.5g}; {remedy}.")
    if kind.kind != "f":
        return images.astype(np.uint8)
    scale = 255.0 if high <= 1 else 1.0
    pixels = np.empty(images.shape, np.uint8)
    for i in range(0, len(images), _BLOCK):
        values = images[i : i + _BLOCK].astype(np.float64) * scale
        pixels[i : i + _BLOCK] = np.rint(values)
        if rules > 1 and high > 1 and np.any(values != pixels[i : i + _BLOCK]):
            raise DataError(
                f"{where} holds {kind} values from {low:.4g} to {high:.4g}, not all of them whole; clip them to "
                "[0, 1], or round them if they are of 0..255."
            )
    return pixels


def conform(
    images: UInt8[np.ndarray, "n height width channels"], config: DataConfig, where: str
) -> UInt8[np.ndarray, "n h w c"]:
    """`images` with the channels, size and crop of `config`; the same array where nothing has to change."""
    n, height, width, channels = images.shape
    target = (config.size or height, config.size or width, config.channels or channels)
    require_memory((n, *target), config, where)
    if target == images.shape[1:]:
        return images
    pixels = np.empty((n, *target), np.uint8)

    def convert(i: int) -> None:
        block = slice(i * _BLOCK, (i + 1) * _BLOCK)
        recoloured = to_channels(images[block], target[2])
        pixels[block] = recoloured if target[:2] == (height, width) else _resized(recoloured, config)

    in_threads(convert, -(-n // _BLOCK), block=1)
    return pixels


def _resized(images: UInt8[np.ndarray, "n h w c"], config: DataConfig) -> UInt8[np.ndarray, "n size size c"]:
    from PIL import Image

    grey = images.shape[-1] == 1
    return np.stack([pixels_of(fit(Image.fromarray(i[..., 0] if grey else i), config)) for i in images])
