"""The field in the N dimensions of the data themselves, and why PFGM adds another.

Inside a shell of charges it vanishes (Newton's theorem), inside a ball it points to the centre. So the lines that come
from afar never enter a shell, and all lines into a ball lead to one point: the generator forgets where it started,
and collapses. Above the hyperplane of an extra dimension lines end where the charges are, as many as there are charges.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.arrays import expand, sum_event
from diffusion.log_gamma import log_sphere_area
from diffusion.oracles.laws import Atoms
from diffusion.poisson.field import require_positive


def plain_field(charges: Atoms, x: Float[Array, "b *event"]) -> Float[Array, "b *event"]:
    """E = Σ_k w_k (x − y_k)/(S_{N−1} |x − y_k|^N), of charges in the N dimensions of the data themselves.

    Raises ValueError for N < 2.
    """
    if charges.dim < 2:
        raise ValueError(f"the charges live in N = {charges.dim} dimensions; the field without a further one needs 2.")
    c, n = charges.components(x.dtype), charges.dim

    def one(x: Array) -> Array:
        gap = x - c.means
        log_strength = c.log_weights - 0.5 * n * jnp.log(jnp.sum(gap**2, axis=1))
        return jnp.sum(jnp.exp(log_strength - log_sphere_area(jnp.asarray(n, x.dtype)))[:, None] * gap, axis=0)

    return jax.lax.map(one, x.reshape(x.shape[0], -1)).reshape(x.shape)


def shell_field(x: Float[Array, "b *event"], radius: float = 1.0) -> Float[Array, "b *event"]:
    """E of a unit charge spread over |y| = `radius`: 0 inside, x/(S_{N−1} |x|^N) outside."""
    return _around(x, radius, inside=False)


def ball_field(x: Float[Array, "b *event"], radius: float = 1.0) -> Float[Array, "b *event"]:
    """E of a unit charge spread over |y| <= `radius`: x/(S_{N−1} `radius`^N) inside, so that all lines meet at 0."""
    return _around(x, radius, inside=True)


def _around(x: Array, radius: float, inside: bool) -> Array:
    require_positive("radius", radius, "that of the charges")
    n = x[0].size
    length = jnp.sqrt(sum_event(x**2))
    outer = jnp.maximum(length, radius)
    strength = jnp.exp(-n * jnp.log(outer) - log_sphere_area(jnp.asarray(n, x.dtype)))
    return expand(strength if inside else jnp.where(length < radius, 0.0, strength), x) * x


def shell(dim: int, radius: float = 1.0, points: int = 64) -> Atoms:
    """Charges that stand for the shell |y| = `radius` in 2 or 3 dimensions, to rounding where |x| is far from it.

    2 `points` evenly around, times `points` of Gauss-Legendre in the height for dim = 3: inside, an error of the order
    (|x|/radius)^(2 `points`) is left.
    Raises ValueError in other dimensions.
    """
    if dim not in (2, 3):
        raise ValueError(f"dim = {dim}; a shell of charges is made in 2 or 3 dimensions.")
    angle = np.pi * (np.arange(2 * points) + 0.5) / points
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if dim == 2:
        return Atoms(radius * circle, None)
    height, weights = np.polynomial.legendre.leggauss(points)
    across = np.sqrt(1 - height**2)[:, None, None] * circle
    high = np.broadcast_to(height[:, None, None], (*across.shape[:2], 1))
    return Atoms(radius * np.concatenate([across, high], axis=2).reshape(-1, 3), np.repeat(weights, 2 * points))
