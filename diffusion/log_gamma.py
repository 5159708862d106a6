"""Ratios of Gamma functions without the cancellation of their logarithms.

ln Γ(x) = (x − ½) ln x − x + ½ ln 2π + μ(x), with μ(x) → 1/(12x) (Stirling; Binet's function). In a ratio the large
terms cancel; as a difference of two ln Γ they leave their rounding behind, whole nats in float32 from x ≈ 10⁶ on.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float

_BINET = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_LARGE = 8.0  # where the first term left out, 1/(156 x¹³), is 1e-14
_SERIES = [(-1.0) ** k / (k * (k - 1)) for k in range(17, 1, -1)]


def stirling_remainder(x: ArrayLike) -> Float[Array, "..."]:
    """μ(x) = ln Γ(x) − [(x − ½) ln x − x + ½ ln 2π] for x > 0: its asymptotic series from 8 on."""
    x = jnp.asarray(x, jnp.result_type(float, x))
    large = jnp.maximum(x, _LARGE)
    series = jnp.polyval(jnp.asarray(_BINET[::-1], x.dtype), 1 / large**2) / large
    small = jnp.minimum(x, _LARGE)
    direct = gammaln(small) - (small - 0.5) * jnp.log(small) + small - 0.5 * math.log(2 * math.pi)
    return jnp.where(x < _LARGE, direct, series)


@jax.jit
def log_gamma_ratio(a: ArrayLike, b: ArrayLike) -> Float[Array, "..."]:
    """ln [Γ(a + b)/(Γ(a) aᵇ)] for a > 0, b >= 0, which goes to 0 like b (b − 1)/(2a) as a grows.

    (a + b − ½) ln(1 + b/a) − b + μ(a + b) − μ(a), where b/a is small by the series of (1 + u) ln(1 + u) − u.
    """
    a, b = jnp.asarray(a, jnp.result_type(float, a)), jnp.asarray(b, jnp.result_type(float, b))
    u = b / a
    near = jnp.where(u < 0.1, u, 0.0)
    far = jnp.where(u < 0.1, 1.0, u)
    excess = jnp.where(
        u < 0.1,
        b * near * jnp.polyval(jnp.asarray(np.asarray(_SERIES), u.dtype), near),
        a * ((1 + far) * jnp.log1p(far)) - b,
    )
    return excess - 0.5 * jnp.log1p(u) + stirling_remainder(a + b) - stirling_remainder(a)


def log_sphere_area(n: ArrayLike) -> Float[Array, "..."]:
    """ln S_{n−1} = ln [2 π^{n/2}/Γ(n/2)], the area of the unit sphere in n dimensions, n > 0: S_0 = 2, S_1 = 2π."""
    half = jnp.asarray(n, jnp.result_type(float, n)) / 2
    return math.log(2) + half * math.log(math.pi) - gammaln(half)
