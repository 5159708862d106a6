"""The laws of z in x_t = α x_0 + σ z, isotropic and of unit scale.

Gaussian gives diffusion models. Student-t with `df` degrees of freedom gives PFGM++ (Xu et al. 2023,
arXiv:2302.04265: their D is our df, their r is σ√D); df = 1, the multivariate Cauchy law, gives PFGM
(Xu et al. 2022, arXiv:2209.11178); df → ∞ is Gaussian again.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import sum_event
from diffusion.draws import precise
from diffusion.log_gamma import log_gamma_ratio
from diffusion.pytree import is_concrete, pytree

REACH = 1e-30
"""The inverse of a quotient of squares that float32 still holds; beyond it logarithms are subtracted instead."""


class Noise:
    """An isotropic law on events of any shape."""

    def sample(self, key: Key[Array, "..."], shape: tuple[int, ...], dtype=None) -> Float[Array, "b *event"]:
        """Draws of shape (b, *event); one key, or one for each element of the batch."""
        raise NotImplementedError

    def log_prob(self, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """ln p(z) in nats, summed over the event."""
        raise NotImplementedError

    def scale(self, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """The width of the Gaussian that z was drawn from, as estimated from |z|: 1 for Gaussian noise."""
        return jnp.ones(z.shape[0], z.dtype)


@pytree
class Gaussian(Noise):
    """z ~ N(0, I)."""

    def sample(self, key: Key[Array, "..."], shape: tuple[int, ...], dtype=None) -> Float[Array, "b *event"]:
        """Standard normal draws of shape (b, *event)."""
        return keys_lib.normal(keys_lib.as_keys(key, shape[0]), tuple(shape[1:]), dtype)

    def log_prob(self, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """−½ |z|² − ½ d ln 2π."""
        return sum_event(-0.5 * z**2 - 0.5 * math.log(2 * math.pi))


@pytree
class StudentT(Noise):
    """z = n √(df/χ²_df): the multivariate Student-t law, heavy tailed and isotropic but not independent by coordinate.

    Its density is proportional to (df + |z|²)^{−(d + df)/2}, so that x = y + σz has PFGM++'s kernel
    (|x − y|² + σ² D)^{−(d + D)/2} at D = df (Xu et al. 2023, eq. 5).

    At df = 1 it has no mean, at df <= 2 no variance: one draw in a thousand is 600 times as long as the median one,
    as it should be: clipped, it would have another law. (Sampled images too start that far out and come back.)
    """

    df: float | Array = 1.0
    """Degrees of freedom: PFGM++'s D; 1 is PFGM."""

    def __post_init__(self) -> None:
        if is_concrete(self.df) and not self.df > 0:
            raise ValueError(f"df = {self.df}; the degrees of freedom must be positive, 1 for PFGM, larger for PFGM++.")

    def sample(self, key: Key[Array, "..."], shape: tuple[int, ...], dtype=None) -> Float[Array, "b *event"]:
        """Draws of shape (b, *event). The χ² is drawn as a logarithm: at df = 1 it comes close to 0."""
        return _sample_student(keys_lib.as_keys(key, shape[0]), self.df, tuple(shape[1:]), dtype)

    def log_prob(self, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """ln Γ((df+d)/2) − ln Γ(df/2) − ½ d ln(π df) − ½ (df+d) ln(1 + |z|²/df), accurate for df > 1/ε too."""
        one = jnp.ones((), z.dtype)
        return log_student(math.prod(z.shape[1:]), jnp.asarray(self.df, z.dtype), sum_event(z**2), one)

    def scale(self, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """√((df + |z|²)/(df + d)): z = n √(df/χ²), and this squared is 1/E[χ²/df | z]."""
        return jnp.sqrt((self.df + sum_event(z**2)) / (self.df + math.prod(z.shape[1:])))


@functools.partial(jax.jit, static_argnames=("event", "dtype"))
def _sample_student(keys: keys_lib.Draws, df: ArrayLike, event: tuple[int, ...], dtype: Any) -> Array:
    wanted = dtype or jnp.result_type(float)
    gauss = keys_lib.normal(keys_lib.fold(keys, 0), event, precise(wanted))
    half = jnp.asarray(df, gauss.dtype) / 2
    log_gamma = jax.vmap(lambda k: jax.random.loggamma(k, half, dtype=gauss.dtype))(keys_lib.fold(keys, 1))
    # χ²_df = 2 Gamma(df/2), so √(df/χ²) = √(half/Gamma(half)).
    scale = jnp.exp(0.5 * (jnp.log(half) - log_gamma))
    return (gauss * scale.reshape((-1,) + (1,) * (gauss.ndim - 1))).astype(wanted)


@functools.partial(jax.jit, static_argnames="d")
def log_student(d: int, df: Array, square: Array, total: Array) -> Float[Array, "..."]:
    """ln of the density of Student's t in d dimensions with scale² `total`, at |x|² = `square`."""
    constant = log_gamma_ratio(df / 2, jnp.asarray(d / 2, df.dtype)) - 0.5 * d * math.log(2 * math.pi)
    scale = df * total
    overflows = square * REACH > scale
    near = jnp.log1p(jnp.where(overflows, 0.0, square) / scale)
    far = jnp.log(jnp.where(overflows, square, 1.0)) - jnp.log(scale)
    return constant - 0.5 * (df + d) * jnp.where(overflows, far, near) - 0.5 * d * jnp.log(total)


def require_gaussian(noise: Noise, what: str) -> None:
    """Raise TypeError unless the noise is Gaussian; `what` names the thing that exists for it alone."""
    if not isinstance(noise, Gaussian):
        raise TypeError(
            f"{what} exists for Gaussian noise only, and the noise is {type(noise).__name__}; "
            "use the denoiser or the probability-flow velocity, which hold for any noise."
        )
