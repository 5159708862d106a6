"""Image files to pixels: headers first, then every picture into its place in one array, on several threads.

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

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffusion.pytree import short_repr
from experiments.data.colour import Treatment, to_srgb
from experiments.data.config import DataConfig
from experiments.data.depth import eight_bits, is_wide, opaque, read_wide
from experiments.data.formats import formats
from experiments.data.shapes import fit, fit_wide, in_threads, pixels_of, require_memory
from experiments.data.source import Pixels
from experiments.data.wide import wide_pixels
from experiments.errors import DataError, reason
from experiments.names import counted

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 2**30 // 12
"""Pixels of the largest single picture, 89,478,485; it guards against small files that decode to gigabytes."""
_ORIENTATION = 0x0112

Open = Callable[[int], io.BytesIO | io.BufferedReader]


class Decoded(NamedTuple):
    """Pictures, and what a person should know of how they were decoded."""

    images: Pixels
    notes: tuple[str, ...]

    __repr__ = short_repr


@dataclass(frozen=True)
class _Header:
    height: int
    width: int
    grey: bool


def decode_images(names: Sequence[str], open_file: Open, config: DataConfig, where: str) -> Decoded:
    """All pictures as `config` wants them; `open_file(i)` opens the file that the sentences call `names[i]`.

    Raises DataError for a file that is not a picture, is damaged or is too large, for pictures of different shapes
    without `config.size`, and when all together are more than `config.memory_gib`.
    """
    with _without_warning():
        headers = in_threads(lambda i: _header(open_file, i, names[i], config), len(names))
        for name, header in zip(names, headers, strict=True):
            if config.size is None and (header.height, header.width) != (headers[0].height, headers[0].width):
                raise _mixed(names[0], (headers[0].height, headers[0].width), name, (header.height, header.width))
        height, width = config.shape or (headers[0].height, headers[0].width)
        channels = config.channels or (1 if all(header.grey for header in headers) else 3)
        shape = (height, width, channels)
        require_memory((len(names), *shape), config, where)
        images = np.empty((len(names), *shape), np.uint16 if config.bits == 16 else np.uint8)

        def decode(i: int) -> Treatment:
            pixels, profile = _decoded(open_file, i, names[i], channels, config)
            if pixels.shape != shape:  # an orientation that stands behind the pixels
                raise _mixed(names[i], pixels.shape, "its header", shape)
            images[i] = pixels
            return profile

        profiles = Counter(in_threads(decode, len(names)))
    return Decoded(images, tuple(_notes(profiles)))


def _header(open_file: Open, i: int, name: str, config: DataConfig) -> _Header:
    with _reading(open_file, i, name, config) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise DataError(_too_large(name, width * height))
        if _turned(picture):
            width, height = height, width
        return _Header(height, width, picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I"))


def _notes(profiles: Counter[Treatment]) -> Iterator[str]:
    said: dict[Treatment, str] = {
        "converted": "converted to sRGB",
        "ignored": "ignored: broken, or of other pixels",
        "wide": "ignored: of 16 bits, which are kept",
    }
    for treatment, how in said.items():
        if count := profiles[treatment]:
            yield f"{counted(count, 'colour profile')} {how}"


def _decoded(open_file: Open, i: int, name: str, channels: int, config: DataConfig) -> tuple[np.ndarray, Treatment]:
    from PIL import ImageOps

    treatment: Treatment = ""
    with _reading(open_file, i, name, config) as picture:
        if config.bits == 16:
            with _reading(open_file, i, name, config) as again:
                wide, treatment = wide_pixels(picture, again, channels, name)
            return fit_wide(wide, config), treatment
        if config.rules > 1 and is_wide(picture):
            with _reading(open_file, i, name, config) as again:
                read_wide(picture, again)
        plain = eight_bits(ImageOps.exif_transpose(picture), name)
        if config.rules > 1:
            plain, treatment = to_srgb(plain)
        return pixels_of(fit(opaque(plain).convert("L" if channels == 1 else "RGB"), config)), treatment


def _turned(picture: Image) -> bool:
    """Whether the EXIF orientation exchanges width and height."""
    from PIL.Image import Image

    if picture.format == "TIFF":  # Pillow has taken it into account
        return False
    # Not `picture.getexif()`, which decodes a whole PNG to look behind its pixels.
    return Image.getexif(picture).get(_ORIENTATION, 1) in (5, 6, 7, 8)


@contextmanager
def _reading(open_file: Open, i: int, name: str, config: DataConfig) -> Iterator[ImageFile]:
    """The i-th picture, opened; whatever Pillow raises on it becomes a sentence."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file(i) as file, Image.open(file, formats=formats(config.rules)) as picture:
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


def _mixed(first: str, shape: Sequence[int], second: str, other: Sequence[int]) -> DataError:
    one, two = ("×".join(map(str, s[:2])) for s in (shape, other))
    return DataError(
        f"{first} is {one} (height×width) and {second} is {two}; give --data.size to crop and resize all to one shape."
    )


@contextmanager
def _without_warning() -> Iterator[None]:
    """Silence Pillow's warnings, once for all threads: so many pixels are an error here, and what is odd in the EXIF
    data or the animation of a picture that can be read is no business of the person's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
