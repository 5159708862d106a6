"""Images under affine maps: band-limited, free of aliasing, mirrored at their borders.

An image of n pixels a side is taken for the trigonometric polynomial through its pixels that is even about the first
and the last of them,

    f(u) = Σ_k c_k cos(π k u/(n − 1)),   k = 0, …, n − 1

in each axis, so that it goes on beyond the borders as `numpy.pad(mode="reflect")` does. Sampled at y -> M y + t, a wave
of frequency ξ has the frequency Mᵀξ. Waves of which one of (±ξ_1, ±ξ_2) would leave the band of the pixels are left
out, and the rest is evaluated by a cubic spline through three values a pixel. Where M and t take pixels to pixels,
nothing is left out and the pixels are those of the image, up to rounding.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_FINER = 3
"""Values a pixel through which the spline goes; its error at the highest frequency of the pixels is 0.4%."""
_MARGIN = 1e-4
"""What a frequency may lie beyond the band: rotations by quarter turns leave it by their rounding."""


def affine(
    images: Float[Array, "b h w c"], matrix: Float[Array, "b 2 2"], offset: Float[Array, "b 2"]
) -> Float[Array, "b h w c"]:
    """The low-passed f(M y + t), with M = `matrix` and t = `offset`, at every pixel y of the image.

    Positions are (row, column) in pixels from the middle of the image. M and t take the new image to the old one: they
    are the inverse of what is done to the picture. For M = 1 it is the picture moved by −t.
    """
    _, height, width, _ = images.shape
    kept = _kept(matrix, height, width).astype(images.dtype)
    with jax.default_matmul_precision("highest"):
        rows, columns = (jnp.asarray(_analysis(side), images.dtype) for side in (height, width))
        spectrum = jnp.einsum("ku,buvc,lv->bklc", rows, images, columns) * kept[..., None]
        rows, columns = (jnp.asarray(_synthesis(side), images.dtype) for side in (height, width))
        fine = jnp.einsum("pk,bklc,ql->bpqc", rows, spectrum, columns)
    middle = (np.asarray([height, width]) - 1) / 2
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1) - middle
    at = jnp.einsum("bij,hwj->bhwi", matrix, jnp.asarray(places, matrix.dtype), precision="highest")
    at = at + offset[:, None, None] + jnp.asarray(middle, matrix.dtype)
    return _spline(fine, _folded(at[..., 0], height), _folded(at[..., 1], width))


def reflected(places: Int[Array, "..."], side: int) -> Int[Array, "..."]:
    """Whole places on the line, brought back among 0..side − 1 as `numpy.pad(mode="reflect")` does."""
    last = max(side - 1, 1)
    return jnp.minimum(last - jnp.abs(last - places % (2 * last)), side - 1)


def _folded(at: Float[Array, "..."], side: int) -> Float[Array, "..."]:
    """Places on the line, brought back into [0, side − 1], and counted in values of the spline."""
    if side == 1:
        return jnp.zeros_like(at)
    last = side - 1
    return _FINER * (last - jnp.abs(last - at % (2 * last)))


def _kept(matrix: Float[Array, "b 2 2"], height: int, width: int) -> Array:
    """Whether all of (±ξ_1, ±ξ_2) stay within the band, |Mᵀξ|_∞ ≤ 1 in units of its edge: (b, height, width)."""
    across, along = (jnp.linspace(0.0, 1.0, side) if side > 1 else jnp.zeros(1) for side in (height, width))
    size = jnp.abs(matrix)
    new = size[:, 0, :, None, None] * across[:, None] + size[:, 1, :, None, None] * along
    return jnp.all(new <= 1 + _MARGIN, axis=1)


def _cosines(places: np.ndarray, side: int) -> np.ndarray:
    """cos(π k u/(side − 1)) for u in `places`, (u, k)."""
    return np.cos(np.pi * np.multiply.outer(places, np.arange(side)) / max(side - 1, 1))


@functools.cache
def _analysis(side: int) -> np.ndarray:
    """From pixels to the coefficients c, (k, u): the inverse of the cosines at the pixels."""
    return np.linalg.inv(_cosines(np.arange(side), side))


@functools.cache
def _synthesis(side: int) -> np.ndarray:
    """From c to the coefficients of the spline through f at every third of a pixel, from −1/3 on, (p, k).

    A spline with the coefficients e^{iωp} has the values e^{iωp} (2 + cos ω)/3 at its knots.
    """
    frequencies = np.pi * np.arange(side) / (max(side - 1, 1) * _FINER)
    places = np.arange(-1, _FINER * (side - 1) + 3) / _FINER
    return _cosines(places, side) * 3 / (2 + np.cos(frequencies))


def _weights(part: Float[Array, "..."]) -> tuple[Array, ...]:
    """The cubic B-spline at −1 − part, −part, 1 − part, 2 − part."""
    rest = 1 - part
    return (
        rest**3 / 6,
        (3 * part**3 - 6 * part**2 + 4) / 6,
        (3 * rest**3 - 6 * rest**2 + 4) / 6,
        part**3 / 6,
    )


def _spline(
    fine: Float[Array, "b p q c"], row: Float[Array, "b h w"], column: Float[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    """The spline with these coefficients, of which the first belongs to the place −1."""
    b, p, q, channels = fine.shape
    top, left = (jnp.clip(jnp.floor(at), 0, size - 4) for at, size in ((row, p), (column, q)))
    down, right = _weights(row - top), _weights(column - left)
    first = (top * q + left).astype(jnp.int32).reshape(b, -1)
    flat = fine.reshape(b, p * q, channels)
    total = jnp.zeros((), fine.dtype)
    for i in range(4):
        for j in range(4):
            value = jnp.take_along_axis(flat, (first + i * q + j)[..., None], axis=1, mode="promise_in_bounds")
            total = total + (down[i] * right[j]).reshape(b, -1)[..., None] * value
    return total.reshape(*row.shape, channels)
