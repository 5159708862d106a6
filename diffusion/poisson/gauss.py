"""Gauss's law: the field as a function of one vector (x, r), its divergence, its curl.

    ∇·E = Σ_i ∂_i E_i + ∂_r E_r + (D − 1)/r E_r = 0 and ∂_a E_b = ∂_b E_a     above the hyperplane

With the surfaces of `diffusion.fokker_planck`, at D = 1: half of the charge goes up through every plane z > 0 and
through a hemisphere around the data, none through a closed surface that holds no charge. (Of F = −E the flux is −½.)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from diffusion.likelihood.divergence import divergence as flat_divergence
from diffusion.oracles.law import Law
from diffusion.poisson.field import poisson_field

Augmented = Callable[[Array], Array]
"""(x, r) (n, N + 1) -> (E_x, E_r) (n, N + 1): what `diffusion.fokker_planck.box_flux` and its like take."""


def augmented_field(law: Law, df: float | Array = 1.0) -> Augmented:
    """(x, r) -> (E_x, E_r) in one vector, the event flattened; below the hyperplane, r < 0, its mirror image."""
    return Partial(_augmented, law, df=df)


def _augmented(law: Law, points: Float[Array, "n d"], df: float | Array) -> Float[Array, "n d"]:
    x, height = points[:, :-1], points[:, -1]
    below = height < 0
    field = poisson_field(law, x.reshape(-1, *law.event_shape), jnp.where(below, -height, height), df)
    along_x, along_r = field.vector
    return jnp.concatenate([along_x.reshape(x.shape), jnp.where(below, -along_r, along_r)[:, None]], axis=1)


def divergence(field: Augmented, points: Float[Array, "n d"], df: float | Array = 1.0) -> Float[Array, " n"]:
    """∇·E at (x, r) in N + D dimensions, of a field that depends on the extra ones by r alone."""
    return flat_divergence(field, points).value + (df - 1) / points[:, -1] * field(points)[:, -1]


def curl(field: Augmented, points: Float[Array, "n d"]) -> Float[Array, "n d d"]:
    """∂_b E_a − ∂_a E_b at (x, r)."""
    jacobian = jax.vmap(jax.jacfwd(lambda point: field(point[None])[0]))(points)
    return jacobian - jnp.swapaxes(jacobian, 1, 2)
