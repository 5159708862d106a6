"""16 bits a channel to 8, v/257 rounded, for pictures of which Pillow keeps the upper byte alone.

It decodes RGB;16B by its upper bytes, so that the same bytes read as RGB;16L are the lower ones: the picture is decoded
twice. Two channels of 16 bits are as long as four of 8, and need no second time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer, UInt8

from experiments.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_NATIVE = {"little": "B", "big": "L"}[sys.byteorder]
_OTHER_BYTE = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", _NATIVE))
}
_GREY_AND_ALPHA = "LA;16B"
_STEPS = {"L;2": 85, "L;4": 17}
"""Levels of 8 bits from one value to the next, of greys of fewer bits, by their raw mode."""


def narrowed(values: Integer[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """v/257 rounded, for v in 0..65535: 65535 is 255, and 257·u is u."""
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def is_wide(picture: ImageFile) -> bool:
    """Whether Pillow would drop bytes of a PNG or TIFF that has not been decoded yet, and they can be had."""
    raw = {_raw_mode(tile) for tile in picture.tile}
    return picture.format in ("PNG", "TIFF") and len(raw) == 1 and raw <= {*_OTHER_BYTE, _GREY_AND_ALPHA}


def read_wide(picture: ImageFile, other: ImageFile) -> None:
    """Decode a picture that `is_wide`, in place, to 8 bits, v/257 rounded; `other` is the same opened again."""
    from PIL import Image

    exact = narrowed(cleared(wide_values(picture, other), picture.info.pop("transparency", None)))
    if exact.shape[-1] == 2:
        exact = exact[..., [0, 0, 0, 1]]
    picture.paste(Image.fromarray(exact))


def wide_values(picture: ImageFile, other: ImageFile) -> Integer[np.ndarray, "height width channels"]:
    """The values in 0..65535 of a picture that `is_wide`, grey and alpha or colours; `other` is it, opened anew."""
    raw = _raw_mode(picture.tile[0])
    other.tile = [tile._replace(args=_with_mode(tile.args, _OTHER_BYTE.get(raw, "RGBA"))) for tile in other.tile]
    picture.load()
    found = np.asarray(other).astype(np.int64)
    if raw == _GREY_AND_ALPHA:
        return 256 * found[..., ::2] + found[..., 1::2]
    return 256 * np.asarray(picture).astype(np.int64) + found


def cleared(values: Integer[np.ndarray, "height width channels"], clear: object) -> Integer[np.ndarray, "..."]:
    """Values of 16 bits in which the one colour that is `clear`, where there is one, is white."""
    if isinstance(clear, int | tuple):
        return np.where(np.all(values == np.asarray(clear), axis=-1, keepdims=True), 65535, values)
    return values


def scale_clear(picture: ImageFile) -> None:
    """Let the clear grey of a PNG of 2 or 4 bits that is not decoded yet be of 8 bits, as its pixels will be."""
    clear, raw = picture.info.get("transparency"), {_raw_mode(tile) for tile in picture.tile}
    if isinstance(clear, int) and len(raw) == 1:
        picture.info["transparency"] = clear * _STEPS.get(raw.pop(), 1)


def wide_grey(picture: Image, name: str) -> Integer[np.ndarray, "height width"]:
    """The values of a grey picture of more than 8 bits. Raises DataError for values beyond 16 bits."""
    wide = np.asarray(picture).astype(np.int64)
    if picture.mode == "I" and getattr(picture, "format", None) == "TIFF" and 0 < wide.max() < 256:
        raise DataError(f"{name} has 32 bits and no value above {wide.max()}, as of 8; save it with 8 bits.")
    if wide.min() < 0 or wide.max() > 65535:
        raise DataError(f"{name} has values from {wide.min()} to {wide.max()}; save it with 8 or 16 bits.")
    return wide


def eight_bits(picture: Image, name: str, clear: object = None) -> Image:
    """A picture of at most 8 bits a channel, in which a grey of 16 bits that is `clear` is white.

    Raises DataError for one of floating-point numbers, or above 16 bits.
    """
    from PIL import Image

    if picture.mode == "F":
        raise DataError(f"{name} is a floating-point picture; save it with 8 or 16 bits.")
    if picture.mode.startswith("I"):
        grey = Image.fromarray(narrowed(cleared(wide_grey(picture, name)[..., None], clear)[..., 0]))
        grey.info = {key: value for key, value in picture.info.items() if key == "icc_profile"}
        return grey
    return picture


def opaque(picture: Image) -> Image:
    """A picture over white."""
    from PIL import Image

    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA"))
    return picture


def _raw_mode(tile: Any) -> str:
    return tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])


def _with_mode(args: Any, mode: str) -> Any:
    return mode if isinstance(args, str) else (mode, *args[1:])
