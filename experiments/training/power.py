"""Power-function averages of the parameters: their profiles, and the synthesis of one profile from others.

The average of width σ_rel after t updates weighs the parameters after update t' by the profile

    p(t') = (γ + 1) t'^γ / t^(γ+1),   0 < t' ≤ t,

with mean t (γ + 1)/(γ + 2) and standard deviation σ_rel t: a longer training is averaged over a longer time. A step of
the training weighs what the profile has between t' − 1 and t', exactly.

Source: Karras et al. 2024, arXiv:2312.02696 (EDM2), section 3 and appendix C.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float64

from experiments.config.nodes import WIDEST


class Profile(NamedTuple):
    """An average of relative width `sigma_rel` after `step` updates."""

    sigma_rel: float
    step: int


@functools.cache
def exponent(sigma_rel: float) -> float:
    """γ of a relative width in (0, 12^(−1/2)]: the largest root of γ³ + 7γ² + (16 − σ⁻²)γ + 12 − σ⁻² = 0.

    Raises ValueError for a width out of that range.
    """
    if not 0 < sigma_rel <= WIDEST:
        raise ValueError(f"sigma_rel is {sigma_rel}; give a width above 0 and up to {WIDEST:.4f}.")
    precision = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision])
    return max(0.0, float(np.max(roots.real)))


def relative_width(gamma: float) -> float:
    """σ_rel = √((γ + 1)/(γ + 3))/(γ + 2), the standard deviation of the profile by its length t."""
    return float(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))


def newcomer(updates: ArrayLike, gamma: float) -> Float[Array, ""]:
    """1 − β(t) = 1 − (1 − 1/t)^(γ+1): the part of the average that the parameters after update t = `updates` take.

    It is 1 at t = 1, so that nothing is left of the initial parameters. In float32 it is exact to rounding at any t.
    """
    t = jnp.asarray(updates, jnp.float32)
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / t))


def inner_products(ones: Sequence[Profile], others: Sequence[Profile]) -> Float64[np.ndarray, "n m"]:
    """∫ p_a p_b dt' of each profile a with each b, with m = min(t_a, t_b):

    (γ_a + 1)(γ_b + 1)/(γ_a + γ_b + 1) · (m/t_a)^γ_a (m/t_b)^γ_b / max(t_a, t_b).
    """
    gamma_a, gamma_b = (np.array([exponent(one.sigma_rel) for one in many]) for many in (ones, others))
    t_a, t_b = (np.array([one.step for one in many], np.float64) for many in (ones, others))
    gamma_a, t_a = gamma_a[:, None], t_a[:, None]
    least = np.minimum(t_a, t_b)
    overlap = (least / t_a) ** gamma_a * (least / t_b) ** gamma_b / np.maximum(t_a, t_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * overlap


def synthesis(kept: Sequence[Profile], wanted: Profile) -> tuple[Float64[np.ndarray, " n"], float]:
    """(The weights x of the kept profiles whose sum is nearest to the wanted one, the distance that is left.)

    x minimises ‖Σ xᵢ pᵢ − p‖² in L² under Σ xᵢ = 1, so that parameters that never moved are kept; the distance is by
    ‖p‖. The average is then Σ xᵢ θᵢ of the averages θᵢ that were kept.

    Source: EDM2, appendix C.3, which has no such condition.
    """
    gram, shared = inner_products(kept, kept), inner_products(kept, [wanted])[:, 0]
    scale, norm = np.sqrt(np.diag(gram)), inner_products([wanted], [wanted])[0, 0]
    # Profiles of unit norm, for a better condition; the last unknown is the multiplier of the condition on the sum.
    ones = 1 / scale
    matrix = np.block([[gram / np.outer(scale, scale), ones[:, None]], [ones[None], np.zeros((1, 1))]])
    solved = np.linalg.lstsq(matrix, np.append(shared / scale, 1.0), rcond=1e-14)[0]
    weights = solved[:-1] / scale
    left = norm - 2 * weights @ shared + weights @ gram @ weights
    return weights, float(np.sqrt(max(left, 0.0) / norm))
