"""The laws of x that PFGM draws: the prior on the hyperplane, and the perturbation of training.

Seen from afar all data are one charge at 0, whose lines cross the hyperplane at distance r with the density

    p(x) = S_{D−1} r^{D−1} E_r = S_{D−1} r^D/(S_{N+D−1} (|x|² + r²)^{(N+D)/2})

which is the law of Student's t with D degrees of freedom and scale r/√D: the `prior_sample` of a `poisson_process`. It
is drawn as x = r g_x/|g_r| for Gaussian g in N + D dimensions (Student's χ² is |g_r|²), never from clipped Beta draws.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import event_size, expand, sum_event
from diffusion.log_gamma import log_sphere_area
from diffusion.noises import StudentT
from diffusion.poisson.field import sigma_from_radius
from diffusion.pytree import is_concrete, pytree


def hyperplane_log_prob(x: Float[Array, "b *event"], r: ArrayLike, df: float | Array = 1.0) -> Float[Array, " b"]:
    """ln [S_{D−1} r^D/(S_{N+D−1} (|x|² + r²)^{(N+D)/2})] in nats, S_{N+D−1} the sphere's area in N + D dimensions.

    Equal to `prior_log_prob` of `poisson_process(df)` at σ = r/√D, which stays exact in float32 for large N or D too.
    (Taking that of N dimensions at D = 1, as PFGM's published code does, costs ½ ln(N/2π) nats, 0.0015 bits/dim at
    N = 3072.)
    """
    n = event_size(x) + jnp.asarray(df, x.dtype)
    squares = sum_event(x**2) + jnp.asarray(r) ** 2
    areas = log_sphere_area(jnp.asarray(df, x.dtype)) - log_sphere_area(n)
    return areas + df * jnp.log(jnp.asarray(r, x.dtype)) - 0.5 * n * jnp.log(squares)


def hyperplane_sample(
    key: Key[Array, "..."], shape: tuple[int, ...], r: ArrayLike, df: float = 1.0
) -> Float[Array, "b *event"]:
    """x ~ p on the hyperplane at distance r, (b, *event), never clipped; one key, or one for each element."""
    return jnp.asarray(sigma_from_radius(r, df)) * StudentT(df).sample(key, shape)


@pytree
class Perturbation:
    """x = x_0 + |ε_x| (1+τ)^m u, z = |ε_z| (1+τ)^m with ε ~ N(0, σ² I_{N+1}), m ~ U[0, M], u uniform on the sphere.

    Points at every distance from the data, on rays that do not depend on m: |x − x_0|/z has the law of
    |g_x|/|g_z|, the prior's own (Xu et al. 2022, section 3.2). The defaults are those for CIFAR-10.
    """

    sigma: float = 0.01
    """The smallest scale, σ."""
    tau: float = 0.03
    """The relative growth τ of the scale: the largest is σ (1 + τ)^M."""
    m_max: float = 291.0
    """The largest exponent, M."""

    def __post_init__(self) -> None:
        for name in ("sigma", "tau", "m_max"):
            value = getattr(self, name)
            if is_concrete(value) and not value > 0:
                raise ValueError(f"{name} = {value}; it must be positive, in PFGM sigma 0.01, tau 0.03, m_max 291.")


def perturb_augmented(
    key: Key[Array, "..."], x_0: Float[Array, "b *event"], perturbation: Perturbation | None = None
) -> tuple[Float[Array, "b *event"], Float[Array, " b"]]:
    """(x, z) around each x_0; one key, or one for each element. z is 0 only where |ε_z| underflows."""
    law = perturbation or Perturbation()
    keys = keys_lib.as_keys(key, x_0.shape[0])
    # |ε_x| u for a uniform u is ε_x itself.
    eps = keys_lib.normal(keys_lib.fold(keys, 0), x_0.shape[1:], x_0.dtype)
    eps_z = jnp.abs(keys_lib.normal(keys_lib.fold(keys, 1), (), x_0.dtype))
    m = law.m_max * keys_lib.uniform(keys_lib.fold(keys, 2), dtype=x_0.dtype)
    scale = law.sigma * jnp.exp(m * jnp.log1p(law.tau))
    return x_0 + expand(scale, eps) * eps, scale * eps_z
