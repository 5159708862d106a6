"""Resizing as a product with one matrix for each axis: the forms in which libraries do it, which are not the same.

Pixel j of n lies at j (TensorFlow 1) or at j + ½ (all others). Bilinear weights are those of the two nearest pixels;
bicubic ones are Keys' (1981) kernel with a = −0.75 or −0.5 at the four nearest. With antialiasing the kernel is
stretched by n/m where an axis of n pixels becomes one of m < n, and its weights are divided by their sum.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Kind = Literal["tf1-bilinear", "bilinear", "bicubic", "antialiased-bilinear", "antialiased-bicubic"]


@functools.lru_cache(64)
def matrix(kind: Kind, n: int, m: int, scale: float | None = None) -> Float[np.ndarray, "m n"]:
    """The weights, in float64, of n pixels in each of m; `scale` is n/m unless given."""
    step = n / m if scale is None else scale
    if kind.startswith("antialiased"):
        weights = _stretched(kind == "antialiased-bicubic", n, m, step)
    else:
        weights = np.zeros((m, n))
        centre = np.arange(m) * step if kind == "tf1-bilinear" else (np.arange(m) + 0.5) * step - 0.5
        if kind != "bicubic":
            centre = np.maximum(centre, 0)
        low = np.floor(centre).astype(int)
        taps = range(-1, 3) if kind == "bicubic" else range(2)
        for tap in taps:
            away = np.abs(centre - low - tap)
            share = cubic(away, -0.75) if kind == "bicubic" else 1 - away
            np.add.at(weights, (np.arange(m), np.clip(low + tap, 0, n - 1)), share)
    weights.setflags(write=False)
    return weights


def _stretched(bicubic: bool, n: int, m: int, step: float) -> np.ndarray:
    stretch, reach = max(step, 1.0), 2.0 if bicubic else 1.0
    away = np.abs(np.arange(n) + 0.5 - (np.arange(m)[:, None] + 0.5) * step) / stretch
    weights = cubic(away, -0.5) if bicubic else np.maximum(1 - away, 0)
    weights = np.where(away < reach, weights, 0)
    return weights / weights.sum(1, keepdims=True)


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel at x ≥ 0. Source: Keys 1981, equation 15, where a is −½."""
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def resized(x: Float[Array, "b h w c"], kind: Kind, side: int) -> Float[Array, "b side side c"]:
    """Images of side × side pixels."""
    down, across = (jnp.asarray(matrix(kind, length, side), x.dtype) for length in x.shape[1:3])
    rows = jnp.einsum("ih,bhwc->biwc", down, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("jw,biwc->bijc", across, rows, precision=jax.lax.Precision.HIGHEST)
