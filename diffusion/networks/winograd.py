"""Convolutions of three by three pixels by fewer multiplications: Winograd's F(2×2, 3×3).

A tile of 2 × 2 pixels of the answer takes 36 multiplications for each pair of channels, one by one, and 16 so:

    y = Aᵀ [(G k Gᵀ) ⊙ (Bᵀ d B)] A

with d the 4 × 4 pixels that the tile sees. Over all tiles each of the 16 products is one of matrices, (tiles, channels)
by (channels, channels), which a CPU computes at a higher rate than a convolution. The rounding in float32 is that of a
convolution, to a factor of about two.

Source: Winograd 1980; Lavin & Gray 2016, arXiv:1509.09308, section 4.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffusion.networks import fast

LEAST_PIXELS = 256
"""From so many pixels of an image on it is worth what changing the kernel's basis costs."""
LEAST_CHANNELS = 64
"""From so many channels on, before and after, it is worth what changing the basis of the images costs."""

_G = np.asarray([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

Image = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 c d"]


def worthwhile(x: Any, kernel: Any) -> bool:
    """Whether images and kernel, float32 both, are of shapes that this is faster for; it depends on no batch size."""
    _, height, width, channels = x.shape
    return (
        kernel.shape[:2] == (3, 3)
        and height % 2 == width % 2 == 0
        and height * width >= LEAST_PIXELS
        and min(channels, kernel.shape[-1]) >= LEAST_CHANNELS
        and x.dtype == kernel.dtype == jnp.float32
    )


def direct(x: Image, kernel: Kernel) -> Float[Array, "b h w d"]:
    """The convolution with a pixel of zeros on every side, as XLA computes it."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_jvp
def convolve(x: Image, kernel: Kernel) -> Float[Array, "b h w d"]:
    """The same by products of matrices, for even height and width; its derivatives are those of `direct`."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = [[padded[:, i : i + height : 2, j : j + width : 2] for j in range(4)] for i in range(4)]
    seen = [_across(row) for row in _across_rows(seen)]
    tiles = jnp.stack([part for row in seen for part in row]).reshape(16, -1, channels)
    g = jnp.asarray(_G, kernel.dtype)
    basis = jnp.einsum("ia,jb,abcd->ijcd", g, g, kernel, precision="highest").reshape(16, channels, -1)
    # Written out before and after, so that the sums are not computed anew for every block of the product.
    products = lax.dot_general(lax.optimization_barrier(tiles), basis, (((2,), (1,)), ((0,), (0,))))
    m = lax.optimization_barrier(products).reshape(4, 4, batch, height // 2, width // 2, -1)
    rows = [_within([m[i, j] for i in range(4)]) for j in range(4)]  # [column of the products][row of the tile]
    answer = [_within([rows[j][a] for j in range(4)]) for a in range(2)]  # [row][column] of the tile
    return jnp.stack([jnp.stack(row, axis=3) for row in answer], axis=2).reshape(batch, height, width, -1)


def _across(d: Any) -> tuple[Array, ...]:
    """Bᵀ d: what four neighbours are in the basis of the products."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _across_rows(d: list[list[Array]]) -> list[list[Array]]:
    """Bᵀ along the first of two indices."""
    return [list(row) for row in zip(*(_across([d[i][j] for i in range(4)]) for j in range(4)), strict=True)]


def _within(m: Any) -> tuple[Array, ...]:
    """Aᵀ m: two pixels of the answer."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@convolve.defjvp
def _convolve_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    return convolve(x, kernel), direct(dx, kernel) + direct(x, dkernel)


class Conv(fast.Conv):
    """`fast.Conv`, by fewer multiplications on a CPU where that is worthwhile."""

    def _convolved(self, x: Array, kernel: Array) -> Array:
        same = self.padding == "SAME" or tuple(map(tuple, self.padding)) == ((1, 1), (1, 1))  # pyright: ignore
        if fast.on_cpu() and self.stride == 1 and same and worthwhile(x, kernel):
            return convolve(x, kernel)
        return super()._convolved(x, kernel)
