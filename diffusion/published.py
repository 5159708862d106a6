"""What networks that others have published are told of the noise level, from ρ = σ/α.

A network may be given any schedule, for x/α is an image under noise of level ρ. These are the numbers c_noise of Karras
et al. 2022, arXiv:2206.00364, table 1, with the constants of that table:

    vp       999 t(ρ)       t of the schedule VP(0.1, 20), whose levels are √(e^{B(t)} − 1)
    ve       ln(ρ/2)
    iddpm    k − 1          k the step of the cosine chain of 1,000 whose level is nearest, counted from the data
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.betas import Betas
from diffusion.schedules import VP

TIMES = 1000
"""The number of steps of the chains behind "vp" and "iddpm"."""


def told(kind: str, level: Float[Array, " b"]) -> Float[Array, " b"]:
    """c_noise of a published network of this kind at the noise level ρ."""
    if kind == "vp":
        return (TIMES - 1) * VP().time_from_log_snr(-2 * jnp.log(level))
    if kind == "ve":
        return jnp.log(level / 2)
    return nearest_step(level).astype(level.dtype) - 1


def nearest_step(level: Float[Array, " b"]) -> Array:
    """The step 0, ..., 1000 of the cosine chain whose level √(1 − α²)/α is nearest to ρ; 0 is the data.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, with β clipped at 0.999.
    """
    between = _middles().astype(level.dtype)
    return jnp.sum(level[..., None] > between, axis=-1)


@functools.cache
def _middles() -> np.ndarray:
    """The levels half-way between those of neighbouring steps, in float64."""
    levels = cosine_levels()
    return (levels[1:] + levels[:-1]) / 2


def cosine_levels() -> np.ndarray:
    """ρ_k = √(1/α_k² − 1) of the steps k = 0, ..., 1000 of the cosine chain, in float64."""
    return np.sqrt(np.expm1(-2 * np.asarray(Betas.cosine(TIMES).log_alphas, np.float64)))
