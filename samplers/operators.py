"""Linear maps A of images that restorations undo: a mask, a blur, a smaller picture.

    Seen        m ⊙ x                      inpainting
    Separable   R x Cᵀ, channel by channel   `gaussian_blur`, `box_downsampling`

Each is a function (b, height, width, channels) -> (b, *measured), so that it is the `observe` of a `Measurement`, and
knows the solution of its normal equations, which `pseudoinverse_guidance` would find by iteration otherwise: a blur has
singular values of many sizes, and conjugate gradients take one step for each.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.arrays import expand
from diffusion.pytree import pytree

_REACH = 4.0
"""Standard deviations of a blur beyond which its weights are 0."""


class Operator:
    """A linear map A of images, with what is known of x_0 by y = A x_0 + √v n where x_0 ~ N(x̂_0, c I)."""

    def __call__(self, x_0: Float[Array, "b height width channels"]) -> Float[Array, "b *measured"]:
        """A x_0."""
        raise NotImplementedError

    def explain(
        self, residual: Float[Array, "b *measured"], c: Float[Array, " b"], variance: Float[Array, " b"]
    ) -> Float[Array, "b height width channels"]:
        """Aᵀ (c A Aᵀ + v I)⁻¹ r; what A takes to 0 to rounding has no part in it."""
        raise NotImplementedError

    def pooled(self) -> float:
        """The number of pixels that go into one of y: the mean over i of (Σ_j A_ij)²/Σ_j A_ij²."""
        raise NotImplementedError


def pooled(observe: Operator | np.ndarray) -> float:
    """`Operator.pooled`, or the same of a matrix (m, d): 1 where a number of y is a pixel, n for the mean of n.

    Where pixels that go together are alike, A x has a variance so many times that which it has for pixels that are not,
    v Σ_j A_ij². ΠGDM's isotropic covariance takes them to be not, and so trusts a mean of many too much while there is
    much noise; `isotropic_covariance(process, pooled(observe) * v)` has the variance of A x right where they are.
    """
    if isinstance(observe, Operator):
        return observe.pooled()
    squares = np.sum(np.asarray(observe, np.float64) ** 2, axis=1)
    sums = np.sum(np.asarray(observe, np.float64), axis=1) ** 2
    return float(np.mean(np.where(squares > 0, sums / np.where(squares > 0, squares, 1.0), 1.0)))


@pytree
class Seen(Operator):
    """y = x where `mask` is True, and 0 elsewhere. A Aᵀ is the mask itself, so that r is divided by c + v."""

    mask: Bool[Array | np.ndarray, "..."]
    """Booleans, True where a pixel is known, of the shape of the event or of the batch."""

    def __call__(self, x_0: Float[Array, "b height width channels"]) -> Float[Array, "b height width channels"]:
        """x_0 where it is known."""
        return jnp.where(self.mask, x_0, 0.0)

    def explain(
        self, residual: Float[Array, "b height width channels"], c: Float[Array, " b"], variance: Float[Array, " b"]
    ) -> Float[Array, "b height width channels"]:
        """r/(c + v) where it is known; 0 where c + v is 0 and nothing is left to explain."""
        spread = c + variance
        scaled = residual * expand(jnp.where(spread > 0, 1 / jnp.where(spread > 0, spread, 1.0), 0.0), residual)
        return jnp.where(self.mask, scaled, 0.0)

    def pooled(self) -> float:
        """1: every number is a pixel."""
        return 1.0


@pytree
class Separable(Operator):
    """y = R x Cᵀ for each channel, from the singular values R = U S Vᵀ and C = P T Qᵀ.

    A Aᵀ is diagonal in U and P, with s_i² t_j², so that Aᵀ (c A Aᵀ + v I)⁻¹ r has s t/(c s² t² + v) there. `separable`
    makes one of two matrices.
    """

    rows: tuple[Any, Any, Any]
    """U (m, k), S (k,) and V (height, k) of R."""
    columns: tuple[Any, Any, Any]
    """P (n, l), T (l,) and Q (width, l) of C."""

    def __call__(self, x_0: Float[Array, "b height width channels"]) -> Float[Array, "b m n channels"]:
        """R x Cᵀ. Raises ValueError for an image of another size."""
        (u, s, v), (p, t, q) = self.rows, self.columns
        if x_0.shape[1:3] != (len(v), len(q)):
            raise ValueError(f"the operator is one of {len(v)}×{len(q)} pixels, and the images have {x_0.shape[1:3]}.")
        return _both(u, _both(v, x_0, q, transpose=True) * (s[:, None] * t)[..., None], p)

    def explain(
        self, residual: Float[Array, "b m n channels"], c: Float[Array, " b"], variance: Float[Array, " b"]
    ) -> Float[Array, "b height width channels"]:
        """V [s t/(c s² t² + v) · Uᵀ r P] Qᵀ."""
        (u, s, v), (p, t, q) = self.rows, self.columns
        gain = (jnp.asarray(s)[:, None] * jnp.asarray(t)).astype(residual.dtype)
        spread = expand(c, residual[..., 0]) * gain**2 + expand(variance, residual[..., 0])
        seen = (gain > 30 * jnp.finfo(gain.dtype).eps * jnp.max(gain)) & (spread > 0)
        weight = jnp.where(seen, gain / jnp.where(seen, spread, 1.0), 0.0)
        return _both(v, _both(u, residual, p, transpose=True) * weight[..., None], q)

    def pooled(self) -> float:
        """That of R times that of C."""
        (u, s, v), (p, t, q) = self.rows, self.columns
        return pooled((u * s) @ v.T) * pooled((p * t) @ q.T)


def _both(left: Any, x: Array, right: Any, transpose: bool = False) -> Array:
    """left x rightᵀ over height and width, or leftᵀ x right."""
    rule = "hi,bhwc,wj->bijc" if transpose else "ih,bhwc,jw->bijc"
    return jnp.einsum(rule, jnp.asarray(left, x.dtype), x, jnp.asarray(right, x.dtype), precision="highest")


def separable(rows: np.ndarray, columns: np.ndarray) -> Separable:
    """x -> R x Cᵀ of each channel, R = `rows` (m, height), C = `columns` (n, width).

    Raises ValueError for what is no matrix.
    """
    for name, matrix in (("rows", rows), ("columns", columns)):
        if np.ndim(matrix) != 2:
            raise ValueError(f"{name} has shape {np.shape(matrix)}; give a matrix.")
    return Separable(_decomposed(rows), _decomposed(columns))


def _decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return u, s, vt.T


def box_downsampling(height: int, width: int, factor: int) -> Separable:
    """Every factor × factor block of pixels by its mean: (b, height, width, c) -> (b, height/f, width/f, c).

    The smaller picture of DDRM and of ΠGDM's experiments by averaging (Kawar et al. 2022, arXiv:2201.11793, appendix
    D.1). A Aᵀ = I/f². Raises ValueError for a factor that does not divide both sides.
    """
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor = {factor} does not divide {height} × {width} pixels; give one that divides both.")
    rows, columns = (np.kron(np.eye(side // factor), np.full((1, factor), 1 / factor)) for side in (height, width))
    return separable(rows, columns)


def gaussian_blur(height: int, width: int, std: float) -> Separable:
    """Each pixel by the mean of those around it with weights e^{−d²/(2 std²)}, `std` in pixels.

    The weights end at 4 standard deviations and add up to 1; beyond its edges the picture is mirrored, the outermost
    pixel first and once, so that A is symmetric and a flat picture stays as it is. Raises ValueError unless std > 0.
    """
    if not 0 < std < math.inf:
        raise ValueError(f"std = {std}; give a width in pixels above 0.")
    return separable(_blurring(height, std), _blurring(width, std))


def _blurring(side: int, std: float) -> Float[np.ndarray, "side side"]:
    """The matrix of the blur along one axis."""
    reach = int(_REACH * std + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / std) ** 2)
    weights /= weights.sum()
    places = (np.arange(side)[:, None] + offsets) % (2 * side)  # mirrored, with a period of two sides
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], np.minimum(places, 2 * side - 1 - places)), weights)
    return matrix
