"""Mean and covariance of a linear SDE, whose solutions of the Fokker-Planck equation stay Gaussian for ever:

    dx = (F(t) x + c(t)) dt + G(t) dw        m' = F m + c,    S' = F S + S Fᵀ + G Gᵀ

(Särkkä & Solin 2019, section 6.1). A step is an affine map, m -> A m + b, S -> A S Aᵀ + Q, and one matrix
exponential holds all of it (Van Loan 1978, IEEE Trans. Autom. Control 23, 395):

        [ F  GGᵀ  c ]                     [ A  Q A⁻ᵀ  b ]
    H = [ 0  −Fᵀ  0 ],        exp ∫ H  =  [ 0   A⁻ᵀ   0 ]
        [ 0   0   0 ]                     [ 0    0    1 ]

exact for constant coefficients. For others the exponent is Magnus's of order 6 at three Gauss-Legendre nodes (Blanes,
Casas & Ros 2000, BIT 40, 434), whose commutators keep the form of H.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.pytree import as_partial, as_traced, short_repr

Coefficient = ArrayLike | Callable[[Array], Array]
"""A constant, or a function of the time."""

_TAYLOR = 16
"""The terms of Taylor's series: ½^17/17! is below the rounding of float64."""
_DOUBLINGS = 40
"""The most times that an exponent is halved, and its map doubled."""


class Moments(NamedTuple):
    """The Gaussians at the times asked for."""

    means: Float[Array, "n d"]
    """The means."""
    covariances: Float[Array, "n d d"]
    """The covariances."""
    error: Float[Array, " n"]
    """An estimate of the largest error of an entry of either."""

    __repr__ = short_repr


def linear_moments(
    drift: Coefficient,
    spread: Coefficient,
    mean: Float[np.ndarray | Array, " d"],
    covariance: Float[np.ndarray | Array, "d d"],
    times: Float[np.ndarray | Array, " n"],
    *,
    offset: Coefficient = 0.0,
    steps: int = 8,
) -> Moments:
    """Mean and covariance at `times` of dx = (F x + c) dt + G dw from those at times[0].

    `drift` F is a number, F I, or (d, d); `spread` G a number, G I, a diagonal (d,), or (d, m); `offset` c a number,
    the same in every direction, or (d,). Each is a constant, or a function of t, not read at the `times` themselves.
    Between neighbours of `times` 2 `steps` are taken. Their error is rounding for constant coefficients, O(Δt⁶) for
    smooth ones, and estimated by 1/63 of the difference to `steps` steps. Descending times run the SDE backwards,
    dx = (F x + c) dt + G dw̄.

    Raises ValueError when shapes do not fit, or steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}; at least 1 is needed.")
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ValueError(f"mean and covariance have shapes {mean.shape} and {covariance.shape}; give (d,) and (d, d).")
    if not isinstance(times, Tracer) and not np.all(np.isfinite(times)):
        raise ValueError(f"times = {times}; they must be finite.")
    d, dtype = len(mean), jnp.result_type(float)
    F, G, c = (as_traced(_as_function(value, dtype)) for value in (drift, spread, offset))
    for name, function, fits, shapes in (
        ("drift", F, lambda s: s in ((), (d, d)), f"(), or ({d}, {d})"),
        ("spread", G, lambda s: s == () or (len(s) <= 2 and s[0] == d), f"(), ({d},), or ({d}, m)"),
        ("offset", c, lambda s: s in ((), (d,)), f"(), or ({d},)"),
    ):
        shape = jax.eval_shape(function, jax.ShapeDtypeStruct((), dtype)).shape
        if not fits(shape):
            raise ValueError(f"{name} has shape {shape} for a mean of {d} numbers; give {shapes}.")
    mean, covariance, times = (jnp.asarray(a, dtype) for a in (mean, covariance, times))
    return _moments((F, G, c), mean, covariance, times, steps=steps)


def _as_function(value: Any, dtype: Any) -> Partial:
    return as_partial(value) if callable(value) else Partial(_constant, jnp.asarray(value, dtype))


def _constant(value: Array, t: Array) -> Array:
    del t
    return value


Coefficients = tuple[Partial, Partial, Partial]
"""F, G and c, functions of t."""


@functools.partial(jax.jit, static_argnames="steps")
def _moments(coefficients: Coefficients, mean: Array, covariance: Array, times: Array, *, steps: int) -> Moments:
    coarse = _integrate(coefficients, mean, covariance, times, steps)
    means, covariances = _integrate(coefficients, mean, covariance, times, 2 * steps)
    gaps = jnp.max(jnp.abs(means - coarse[0]), axis=1), jnp.max(jnp.abs(covariances - coarse[1]), axis=(1, 2))
    return Moments(means, covariances, jnp.maximum(*gaps) / 63)


def _integrate(coefficients: Coefficients, m: Array, S: Array, times: Array, steps: int) -> tuple[Array, Array]:
    """Means and covariances at the times, `steps` of Magnus between neighbours."""
    h = jnp.repeat(jnp.diff(times) / steps, steps)
    starts = jnp.repeat(times[:-1], steps) + jnp.tile(jnp.arange(steps, dtype=h.dtype), len(times) - 1) * h
    maps = jax.vmap(lambda start, h: _affine(_magnus(coefficients, len(m), start, h), len(m)))(starts, h)

    def step(state: tuple[Array, Array], step: _Affine) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        m, S = state
        m, S = _product(step.A, m) + step.b, _congruence(step.A, S) + step.Q
        return (m, S), (m, S)

    means, covariances = jax.lax.scan(step, (m, S), maps)[1]
    at = slice(steps - 1, None, steps)
    return jnp.concatenate([m[None], means[at]]), jnp.concatenate([S[None], covariances[at]])


def _generator(coefficients: Coefficients, d: int, t: Array, sign: Array) -> Float[Array, "k k"]:
    """H at t, k = 2d + 1; the sign of dt turns F and c but not G Gᵀ."""
    F, G, c = (function(t) for function in coefficients)
    F = F * jnp.eye(d, dtype=t.dtype) if F.ndim == 0 else F
    spread = G * jnp.eye(d, dtype=t.dtype) if G.ndim == 0 else jnp.diag(G) if G.ndim == 1 else G
    H = jnp.zeros((2 * d + 1, 2 * d + 1), t.dtype)
    H = H.at[:d, :d].set(F).at[d : 2 * d, d : 2 * d].set(-F.T)
    return H.at[:d, d : 2 * d].set(sign * _product(spread, spread.T)).at[:d, -1].set(c)


def _magnus(coefficients: Coefficients, d: int, start: Array, h: Array) -> Float[Array, "k k"]:
    """ln of the flow of H from `start` over h, up to O(h⁷)."""
    root = math.sqrt(15)
    nodes = jnp.asarray([0.5 - root / 10, 0.5, 0.5 + root / 10], h.dtype)
    first, middle, last = jax.vmap(lambda node: h * _generator(coefficients, d, start + node * h, jnp.sign(h)))(nodes)
    one, two, three = middle, root / 3 * (last - first), 10 / 3 * (last - 2 * middle + first)
    inner = _commutator(one, two)
    outer = -_commutator(one, 2 * three + inner) / 60
    return one + three / 12 + _commutator(-20 * one - three + inner, two + outer) / 240


class _Affine(NamedTuple):
    """m -> A m + b, S -> A S Aᵀ + Q."""

    A: Array
    b: Array
    Q: Array


def _affine(exponent: Float[Array, "k k"], d: int) -> _Affine:
    """The map of exp(exponent): by Taylor's series where F is at most ½, and doubled from there.

    A⁻ᵀ grows where A decays; doubled, a stable F only adds what is positive.
    """
    size = jnp.max(jnp.sum(jnp.abs(exponent[:d, :d]), axis=1))
    halvings = jnp.where(size > 0.5, jnp.ceil(jnp.log2(jnp.maximum(size, 0.5))) + 1, 0)
    X = exponent * jnp.exp2(-halvings)
    identity = jnp.eye(len(X), dtype=X.dtype)
    E = jax.lax.fori_loop(0, _TAYLOR, lambda i, E: identity + _product(X, E) / (_TAYLOR - i), identity)
    A = E[:d, :d]
    once = _Affine(A, E[:d, -1], _product(E[:d, d : 2 * d], A.T))

    def double(k: Array, now: _Affine) -> _Affine:
        A, b, Q = now
        twice = _Affine(_product(A, A), _product(A, b) + b, _congruence(A, Q) + Q)
        return jax.tree.map(lambda new, old: jnp.where(k < halvings, new, old), twice, now)

    return jax.lax.fori_loop(0, _DOUBLINGS, double, once)


def _product(a: Array, b: Array) -> Array:
    """a b, in full precision on an accelerator too."""
    return jnp.matmul(a, b, precision="highest")


def _congruence(A: Array, S: Array) -> Array:
    """A S Aᵀ, symmetric to the last digit."""
    moved = _product(_product(A, S), A.T)
    return 0.5 * (moved + moved.T)


def _commutator(a: Array, b: Array) -> Array:
    return _product(a, b) - _product(b, a)
