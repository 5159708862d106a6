"""Densities for data that are integers: noise inside the bin, and what it costs.

For x on levels w apart and a density p on the line, the model of the integers is P(x) = ∫ p over x's bin, and

    ln P(x) >= E_q [ln p(y) − ln q(y|x)],   y ~ q(·|x) inside the bin of x

(Theis et al. 2016, arXiv:1511.01844; Ho et al. 2019, Flow++, arXiv:1902.00275, eq. 11). Uniform q has ln q = −d ln w;
the best q is p itself, confined to the bin, and makes the two sides equal. A density model must be trained on data
with noise of the same width, or it may put all its mass on the levels.

Pixels u in 0..255 scaled to x = u/127.5 − 1 have w = 2/255. For any scaling x = u/a + b it is w = 1/a, and nats of a
density become bits/dim of masses by adding log2(a): 6.994 here, 7 for u/128 − 1, 8 for u/256.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, ndtr, ndtri
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import event_size, sum_event
from diffusion.likelihood.divergence import element_keys
from diffusion.process import Process
from diffusion.pytree import is_concrete, short_repr

Proposal = Callable[[Array, Array], tuple[Array, Array]]
"""(keys (b,), x (b, *event)) -> (u in [0, 1] (b, *event), ln q(u|x) (b,) in nats): the place of x within its bin."""


class Dequantised(NamedTuple):
    """Levels with noise inside their bins."""

    y: Float[Array, "b *event"]
    """x + (u − ½) w."""
    log_q: Float[Array, " b"]
    """ln q(y|x) in nats: that of u, less d ln w."""

    __repr__ = short_repr


def dequantise_uniform(
    key: Key[Array, ""],
    x: Float[Array, "b *event"],
    bin_width: float = 2 / 255,
    *,
    ids: ArrayLike | None = None,
) -> Dequantised:
    """y = x + (u − ½) w with u uniform on [0, 1), w = `bin_width`; ln q = −d ln w.

    Element i depends on (key, ids[i]) alone, ids being 0..b − 1 unless given.
    Raises ValueError when the width is not positive or ids do not fit.
    """

    def proposal(keys: Array, x: Array) -> tuple[Array, Array]:
        return keys_lib.uniform(keys, x.shape[1:], x.dtype), jnp.zeros(x.shape[0], x.dtype)

    return dequantise_variational(key, x, proposal, bin_width, ids=ids)


def dequantise_variational(
    key: Key[Array, ""],
    x: Float[Array, "b *event"],
    proposal: Proposal,
    bin_width: float = 2 / 255,
    *,
    ids: ArrayLike | None = None,
) -> Dequantised:
    """y = x + (u − ½) w with (u, ln q(u|x)) = `proposal`(keys, x), w = `bin_width`; ln q(y|x) = ln q(u|x) − d ln w.

    The keys are those of (key, ids[i]), ids being 0..b − 1 unless given.
    Raises ValueError when the width is not positive, or ids or the proposal's answer do not fit.
    """
    if is_concrete(bin_width) and not bin_width > 0:
        raise ValueError(f"bin_width = {bin_width}; a bin must have a positive width, 2/255 for 8 bits on [-1, 1].")
    u, log_q = proposal(element_keys(key, x.shape[0], ids), x)
    if u.shape != x.shape or log_q.shape != x.shape[:1]:
        raise ValueError(
            f"the proposal gave shapes {u.shape} and {log_q.shape} for x of shape {x.shape}; give u of the shape of x "
            "and one log-density for each element."
        )
    return Dequantised(x + (u - 0.5) * bin_width, log_q - event_size(x) * jnp.log(bin_width))


def truncated_normal(process: Process, t: ArrayLike, bin_width: float = 2 / 255) -> Proposal:
    """q(y|x) = N(α_t x, σ_t² I) confined to the bin of x: for a density p_t of data with the noise of time t.

    (Zheng et al. 2023, arXiv:2305.03935, section 4.3.) A model that was trained on the levels themselves has peaks of
    the width σ_t on them, between which uniform noise finds nothing where σ_t is below the bin's width; this q has the
    peaks' form. Where σ_t is far above the width it is uniform. It needs no training, and ln q(u|x) is exact.
    """
    return Partial(_truncated_normal, process, t, bin_width)


@jax.jit
def _truncated_normal(process: Process, t: ArrayLike, bin_width: ArrayLike, keys: Array, x: Array) -> Any:
    """(u, ln q(u|x)), u by the inverse of the distribution function."""
    alpha, sigma = (jnp.asarray(v(t), x.dtype) for v in (process.alpha, process.sigma))
    low, high = (((1 - alpha) * x + side * bin_width) / sigma for side in (-0.5, 0.5))
    below, inside = ndtr(low), ndtr(high) - ndtr(low)
    # A draw of 0 exactly stands for what is below the least other: half of that, not the edge of the bin.
    part = jnp.maximum(keys_lib.uniform(keys, x.shape[1:], x.dtype), 0.5 * jnp.finfo(x.dtype).eps)
    z = jnp.clip(ndtri(below + part * inside), low, high)
    log_q = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + jnp.log(bin_width / (sigma * inside))
    return ((alpha - 1) * x + sigma * z) / bin_width + 0.5, sum_event(log_q)


def discrete_log_prob(
    log_prob: Float[np.ndarray | Array, "*draws b"], log_q: Float[np.ndarray | Array, "..."]
) -> Float[Array, " b"]:
    """ln p(y) − ln q(y|x) in nats: on average at most ln P(x) (Ho et al. 2019, eq. 11).

    For (n, b) draws it is ln (1/n) Σ_n p/q, whose average is closer to ln P(x) (Burda et al. 2016, arXiv:1509.00519).
    In bits per dimension it is `bits_per_dim(-value, d)`, without an offset: it is the logarithm of a mass.
    Raises ValueError when the shapes differ or have more than two axes.
    """
    if log_prob.shape != log_q.shape or log_prob.ndim not in (1, 2):
        raise ValueError(
            f"log_prob has shape {log_prob.shape} and log_q {log_q.shape}; give both as (b,), or as (draws, b)."
        )
    ratio = jnp.asarray(log_prob - log_q).reshape(-1, log_prob.shape[-1])
    return logsumexp(ratio, axis=0) - jnp.log(ratio.shape[0])
