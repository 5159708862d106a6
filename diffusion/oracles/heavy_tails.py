"""ln p(x | k) under Student-t noise, relative to one component: what float32 can hold.

With A_k = df ρ_k² + |x − α m_k|², ρ_k the scale of x about α m_k,

    ln p(x | k) − ln p(x | 0) = ½ df ln(ρ_k²/ρ_0²) − ½ (d + df) ln(A_k/A_0)

In d = 10⁵ dimensions, a million times as far from the data as it is wide, each ln p is of the order 10⁶ and rounded to
a tenth, while the differences that make the weights are small and well determined: |x − α m_k|² − |x − α m_0|² =
Σ α (m_0 − m_k)(2x − α m_k − α m_0) has no cancellation there.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.noises import REACH


def relative_log_student(
    d: int, df: Array, square: Float[Array, " K"], total: Float[Array, " K"], first: tuple[Array, Array], gap: Array
) -> Float[Array, " K"]:
    """ln p(x | k) − ln p(x | 0) for each k; `first` is (square, total) of component 0, `gap` is square − first[0]."""
    own, reference = df * total + square, df * first[1] + first[0]
    beyond = (own * REACH > reference) | (reference * REACH > own)
    ratio = jnp.where(beyond, 1.0, own) / reference
    close = (ratio > 0.5) & (ratio < 2) & ~beyond
    small = jnp.where(close, df * (total - first[1]) + gap, 0.0) / reference
    far = jnp.where(beyond, jnp.log(own) - jnp.log(reference), jnp.log(jnp.where(beyond, 1.0, ratio)))
    log_ratio = jnp.where(close, jnp.log1p(small), far)
    return 0.5 * df * jnp.log(total / first[1]) - 0.5 * (d + df) * log_ratio
