"""The discrete chain as a continuous process: a smooth schedule through its times, so that there is a flow to follow.

A network that was trained on `Betas` knows the times 1, ..., T. Between them it is asked here too, at the fractional
time, of the variance-preserving process whose ln α is the chain's at each of the integers and falls smoothly between:

    ln α(k) = ln α_k,   σ² = 1 − α²,   k = 0, 1, ..., T

As T grows, `Betas.linear_rate` read so tends to `VP` (Song et al. 2021, arXiv:2011.13456, appendix B), and its noise
levels are those between which Karras et al. 2022, arXiv:2206.00364, appendix C.3.4, take the nearest.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.betas import Betas, ChainSchedule
from diffusion.process import Process
from diffusion.pytree import pytree
from diffusion.schedules import Times


def continuous(process: Process) -> Process:
    """The process of a chain read between its times, by `InterpolatedBetas`; another process as it is."""
    if not isinstance(process.schedule, Betas):
        return process
    return Process(InterpolatedBetas.through(process.schedule), process.noise)


@pytree
class InterpolatedBetas(ChainSchedule):
    """ln α(t) by the cubic spline through ln α_0, ..., ln α_T, bent where that would not fall; made by `through`.

    At the integers α, σ and ln(α²/σ²) are those of `Betas`, bit for bit. The slopes are continuous, and those of the
    spline have an error of third order in the spacing of the times. Where the chain ends with none of the data, α_T = 0
    and ln α has no spline to its end: then α itself is a cubic in the last interval, of the same slope where it begins.
    Times are those of the chain: the data are at 0, the prior at T, the least time that a network knows is 1.
    """

    log_alphas: Float[np.ndarray | Array, " T+1"]
    """ln α_k, k = 0..T."""
    slopes: Float[np.ndarray | Array, " T+1"]
    """d ln α/dt at k = 0..T, of which the last is dα/dt where α_T = 0."""

    @classmethod
    def through(cls, chain: Betas) -> InterpolatedBetas:
        """The schedule through the times of a chain."""
        values = np.asarray(chain.log_alphas, np.float64)
        finite = values[:-1] if np.isneginf(values[-1]) else values
        slopes = _falling(finite, _spline_slopes(finite))
        if len(finite) < len(values):
            # α itself is a cubic from here, which falls where its slope is at most thrice its fall.
            slopes[-1] = max(slopes[-1], -3.0)
            slopes = np.append(slopes, _last_slope(np.exp(finite[-1]), slopes[-1]))
        return cls(values, slopes)

    def network_time(self, t: Times) -> Float[Array, "..."]:
        """max(t, 1): below its first time the network is asked there, with the noise as it is."""
        t = jnp.asarray(t, jnp.result_type(float, t))
        return jnp.where(t < 1, 1.0, t)

    def _tables(self) -> tuple[Array, Array]:
        """(ln α_k, slopes), with finite numbers in place of the last where α_T = 0."""
        kind = jnp.result_type(float)
        values, slopes = jnp.asarray(self.log_alphas, kind), jnp.asarray(self.slopes, kind)
        blank = jnp.isneginf(values)
        return jnp.where(blank, values[-2], values), slopes

    def _place(self, t: Times) -> tuple[Array, Array, Array]:
        """(k, the next, t − k) for k = ⌊t⌋, of times within [0, T]."""
        t = _within(jnp.asarray(t, jnp.result_type(float, t)), float(self.steps))
        k = jnp.floor(t).astype(jnp.int32)
        return k, jnp.minimum(k + 1, self.steps), t - k

    def _in_last(self, t: Times) -> Array:
        """Whether α itself is the cubic at t."""
        t = jnp.asarray(t)
        return jnp.isneginf(jnp.asarray(self.log_alphas)[-1]) & (t > self.steps - 1)

    def _spline(self, t: Times) -> Array:
        values, slopes = self._tables()
        k, after, u = self._place(t)
        return _cubic(values[k], values[after], slopes[k], slopes[after], u)

    def _last_alpha(self, t: Times) -> Array:
        """α in the last interval of a chain with α_T = 0."""
        values, slopes = self._tables()
        start = jnp.exp(values[-2])
        # From the end, so that it is 0 there.
        left = _within(self.steps - jnp.asarray(t, jnp.result_type(float, t)), 1.0)
        return _cubic(jnp.zeros_like(start), start, -slopes[-1], -start * slopes[-2], left)

    def log_alpha(self, t: Times) -> Float[Array, "..."]:
        """ln α, the spline; −∞ where α = 0."""
        last = self._in_last(t)
        # A logarithm of 1 where it is not taken, so that its slope is finite there.
        return jnp.where(last, jnp.log(jnp.where(last, self._last_alpha(t), 1.0)), self._spline(t))

    def alpha(self, t: Times) -> Float[Array, "..."]:
        """α, exactly 0 where the chain ends in noise."""
        return jnp.where(self._in_last(t), self._last_alpha(t), jnp.exp(self._spline(t)))

    def variance(self, t: Times) -> Float[Array, "..."]:
        """σ² = 1 − α²."""
        last = self._in_last(t)
        return jnp.where(last, 1 - self._last_alpha(t) ** 2, 0.0 - jnp.expm1(2 * self._spline(t)))


def _within(value: Array, end: float) -> Array:
    """`value` held in [0, end], with its derivative at the ends themselves: a clip's is half of it there."""
    return jnp.where(value < 0, 0.0, jnp.where(value > end, end, value))


def _cubic(start: Array, end: Array, slope: Array, end_slope: Array, u: Array) -> Array:
    """The cubic on [0, 1] with these values and slopes at its ends: `start` exactly at u = 0."""
    rise = end - start
    return start + u * (slope + u * (3 * rise - 2 * slope - end_slope + u * (slope + end_slope - 2 * rise)))


def _spline_slopes(values: np.ndarray) -> np.ndarray:
    """The slopes of the cubic spline through values one apart: m_{k−1} + 4 m_k + m_{k+1} = 3 (y_{k+1} − y_{k−1}).

    Those at the ends are of the cubic through the first, and the last, four values (de Boor 1978, chapter IV).
    """
    count = len(values)
    slopes = np.zeros(count)
    if count < 2:
        return slopes
    slopes[0], slopes[-1] = _end_slope(values), -_end_slope(values[::-1])
    right = 3 * (values[2:] - values[:-2])
    if count > 2:
        right[0] -= slopes[0]
        right[-1] -= slopes[-1]
    pivots = np.full(len(right), 4.0)
    for k in range(1, len(right)):  # Gaussian elimination of a tridiagonal system
        pivots[k] -= 1 / pivots[k - 1]
        right[k] -= right[k - 1] / pivots[k - 1]
    following = 0.0
    for k in reversed(range(len(right))):
        following = slopes[k + 1] = (right[k] - (following if k + 1 < len(right) else 0.0)) / pivots[k]
    return slopes


def _end_slope(values: np.ndarray) -> float:
    """The slope at the first value of the polynomial through the first four, or as many as there are."""
    weights = {2: (-1.0, 1.0), 3: (-1.5, 2.0, -0.5), 4: (-11 / 6, 3.0, -1.5, 1 / 3)}[min(4, len(values))]
    return float(np.dot(weights, values[: len(weights)]))


def _falling(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The slopes no steeper than thrice a neighbouring difference, nor rising, so that the cubics fall.

    Source: Fritsch & Carlson 1980, SIAM J. Numer. Anal. 17, 238; Hyman 1983, SIAM J. Sci. Stat. Comput. 4, 645.
    """
    falls = np.diff(values)
    if not len(falls):
        return slopes
    least = 3 * np.maximum(np.concatenate([falls[:1], falls]), np.concatenate([falls, falls[-1:]]))
    return np.clip(slopes, least, 0.0)


def _last_slope(alpha: float, slope: float) -> float:
    """dα/dt at T of the parabola from α_{T−1}, with the slope of ln α there, to 0; within what falls."""
    return float(np.clip(-2 * alpha - alpha * slope, -3 * alpha, 0.0))
