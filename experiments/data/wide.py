"""Pictures whose 16 bits a channel are kept, under `--data.bits 16`; 8 bits are multiplied by 257.

Transparency is composited over white, EXIF orientation applied and grey is the luma, as with 8 bits, but in 16. Colour
profiles of 16 bits are not converted, which LittleCMS does to 8 bits through Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer, UInt16

from experiments.data.colour import Treatment, to_srgb
from experiments.data.depth import cleared, eight_bits, is_wide, opaque, wide_grey, wide_values
from experiments.data.shapes import pixels_of, to_channels

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_ORIENTATION = 0x0112


def wide_pixels(
    picture: ImageFile, again: ImageFile, channels: int, name: str
) -> tuple[UInt16[np.ndarray, "height width c"], Treatment]:
    """(The pixels of a picture with 1 or 3 channels, what was done with its profile); `again` is the same, opened anew.

    Raises DataError as `eight_bits` does.
    """
    from PIL import ImageOps

    wide = is_wide(picture)
    if not wide and not picture.mode.startswith("I"):
        plain, treatment = to_srgb(eight_bits(ImageOps.exif_transpose(picture), name))
        narrow = pixels_of(opaque(plain).convert("L" if channels == 1 else "RGB"))
        return narrow.astype(np.uint16) * np.uint16(257), treatment
    values = wide_values(picture, again) if wide else wide_grey(picture, name)[..., None]
    turned = _orientation(picture)
    values = _opaque(values, wide and picture.mode in ("RGBA", "LA"), picture.info.get("transparency"))
    pixels = to_channels(_turned(values, turned).astype(np.uint16)[None], channels)[0]
    return pixels, "wide" if picture.info.get("icc_profile") else ""


def _opaque(
    values: Integer[np.ndarray, "height width c"], has_alpha: bool, clear: object
) -> Integer[np.ndarray, "height width c2"]:
    """Values over white: by their last channel if that is the alpha, or where they are the one colour that is clear."""
    if has_alpha:
        colour, alpha = values[..., :-1], values[..., -1:]
        return (colour * alpha + 65535 * (65535 - alpha) + 32767) // 65535
    return cleared(values, clear)


def _orientation(picture: ImageFile) -> int:
    """That of a picture that has been decoded, for it may stand behind the pixels."""
    # Pillow has taken that of a TIFF into account.
    return 1 if picture.format == "TIFF" else picture.getexif().get(_ORIENTATION, 1)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values as they are to be seen, by the EXIF orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
