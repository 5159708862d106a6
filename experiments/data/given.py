"""Pictures that a person names one by one: read as those of a data set are, and masks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from experiments.data.config import DataConfig
from experiments.data.decode import decode_picture, read_header, reading, upright, without_warning
from experiments.data.depth import eight_bits, scale_clear
from experiments.data.formats import endings
from experiments.data.shapes import fit
from experiments.data.source import Pixels
from experiments.errors import DataError, UsageError, reason

if TYPE_CHECKING:
    from PIL.Image import Image

_HALF = 128
"""The grey from which on a mask is white."""


def pictures_of(places: Sequence[Path], rules: int = 2) -> list[Path]:
    """The files, and in the place of a folder the pictures in it, by name.

    Raises UsageError for what is not there, for a folder without pictures, and where nothing is given.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            if not place.exists():
                raise UsageError(f"{place} does not exist; give a picture, or a folder of pictures.")
            found.append(place)
            continue
        inside = sorted(path for path in place.iterdir() if path.suffix.lower() in endings(rules))
        if not inside:
            raise UsageError(f"{place} holds no pictures; give another folder, or a picture.")
        found += inside
    return found


def read_picture(path: Path, shape: tuple[int, int], channels: int, config: DataConfig, *, resize: bool) -> Pixels:
    """A picture (1, height, width, channels) as data read by `config` would have it: its bits, colours and orientation.

    With `resize` it is cropped to the proportions of `shape` and resized, as `config.crop` says. Raises UsageError for
    one of another size otherwise, DataError for what is no picture.
    """
    height, width = shape
    wanted = DataConfig(
        size=f"{height}x{width}" if resize else None, crop=config.crop, bits=config.bits, rules=config.rules
    )
    with without_warning():
        pixels, _ = decode_picture(_opener(path), str(path), channels, wanted)
    _require_size(str(path), pixels.shape[:2], shape, "a picture of that size, or add --resize")
    return pixels[None]


def read_mask(
    path: Path, picture: tuple[int, int], shape: tuple[int, int], config: DataConfig, *, resize: bool
) -> Bool[np.ndarray, "height width"]:
    """Where a mask is white: True where its grey, over black where it is transparent, is half or more.

    It has the size `picture` of the pictures that it is for, and becomes of `shape` as they do with `resize`. Of
    colours the luma counts. Raises UsageError for a mask of another size, and for one that is all white or all
    black; DataError for what is no picture.
    """
    name = str(path)
    with without_warning(), reading(_opener(path), name, DataConfig()) as opened:
        scale_clear(opened)
        found = upright(opened)
        alpha = found.convert("RGBA").getchannel("A") if found.has_transparency_data else None
        grey = _grey(found, name)
    if alpha is not None:
        from PIL import Image, ImageChops

        grey = ImageChops.multiply(grey, Image.fromarray(np.asarray(alpha)))
    _require_size(name, (grey.height, grey.width), picture, "a mask of the size of the picture")
    if resize:
        grey = fit(grey, DataConfig(size=f"{shape[0]}x{shape[1]}", crop=config.crop))
    white = np.asarray(grey) >= _HALF
    if white.all():
        raise UsageError(f"{name} is all white, so that nothing is known; paint black what is to stay, or `sample`.")
    if not white.any():
        raise UsageError(
            f"{name} is all black, so that there is nothing to draw; paint white what is to be drawn anew."
        )
    return white


def size_of(path: Path, config: DataConfig) -> tuple[int, int]:
    """Height and width of a picture as it is shown. Raises DataError for what is none."""
    with without_warning():
        header = read_header(_opener(path), str(path), config)
    return header.height, header.width


def sha256_of(path: Path) -> str:
    """The digest of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _grey(picture: Image, name: str) -> Image:
    """A picture of any mode in grey of 8 bits, by its luma."""
    plain = eight_bits(picture, name)
    return plain if plain.mode == "L" else (plain.convert("RGB") if plain.mode in ("P", "PA") else plain).convert("L")


def _require_size(name: str, found: tuple[int, ...], wanted: tuple[int, int], remedy: str) -> None:
    if tuple(found) != tuple(wanted):
        here, there = (f"{height}×{width}" for height, width in (found, wanted))
        raise UsageError(f"{name} has {here} pixels, height by width, and {there} are wanted; give {remedy}.")


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        try:
            return open(path, "rb")
        except OSError as error:
            raise DataError(f"{path} cannot be read ({reason(error)}); give the file of a picture.") from None

    return opened
