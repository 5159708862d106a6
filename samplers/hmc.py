"""Hamiltonian Monte Carlo: a sample moves like a particle in the potential −ln p, and the move is accepted or not.

    H(x, v) = −ln p(x) + ½|v|²,   dx/dt = v,  dv/dt = ∇ln p(x)

The exact flow keeps H and volume, and so the law ∝ e^{−H} = p(x) N(v; 0, I). The leapfrog keeps volume exactly, is its
own inverse when v is reversed, and changes H by O(ε²); accepting with probability min(1, e^{−ΔH}) makes up for that.
(Duane et al. 1987; Neal 2011, arXiv:1206.1901, sections 2 and 3.) One leapfrog of length √η is MALA's step of size η.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion import keys as keys_lib
from diffusion.arrays import expand, sum_event
from diffusion.keys import Draws
from samplers.langevin import Adjusted


def leapfrog(
    gradient: Callable[[Array], Array],
    x: Float[Array, "b *event"],
    v: Float[Array, "b *event"],
    size: ArrayLike,
    count: int,
) -> tuple[Float[Array, "b *event"], Float[Array, "b *event"]]:
    """(x, v) after `count` leapfrogs of length ε = `size`, a scalar or (b,); `gradient` is ∇ln p.

    Each is v + ½ε ∇ln p(x), then x + ε v, then v + ½ε ∇ln p(x) (Neal 2011, eq. 2.28 to 2.30); count + 1 gradients.
    """
    epsilon = expand(jnp.asarray(size, x.dtype), x)

    def one(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, v, slope = state
        v = v + 0.5 * epsilon * slope
        x = x + epsilon * v
        slope = gradient(x)
        return x, v + 0.5 * epsilon * slope, slope

    x, v, _ = jax.lax.fori_loop(0, count, one, (x, v, gradient(x)))
    return x, v


def hmc_step(
    keys: Draws,
    x: Float[Array, "b *event"],
    log_density: Callable[[Array], Array],
    size: ArrayLike,
    leapfrogs: int,
) -> Adjusted:
    """A fresh v ~ N(0, I), `leapfrogs` leapfrogs of length `size`, accepted with probability min(1, e^{−ΔH}).

    `log_density` is x -> ln p(x) (b,) up to a constant, an energy with its sign changed; `size` is ε, a scalar or
    (b,), stable up to twice the narrowest standard deviation of p. p itself is left invariant, at any size, and
    sample i depends on keys[i] alone. Raises ValueError for fewer than one leapfrog.
    """
    if leapfrogs < 1:
        raise ValueError(f"leapfrogs = {leapfrogs}; give at least 1, which is MALA.")

    def gradient(y: Array) -> Array:
        values, pull = jax.vjp(log_density, y)
        return pull(jnp.ones_like(values))[0]

    v = keys_lib.normal(keys_lib.fold(keys, 0), x.shape[1:], x.dtype)
    proposal, w = leapfrog(gradient, x, v, size, leapfrogs)
    chance = log_density(proposal) - log_density(x) + 0.5 * sum_event(v**2 - w**2)
    # NaN, from a proposal outside the density's support, makes the comparison false: it is rejected.
    accepted = jnp.log(keys_lib.uniform(keys_lib.fold(keys, 1), (), x.dtype)) < chance
    return Adjusted(jnp.where(expand(accepted, x), proposal, x), accepted)
