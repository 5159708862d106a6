"""Pixels and the model's values: u in 0..255 is x = u/127.5 − 1 in [−1, 1], u in 0..65535 is x = u/32767.5 − 1.

Points are model values already. The functions take NumPy and JAX arrays, tracers too, and return the same kind.
"""

from __future__ import annotations

from typing import Any


def to_model(images: Any, dtype: Any = "float32") -> Any:
    """x = u/127.5 − 1 of uint8 images, u/32767.5 − 1 of uint16, in float32 and then cast to `dtype`; same shape.

    Floats are points in the model's units and are only cast.
    """
    if images.dtype.kind == "f":
        return images.astype(dtype)
    half = 32767.5 if images.dtype == "uint16" else 127.5
    return (images.astype("float32") / half - 1.0).astype(dtype)


def to_uint8(x: Any) -> Any:
    """The nearest u of 127.5 (x + 1), clipped to 0..255; same shape.

    `to_uint8(to_model(u))` is u for all 256 values, through bfloat16 and float16 too.
    """
    return ((x.astype("float32") + 1.0) * 127.5).round().clip(0, 255).astype("uint8")


def to_uint16(x: Any) -> Any:
    """The nearest u of 32767.5 (x + 1), clipped to 0..65535; same shape. The inverse of `to_model` in float32."""
    return ((x.astype("float32") + 1.0) * 32767.5).round().clip(0, 65535).astype("uint16")


def to_pixels(x: Any, bits: int = 8) -> Any:
    """`to_uint8` or `to_uint16`, by the number of bits."""
    return to_uint16(x) if bits == 16 else to_uint8(x)


def bin_width(bits: int) -> float:
    """The distance between neighbouring levels in the model's units: 2/255, or 2/65535."""
    return 2 / (2**bits - 1)
