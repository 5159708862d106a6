"""The range of the data, imposed on the denoiser's answer: sample by sample, never over the batch.

Samplers read ε̂ off x_t and the answer, so they step along the changed x̂_0 and its own noise. A learned variance, the
second half of a pair, passes through as it is, and a second time, which a flow map is told, is passed on.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand
from diffusion.ddpm.reverse_steps import joined, split_denoised
from diffusion.prediction import Denoiser
from diffusion.pytree import as_partial, is_concrete


def clipped(denoise: Denoiser, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> Denoiser:
    """x̂_0 clipped to [low, high] coordinate by coordinate: the range of the data, [−1, 1] for images.

    `low` and `high` are scalars, or arrays of the shape of an event. With the exact denoiser of data within the range
    this changes nothing, since a mean of such data is within it too (Ho et al. 2020, their code's `clip_denoised`).
    Raises ValueError unless low < high.
    """
    if is_concrete(low, high) and not low < high:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"low = {low} and high = {high} leave no range to clip to; use low < high, such as -1 and 1.")
    return Partial(_clipped, as_partial(denoise), low, high)


def _clipped(denoise: Any, low: ArrayLike, high: ArrayLike, x: Array, t: ArrayLike, *second: ArrayLike) -> Any:
    x_0, v = split_denoised(denoise(x, t, *second))
    return joined(jnp.clip(x_0, jnp.asarray(low, x_0.dtype), jnp.asarray(high, x_0.dtype)), v)


def dynamically_thresholded(denoise: Denoiser, percentile: ArrayLike = 99.5) -> Denoiser:
    """x̂_0 clipped to [−s, s] and divided by s, with s = max(1, the percentile of |x̂_0| over one sample's event).

    For data in [−1, 1], where strong guidance drives x̂_0 out of the range: instead of piling up at the ends, as
    `clipped` leaves them, pixels are pulled inward (Saharia et al. 2022, arXiv:2205.11487, section 2.3).
    `percentile` is in [0, 100], a scalar; 100 only rescales. Raises ValueError outside.
    """
    if is_concrete(percentile) and not 0 <= percentile <= 100:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"percentile = {percentile}; give a number of percent in [0, 100], such as 99.5.")
    return Partial(_thresholded, as_partial(denoise), percentile)


def _thresholded(denoise: Any, percentile: ArrayLike, x: Array, t: ArrayLike, *second: ArrayLike) -> Any:
    x_0, v = split_denoised(denoise(x, t, *second))
    s = expand(dynamic_threshold(x_0, percentile), x_0)
    return joined(jnp.clip(x_0, -s, s) / s, v)


def dynamic_threshold(x_0: Float[Array, "b *event"], percentile: ArrayLike) -> Float[Array, " b"]:
    """s = max(1, the percentile of |x_0| over the event), linear between the order statistics."""
    sizes = jnp.abs(x_0.reshape(x_0.shape[0], -1))
    # In float32 at least: a bfloat16 network would read the rank itself in eight bits.
    precise = jnp.promote_types(x_0.dtype, jnp.float32)
    s = jnp.percentile(sizes.astype(precise), jnp.asarray(percentile, precise), axis=-1)
    return jnp.maximum(s, 1.0).astype(x_0.dtype)
