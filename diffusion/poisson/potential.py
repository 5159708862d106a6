"""The potential of charges, −Δφ = ρ: for a unit charge in n dimensions φ = 1/((n − 2) S_{n−1} R^{n−2}).

In two dimensions it is −ln(R)/2π.

Cauchy data of scale γ act, from above, like a point charge at the depth γ below the hyperplane: an image charge.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Float

from diffusion.log_gamma import log_sphere_area
from diffusion.oracles.law import Law
from diffusion.oracles.laws import Atoms, Dirac, StudentTMixture
from diffusion.poisson.field import require_positive
from diffusion.pytree import is_concrete


def potential(law: Law, x: Float[Array, "b *event"], r: ArrayLike, df: float = 1.0) -> Float[Array, " b"]:
    """φ at (x, r) of a total charge of 1 in n = N + D dimensions, n >= 2; at n = 2 it is −∫ ρ ln|R|/2π.

    `law` is Atoms or Dirac, or at D = 1 a Cauchy mixture; `df` is a number, not traced. Beyond some thirty
    dimensions use `log_potential`.
    Raises TypeError for another law, ValueError for r or df <= 0 or n < 2.
    """
    log_weights, log_squares, n = _distances(law, x, r, df)
    if n == 2:
        return -jnp.sum(jnp.exp(log_weights) * log_squares, axis=1) / (4 * math.pi)
    return jnp.exp(_log_potential(log_weights, log_squares, n))


def log_potential(law: Law, x: Float[Array, "b *event"], r: ArrayLike, df: float = 1.0) -> Float[Array, " b"]:
    """ln φ, in n = N + D > 2 dimensions however many. Raises as `potential` does, and ValueError for n <= 2."""
    log_weights, log_squares, n = _distances(law, x, r, df)
    if n <= 2:
        raise ValueError(f"N + D = {n:g}; the potential is positive in more than 2 dimensions only, take `potential`.")
    return _log_potential(log_weights, log_squares, n)


def _log_potential(log_weights: Array, log_squares: Array, n: float) -> Float[Array, " b"]:
    one = jnp.asarray(n, log_squares.dtype)
    summed = logsumexp(log_weights - 0.5 * (one - 2) * log_squares, axis=1)
    return summed - jnp.log(one - 2) - log_sphere_area(one)


def _distances(law: Law, x: Array, r: ArrayLike, df: float) -> tuple[Array, Array, float]:
    """(ln of the charges, ln of the squared distances (b, K) to them or to their images, n)."""
    require_positive("r", r, "the potential is that above the hyperplane of the data")
    require_positive("df", df, "D counts the extra dimensions, 1 for PFGM")
    n = law.dim + df
    if is_concrete(n) and n < 2:
        raise ValueError(f"N + D = {n:g}; give at least 2 dimensions.")
    if isinstance(law, (Atoms, Dirac)):
        c = law.components(x.dtype)
    elif isinstance(law, StudentTMixture) and is_concrete(law.df, df) and law.df == 1 and df == 1:
        c = law._unmixed(x.dtype)
    else:
        raise TypeError(f"{type(law).__name__} at D = {df} has no image charges; give Atoms, or Cauchy data at D = 1.")
    depth = jnp.broadcast_to(jnp.asarray(r, x.dtype), (x.shape[0],))

    def one(at: tuple[Array, Array]) -> Array:
        return jnp.log(jnp.sum((at[0] - c.means) ** 2, axis=1) + (at[1] + jnp.sqrt(c.floor)) ** 2)

    # Point by point: no array of points times charges times dimensions.
    return c.log_weights, jax.lax.map(one, (x.reshape(x.shape[0], -1), depth)), n
