"""Student's t as a mixture of Gaussians, integrated over the logarithm of the precision.

z = n/√τ with τ ~ Gamma(df/2, rate df/2) is Student-t with `df` degrees of freedom. With u = ln τ the density of u is

    p(u) = a^a/Γ(a) exp(a u − a e^u),   a = df/2

and every integral of the oracles has this factor times (S + s² e^{−u})^{−d/2} exp(−r²/(2(S + s² e^{−u}))), which is
analytic for |Im u| < π/2. The trapezoid rule on the whole line then converges exponentially in 1/h (Trefethen &
Weideman 2014, "The exponentially convergent trapezoidal rule", theorem 5.1); the narrowest bump it must resolve has
the width 1/√((d + df)/2).
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.log_gamma import stirling_remainder
from diffusion.noises import Gaussian, Noise, StudentT
from diffusion.pytree import pytree

_NEGLIGIBLE = 34.0  # e^{−34} = 2e-15


@pytree
class Rule:
    """Σ_n exp(log_weights_n) N(0, spreads_n I) stands for a law of scale one."""

    spreads: Float[Array, " N"]
    """1/τ at the nodes: the variance of each Gaussian."""
    log_weights: Float[Array, " N"]
    """ln of the step times the density of ln τ at the nodes."""


def student_rule(df: float | Array, d: int, dtype: np.dtype) -> Rule:
    """Nodes for Student's t with `df` degrees of freedom in d dimensions.

    Their number, 200 + 22√d, depends on d alone, so that `df` may be traced; their spacing 2π/(14 + 7√((d + df)/2))
    and their upper end depend on both. All nodes that are left over go to small τ, that is, to far tails.
    Measured against closed forms, densities, scores and denoisers are right in float64 to 5e-12 for df >= 1 (1e-10
    for df = 1/2, d = 1), for any width of the data, as far out as |x| ≈ 1e4 times the scale (df <= 128; for larger
    df, whose tails are light, not as far); in float32 to 1e-6 for small d and df, 1e-4 at d = 784, where logits
    of the size of d + df are rounded. Beyond that reach a density continues as a Gaussian's.
    """
    half, total = jnp.asarray(df, dtype) / 2, (jnp.asarray(df, dtype) + d) / 2
    step = 2 * math.pi / (14 + 7 * jnp.sqrt(total))
    top = jnp.maximum(_reach(half), jnp.log(total / half) + _reach(total))
    u = top - step * jnp.arange(math.ceil(200 + 22 * math.sqrt(d)), dtype=dtype)
    # ln[a^a e^{−a}/Γ(a)] = ½ ln(a/2π) − μ(a): its large terms cancel.
    log_peak = 0.5 * jnp.log(half / (2 * math.pi)) - stirling_remainder(half)
    log_density = log_peak - half * (jnp.expm1(u) - u)
    return Rule(jnp.exp(-u), log_density + jnp.log(step))


def _reach(a: Array) -> Array:
    """A distance δ above its mode at which exp(a u − a e^u) has become negligible: e^δ − 1 − δ >= 34/a."""
    # With y = s²/2, ln(1 + y + s) <= s gives the inequality.
    y = _NEGLIGIBLE / a
    return jnp.log1p(y + jnp.sqrt(2 * y))


def noise_rule(noise: Noise, d: int, dtype: np.dtype) -> Rule:
    """The noise as a mixture of Gaussians: one node for Gaussian noise.

    Raises TypeError for a noise that is neither Gaussian nor Student-t.
    """
    if isinstance(noise, Gaussian):
        return Rule(jnp.ones(1, dtype), jnp.zeros(1, dtype))
    if isinstance(noise, StudentT):
        return student_rule(noise.df, d, dtype)
    raise TypeError(f"noise = {noise!r} has no exact marginals here; use Gaussian() or StudentT(df).")
