"""Embedded colour profiles: a picture as a viewer shows it, in sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Treatment = Literal["", "converted", "ignored", "wide"]
"""What was done with the profile of a picture, "wide" being ignored for its 16 bits; "" where there is none, or it is
that of sRGB."""

_SRGB_WITHIN = 3
"""Levels that sRGB's own profiles, of which there are several, differ from each other."""


def to_srgb(picture: Image) -> tuple[Image, Treatment]:
    """(The picture in sRGB, what was done with its profile): of 8 bits a channel, in its mode, or RGB for CMYK.

    The transform is LittleCMS's, relative colorimetric with black-point compensation. A profile that changes no colour
    by more than `_SRGB_WITHIN` levels is sRGB itself, and the pixels stay as they are. One that is broken or of another
    kind of pixels than the picture's is ignored, as viewers do.
    """
    from PIL import Image, ImageCms

    profile = picture.info.get("icc_profile")
    if not profile or picture.mode in ("1", "LAB"):
        return picture, ""
    if picture.mode in ("P", "PA", "YCbCr", "HSV", "RGBX", "RGBa", "La"):
        transparent = picture.has_transparency_data and picture.mode not in ("YCbCr", "HSV", "RGBX")
        picture = picture.convert("RGBA" if transparent else "RGB")
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    mode = {"RGBA": "RGB", "LA": "L"}.get(picture.mode, picture.mode)
    transform = _transform(bytes(profile), mode)
    if transform is None:
        return picture, "ignored"
    if transform == "sRGB":
        return picture, ""
    opaque = picture if alpha is None else picture.convert(mode)
    shown = ImageCms.applyTransform(opaque, transform)
    assert shown is not None  # it is, only where the picture is changed in place
    if mode == "L":
        shown = shown.getchannel("G")
    if alpha is not None:
        shown = Image.merge(picture.mode, (*shown.split(), alpha))
    elif "transparency" in picture.info and mode != "CMYK":  # a colour, that was given before the conversion
        clear = picture.convert("RGBA").getchannel("A")
        shown = Image.merge("RGBA" if mode == "RGB" else "LA", (*shown.split(), clear))
    return shown, "converted"


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """From a profile to sRGB, for pictures of a mode; "sRGB" where it changes nothing, None where it does not fit."""
    from PIL import ImageCms

    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY"}.get(mode, mode):
            return None
        found = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # of a broken profile Pillow raises OSError, TypeError, ValueError or an error of its own
        return None
    return "sRGB" if mode != "CMYK" and _changes_nothing(found, mode) else found


def _changes_nothing(transform: Any, mode: str) -> bool:
    from PIL import Image, ImageCms

    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(256, 16, 3)
    if mode == "L":
        colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=-1)
    probe = Image.fromarray(colours[..., 0] if mode == "L" else colours)
    shown = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
    return bool(np.abs(shown - colours).max() <= _SRGB_WITHIN)
