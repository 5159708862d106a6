"""Pixels and the model's values: u in 0..255 is x = u/127.5 − 1 in [−1, 1]. Points are model values already.

Both functions take NumPy and JAX arrays, tracers too, and return the same kind.
"""

from __future__ import annotations

from typing import Any


def to_model(images: Any, dtype: Any = "float32") -> Any:
    """x = u/127.5 − 1 of uint8 images, computed in float32 and then cast to `dtype`; same shape.

    Floats are points in the model's units and are only cast.
    """
    if images.dtype.kind == "f":
        return images.astype(dtype)
    return (images.astype("float32") / 127.5 - 1.0).astype(dtype)


def to_uint8(x: Any) -> Any:
    """The nearest u of 127.5 (x + 1), clipped to 0..255; same shape.

    `to_uint8(to_model(u))` is u for all 256 values, through bfloat16 and float16 too.
    """
    return ((x.astype("float32") + 1.0) * 127.5).round().clip(0, 255).astype("uint8")
