"""Flow maps: where the probability-flow ODE that is at x at time t will be at time s, Φ_{t→s}(x).

Four functions of (x, t, s) are one another up to factors that the schedule gives:

    flow map               Φ_{t→s}(x)
    average velocity       u(x, t, s) = (x − Φ)/(t − s)                    Geng et al. 2025, arXiv:2505.13447, eq. 3
    two-time denoiser      G with Φ = α_s G + σ_s (x − α_t G)/σ_t          Kim et al. 2024, arXiv:2310.02279
    consistency function   f(x, t) = Φ_{t→0}(x) = G(x, t, 0)               Song et al. 2023, arXiv:2303.01469

A network is trained as G: whatever it answers, Φ_{t→t}(x) = x, in every schedule, and Φ leaves x along the velocity of
the denoiser G(x, t, t), since ∂_s Φ at s = t is α' G + σ' (x − α G)/σ. So one network is a denoiser, for every
sampler, and a flow map, for one or a few calls: DDIM's step with G(x, t, s) in place of x̂_0 is exact for any s.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand, slope
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import bound

FlowMap = Callable[[Array, ArrayLike, ArrayLike], Array]
"""(x, t, s) -> Φ_{t→s}(x), for x (b, *event) and times that are scalars or (b,)."""
TwoTimeDenoiser = Callable[[Array, ArrayLike, ArrayLike], Array]
"""(x, t, s) -> G(x, t, s), (b, *event)."""
AverageVelocity = Callable[[Array, ArrayLike, ArrayLike], Array]
"""(x, t, s) -> u(x, t, s), (b, *event)."""

_NEAR = 1e-2
"""The gap, in parts of the larger time, below which a divided difference is the mean of the slope instead."""
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
"""Gauss and Legendre's rule of three nodes on [0, 1]."""


def map_from_x0(
    process: Process, x: Float[Array, "b *event"], x_0: Array, t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    """Φ = (σ_s/σ_t) x + (α_s − α_t σ_s/σ_t) G of a two-time denoiser's answer x_0 = G(x, t, s): x itself at s = t.

    With a denoiser's E[x_0|x_t = x] it is DDIM's step. NaN from t = 0 to other times, where x does not tell its noise.
    """
    ratio = _noise_ratio(process, t, s)
    return expand(ratio, x) * x + expand(process.alpha(s) - process.alpha(t) * ratio, x) * x_0


def x0_from_map(
    process: Process, x: Float[Array, "b *event"], there: Array, t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    """G = (Φ − (σ_s/σ_t) x)/(α_s − α_t σ_s/σ_t) of `there` = Φ_{t→s}(x); at s = t, where it is 0/0, NaN."""
    ratio = _noise_ratio(process, t, s)
    return (there - expand(ratio, x) * x) / expand(process.alpha(s) - process.alpha(t) * ratio, x)


def velocity_from_map(x: Float[Array, "b *event"], there: Array, t: ArrayLike, s: ArrayLike) -> Array:
    """u = (x − Φ)/(t − s) of `there` = Φ_{t→s}(x); at s = t, where it is 0/0, NaN."""
    return (x - there) / expand(jnp.asarray(t, x.dtype) - jnp.asarray(s, x.dtype), x)


def average_velocity_from_x0(
    process: Process, x: Float[Array, "b *event"], x_0: Array, t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    """u = δα G + δσ (x − α_t G)/σ_t of x_0 = G(x, t, s), with δα = (α_t − α_s)/(t − s) and δσ likewise.

    At s = t these are α' and σ', and u is the velocity of the denoiser G(x, t, t). Under `RectifiedFlow` and `EDM`
    u = (x − G)/t whatever s is. An error of G is an error some 1/t times as large of u as t -> 0.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    noise = (x - expand(alpha, x) * x_0) / expand(sigma, x)
    return (
        expand(mean_slope(process.alpha, t, s), x) * x_0 + expand(mean_slope(process.sigma, t, s), x) * noise
    ).astype(x.dtype)


def x0_from_average_velocity(
    process: Process, x: Float[Array, "b *event"], u: Array, t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    """G = (σ_t u − δσ x)/(σ_t δα − α_t δσ), the inverse of `average_velocity_from_x0`: x − t u for `RectifiedFlow`."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    up, down = mean_slope(process.sigma, t, s), mean_slope(process.alpha, t, s)
    return (expand(sigma, x) * u - expand(up, x) * x) / expand(sigma * down - alpha * up, x)


def flow_map(process: Process, two_time: TwoTimeDenoiser) -> FlowMap:
    """Φ_{t→s}(x) of a two-time denoiser, by `map_from_x0`."""
    return bound(_flow_map, process, two_time)


def _flow_map(process: Process, two_time: TwoTimeDenoiser, x: Array, t: ArrayLike, s: ArrayLike) -> Array:
    return map_from_x0(process, x, two_time(x, t, s), t, s)


def average_velocity(process: Process, two_time: TwoTimeDenoiser) -> AverageVelocity:
    """u(x, t, s) of a two-time denoiser, by `average_velocity_from_x0`."""
    return bound(_average_velocity, process, two_time)


def _average_velocity(process: Process, two_time: TwoTimeDenoiser, x: Array, t: ArrayLike, s: ArrayLike) -> Array:
    return average_velocity_from_x0(process, x, two_time(x, t, s), t, s)


def instantaneous(two_time: TwoTimeDenoiser) -> Denoiser:
    """The denoiser (x, t) -> G(x, t, t) that a two-time denoiser holds."""
    return bound(_instantaneous, two_time)


def _instantaneous(two_time: TwoTimeDenoiser, x: Array, t: ArrayLike) -> Array:
    return two_time(x, t, t)


def consistency_function(of: FlowMap | TwoTimeDenoiser) -> Denoiser:
    """(x, t) -> Φ_{t→0}(x), which is G(x, t, 0) too: α = 1 and σ = 0 at the data; x itself at t = 0.

    That it tends to x as t -> 0 is built into networks of the kinds edm, v, velocity and eps, and not into x0.
    """
    return bound(_to_data, of)


def _to_data(of: FlowMap, x: Array, t: ArrayLike) -> Array:
    t = jnp.asarray(t)
    there = t == 0  # where a network would be told an infinite number, and x is the answer
    later = jnp.where(there, 1, t)
    return jnp.where(expand(there, x), x, of(x, later, jnp.zeros_like(later)))


def mean_slope(function: Callable[[ArrayLike], Array], t: ArrayLike, s: ArrayLike) -> Float[Array, "..."]:
    """(h(t) − h(s))/(t − s), and h'(t) at s = t, of an elementwise function h of time.

    Where t and s are within a hundredth of each other the difference has lost its digits: there it is the mean of h'
    between them by three nodes of Gauss and Legendre, whose error is of the order of the gap to the sixth.
    """
    t, s = jnp.broadcast_arrays(*(jnp.asarray(time, jnp.result_type(float, time)) for time in (t, s)))
    near = jnp.abs(t - s) <= _NEAR * jnp.maximum(jnp.abs(t), jnp.abs(s))
    apart = jnp.where(near, 1.0, t - s)
    # Where it is not taken the quotient is of two equal times, and the mean slope that at t, finite off the data.
    far = (function(t) - function(jnp.where(near, t, s))) / apart
    gap = jnp.where(near, s - t, 0.0)
    inner = sum(w * slope(function, t + node * gap) for node, w in zip(_NODES, _WEIGHTS, strict=True))
    return jnp.where(near, inner, far)


def _noise_ratio(process: Process, t: ArrayLike, s: ArrayLike) -> Array:
    """σ_s/σ_t, and 1 where both are 0."""
    above, below = process.sigma(s), process.sigma(t)
    still = (above == 0) & (below == 0)
    return jnp.where(still, 1.0, above / jnp.where(still, 1.0, below))
