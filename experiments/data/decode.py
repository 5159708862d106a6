"""One picture file to pixels; `pictures` reads all those of a data set.

What a picture means here:
- 16 bits are divided by 257 and rounded, so 65535 is 255 and 257·u is u; Pillow alone would clip grey, and cut colours
  down to their upper byte. (It does so in JPEG 2000, in TIFF of separate planes or premultiplied, and by rules 1.)
  Under `--data.bits 16` they are kept, and 8 bits multiplied by 257 (`wide`).
- EXIF orientation is applied. Of an animation the first frame counts.
- Colours are those of sRGB: other profiles are converted, and ignored by rules 1.
- Transparency is composited over white.
- Grey is the luma of ITU-R BT.601. A data set is grey only if each of its pictures is.
- Resizing is Pillow's Lanczos filter, antialiased, after the crop.
A picture that is damaged or cut short is refused, never filled up.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.data.colour import Treatment, to_srgb
from experiments.data.config import DataConfig
from experiments.data.depth import eight_bits, is_wide, opaque, read_wide, scale_clear
from experiments.data.formats import formats
from experiments.data.shapes import fit, fit_wide, pixels_of
from experiments.data.wide import wide_pixels
from experiments.errors import DataError, reason

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 2**30 // 12
"""Pixels of the largest single picture, 89,478,485; it guards against small files that decode to gigabytes."""
_ORIENTATION = 0x0112

Open = Callable[[], IO[bytes]]
"""Opens the file of a picture, each time anew."""


class Header(NamedTuple):
    """What a picture's file says before its pixels."""

    height: int
    width: int
    grey: bool


def read_header(open_file: Open, name: str, config: DataConfig) -> Header:
    """Height and width as the picture is shown, and whether it is grey, without its pixels.

    Raises DataError for a file that is no picture, or is too large; the sentence calls it `name`.
    """
    with reading(open_file, name, config) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise DataError(_too_large(name, width * height))
        if _turned(picture):
            width, height = height, width
        return Header(height, width, picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I"))


def traits(open_file: Open, name: str, config: DataConfig) -> tuple[str, ...]:
    """What is odd about a picture, in the words of `check`, by its header; of one that cannot be read nothing."""
    from PIL.Image import Image

    try:
        with reading(open_file, name, config) as picture:
            turned = picture.format != "TIFF" and Image.getexif(picture).get(_ORIENTATION, 1) in range(2, 9)
            deep = picture.mode.startswith("I") or (config.rules > 1 and is_wide(picture))
            found = {
                "of 16 bits, made 8": deep and config.bits == 8,
                "of 8 bits, made 16": not deep and config.bits == 16,
                "turned as the camera was held (EXIF)": turned,
                "of CMYK, made RGB": picture.mode == "CMYK",
                "transparent, laid over white": picture.has_transparency_data,
                "of several frames, the first taken": getattr(picture, "is_animated", False),
            }
            return tuple(what for what, so in found.items() if so)
    except DataError:
        return ()


def decode_picture(open_file: Open, name: str, channels: int, config: DataConfig) -> tuple[np.ndarray, Treatment]:
    """(The picture as `config` wants it, what was done with its colour profile).

    Raises DataError, calling the file `name`, when it is damaged, cut short or no picture.
    """
    treatment: Treatment = ""
    with reading(open_file, name, config) as picture:
        if config.rules > 1:
            scale_clear(picture)
        if config.bits == 16:
            with reading(open_file, name, config) as again:
                wide, treatment = wide_pixels(picture, again, channels, name)
            return fit_wide(wide, config), treatment
        if config.rules > 1 and is_wide(picture):
            with reading(open_file, name, config) as again:
                read_wide(picture, again)
        plain = upright(picture)
        plain = eight_bits(plain, name, plain.info.get("transparency") if config.rules > 1 else None)
        if config.rules > 1:
            plain, treatment = to_srgb(plain)
        plain, mode = opaque(plain), "L" if channels == 1 else "RGB"
        return pixels_of(fit(plain if plain.mode == mode else plain.convert(mode), config)), treatment


def upright(picture: Image) -> Image:
    """The picture as its EXIF orientation wants it; itself, and no copy, where it wants nothing."""
    from PIL import ImageOps

    picture.load()
    return picture if picture.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(picture)


def _turned(picture: Image) -> bool:
    """Whether the EXIF orientation exchanges width and height."""
    from PIL.Image import Image

    if picture.format == "TIFF":  # Pillow has taken it into account
        return False
    # Not `picture.getexif()`, which decodes a whole PNG to look behind its pixels.
    return Image.getexif(picture).get(_ORIENTATION, 1) in (5, 6, 7, 8)


@contextmanager
def reading(open_file: Open, name: str, config: DataConfig) -> Iterator[ImageFile]:
    """The picture, opened; whatever Pillow raises on it becomes a sentence."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file() as file, Image.open(file, formats=formats(config.rules)) as picture:
            yield picture
    except DataError:
        raise
    except Image.DecompressionBombError as error:  # at twice the limit, before its size can be asked
        raise DataError(_too_large(name, int(re.findall(r"\d+", str(error))[0]))) from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is not a picture that can be read; convert it to PNG, or remove it.") from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise DataError(f"{name} cannot be read ({reason(error)}); restore or remove it.") from None


def _too_large(name: str, pixels: int) -> str:
    return f"{name} has {pixels:,} pixels, above the limit of {MAX_PIXELS:,}; reduce it first, or remove it."


@contextmanager
def without_warning() -> Iterator[None]:
    """Silence Pillow's warnings, once for all threads: so many pixels are an error here, and what is odd in the EXIF
    data or the animation of a picture that can be read is no business of the person's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def silence_warnings() -> None:
    """The same for good, for pictures that are decoded later, by any thread."""
    if not any(kept[0] == "ignore" and getattr(kept[3], "pattern", "") == r"PIL\." for kept in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\.")
