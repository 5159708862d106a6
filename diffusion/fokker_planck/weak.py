"""The Fokker-Planck equation by test functions: from samples alone, with derivatives of nothing but φ.

    d/dt E φ(x_t) = E[f·∇φ + D:∇∇φ]        for every smooth φ

(Multiply the equation by φ and integrate by parts.) The left side is a central difference along samples whose noise is
common to all times, so that what is random in it and in the right side cancels sample by sample; its O(h²) is found
from a second, wider difference, removed, and reported beside the Monte-Carlo error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import betainc
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.fokker_planck.equation import FokkerPlanck, along_spread
from diffusion.process import Process, perturb
from diffusion.pytree import pytree, short_repr

EXACT_UP_TO = 64
"""The largest dimension in which D:∇∇φ is exact."""

Paths = Callable[[ArrayLike], Array]
"""t -> x_t (n, *event): samples of p_t from the same randomness at every t."""


class TestFunctions:
    """m smooth functions: (n, *event) -> (n, m)."""

    __test__ = False  # not a class of tests

    def __call__(self, x: Float[Array, "n *event"]) -> Float[Array, "n m"]:
        """φ_j(x_i)."""
        raise NotImplementedError


@pytree
class Cosines(TestFunctions):
    """φ_j(x) = cos(k_j·x + c_j): bounded with all its derivatives, and E φ is a characteristic function."""

    frequencies: Float[Array, "m d"]
    """The vectors k_j."""
    phases: Float[Array, " m"]
    """The angles c_j."""

    @classmethod
    def random(cls, key: Key[Array, ""], count: int, dim: int, scale: float = 1.0) -> Cosines:
        """k ~ N(0, scale² I), c uniform on the circle. The E φ of all k tell any two laws apart."""
        direction, phase = jax.random.split(key)
        frequencies = scale * jax.random.normal(direction, (count, dim))
        return cls(frequencies, 2 * jnp.pi * jax.random.uniform(phase, (count,)))

    def __call__(self, x: Float[Array, "n *event"]) -> Float[Array, "n m"]:
        """cos(k·x + c)."""
        return jnp.cos(_flat(x) @ self.frequencies.T + self.phases)


@pytree
class GaussianBumps(TestFunctions):
    """φ_j(x) = exp(−|x − c_j|²/2w_j²): local, so that they tell where the equation fails."""

    centres: Float[Array, "m d"]
    """The points c_j."""
    widths: Float[Array, " m"]
    """The standard deviations w_j."""

    def __call__(self, x: Float[Array, "n *event"]) -> Float[Array, "n m"]:
        """exp(−|x − c|²/2w²)."""
        gaps = _flat(x)[:, None, :] - self.centres
        return jnp.exp(-0.5 * jnp.sum(gaps**2, axis=-1) / self.widths**2)


_HIGHEST = 15
"""The highest power of a coordinate."""


@pytree
class Monomials(TestFunctions):
    """φ_j(x) = Π_i x_i^{p_ji}: the equations of the moments. Heavy-tailed laws may not have them."""

    powers: Float[Array, "m d"]
    """The exponents p_ji, whole numbers."""

    def __post_init__(self) -> None:
        if isinstance(self.powers, (np.ndarray, jax.Array)) and not isinstance(self.powers, Tracer):
            powers = np.asarray(self.powers)
            if not np.all((powers >= 0) & (powers <= _HIGHEST) & (powers == np.round(powers))):
                span = f"{powers.min():g} to {powers.max():g}"
                raise ValueError(f"powers are {span}; give whole numbers of 0 to {_HIGHEST}.")

    @classmethod
    def up_to(cls, degree: int, dim: int) -> Monomials:
        """All of degree 1 to `degree`, which are (d + degree)!/(d! degree!) − 1."""
        if degree < 1:
            raise ValueError(f"degree = {degree}; give at least 1, for a constant says nothing.")
        rows = [np.zeros(dim, int)]
        found: list[np.ndarray] = []
        for _ in range(degree):
            rows = [row + unit for row in rows for unit in np.eye(dim, dtype=int)]
            rows = [np.asarray(row) for row in sorted({tuple(row.tolist()) for row in rows}, reverse=True)]
            found.extend(rows)
        return cls(jnp.asarray(np.stack(found), jnp.result_type(float)))

    def __call__(self, x: Float[Array, "n *event"]) -> Float[Array, "n m"]:
        """Π x_i^{p_i}."""
        # A power with an exponent of 0 is 1 with a derivative of 0, even at x = 0.
        safe = jnp.where(self.powers > 0, _flat(x)[:, None, :], 1.0)
        whole = self.powers.astype(jnp.int32)
        return jnp.prod(_integer_power(safe, whole), axis=-1)


def _integer_power(x: Array, power: Array) -> Array:
    """x^p for traced p of 0 to 15, by squaring: differentiable at x <= 0."""
    result, square = jnp.ones_like(x * power), x
    for bit in range(4):
        result = jnp.where((power >> bit) & 1 == 1, result * square, result)
        square = square * square
    return result


def _flat(x: Array) -> Float[Array, "n d"]:
    return x.reshape(x.shape[0], -1)


def generator(
    equation: FokkerPlanck,
    functions: TestFunctions,
    x: Float[Array, "n *event"],
    t: ArrayLike,
    *,
    key: Key[Array, ""] | None = None,
    probes: int = 8,
) -> Float[Array, "n m"]:
    """(Lφ)(x) = f·∇φ + D:∇∇φ, Itô's generator, for each function: d second derivatives along the columns of G.

    Beyond 64 dimensions it is an unbiased estimate from `probes` directions G v, v of ±1, which need a `key`.
    Raises TypeError without it.
    """
    spread, d = jnp.asarray(equation.spread(x, t)), math.prod(x.shape[1:])

    def curvature(v: Array) -> Array:
        direction = along_spread(spread, v)
        slope = lambda y: jax.jvp(functions, (y,), (direction,))[1]  # noqa: E731
        return jax.jvp(slope, (x,), (direction,))[1]

    first = jax.jvp(functions, (x,), (equation.drift(x, t),))[1]
    if d <= EXACT_UP_TO:
        units = jnp.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])
        total = jax.lax.map(lambda unit: curvature(jnp.broadcast_to(unit, x.shape)), units)
        return first + 0.5 * jnp.sum(total, axis=0)
    if key is None:
        raise TypeError(
            f"key = None, and in {d} dimensions second derivatives are estimated; give jax.random.key(seed)."
        )
    keys = keys_lib.sample_keys(key, jnp.arange(x.shape[0]))
    draw = jax.vmap(lambda k: jax.random.rademacher(k, x.shape[1:], x.dtype))
    total = jax.lax.map(lambda i: curvature(draw(keys_lib.fold(keys, i))), jnp.arange(probes))
    return first + 0.5 * jnp.mean(total, axis=0)


class WeakResidual(NamedTuple):
    """What `weak_residual` returns, for m test functions."""

    value: Float[Array, " m"]
    """d/dt E φ − E Lφ, the O(h²) removed."""
    standard_error: Float[Array, " m"]
    """The standard error of the Monte-Carlo mean."""
    discretisation: Float[Array, " m"]
    """The O(h²) that was removed; what remains is O(h⁴)."""
    p_value: Float[Array, ""]
    """The p-value of all functions together, by Hotelling's T²: uniform on [0, 1] for many samples when the
    equation holds."""

    __repr__ = short_repr


def coupled_paths(process: Process, x_0: Float[Array, "n *event"], z: Float[Array, "n *event"]) -> Paths:
    """t -> α x_0 + σ z with the same x_0 and z at every time: samples of the marginals p_t."""
    return Partial(_coupled, process, x_0, z)


def _coupled(process: Process, x_0: Array, z: Array, t: ArrayLike) -> Array:
    return perturb(process, x_0, z, t)


def weak_residual(
    equation: FokkerPlanck,
    paths: Paths,
    functions: TestFunctions,
    t: ArrayLike,
    *,
    step: ArrayLike = 1e-3,
    key: Key[Array, ""] | None = None,
) -> WeakResidual:
    """d/dt E φ(x_t) − E[f·∇φ + D:∇∇φ] at one time t, from samples at t, t ± h and t ± 2h, h = `step`.

    `paths` gives the samples, `coupled_paths` those of a process. A law that obeys the equation has |value| below 4
    standard errors but for one function in 16,000. `key` is for the directions beyond 64 dimensions.
    Raises ValueError with no more samples than functions, TypeError without a key where one is needed.
    """
    x, h = paths(t), jnp.asarray(step)
    narrow = (functions(paths(t + h)) - functions(paths(t - h))) / (2 * h)
    wide = (functions(paths(t + 2 * h)) - functions(paths(t - 2 * h))) / (4 * h)
    bias = (wide - narrow) / 3
    residual = narrow - bias - generator(equation, functions, x, t, key=key)
    count, m = residual.shape
    if count <= m + 1:
        raise ValueError(
            f"paths gives {count} samples for {m} test functions; give at least {m + 2}, better thousands."
        )
    mean = jnp.mean(residual, axis=0)
    gaps = residual - mean
    error = jnp.sqrt(jnp.sum(gaps**2, axis=0) / (count * (count - 1)))
    return WeakResidual(mean, error, jnp.mean(bias, axis=0), hotelling(residual))


def hotelling(values: Float[Array, "n m"]) -> Float[Array, ""]:
    """The p-value of E[values] = 0: T² = n v̄ᵀ C⁻¹ v̄, and (n − r)/(r (n − 1)) T² has the law F(r, n − r).

    r is the rank of the covariance C. Directions without variance are left out, and make the p-value 0 where
    the mean along them is not 0. (Hotelling 1931.)
    """
    count = values.shape[0]
    scale = jnp.sqrt(jnp.mean(values**2, axis=0))
    values = values / jnp.where(scale > 0, scale, 1.0)
    mean = jnp.mean(values, axis=0)
    covariance = (values - mean).T @ (values - mean) / (count - 1)
    spectrum, axes = jnp.linalg.eigh(covariance)
    kept = spectrum > 1e3 * jnp.finfo(values.dtype).eps * jnp.max(spectrum)
    components = axes.T @ mean
    certain = jnp.any(~kept & (jnp.abs(components) > jnp.sqrt(1e3 * jnp.finfo(values.dtype).eps)))
    squared = count * jnp.sum(jnp.where(kept, components**2 / jnp.where(kept, spectrum, 1.0), 0.0))
    rank = jnp.maximum(jnp.sum(kept), 1).astype(values.dtype)
    ratio = (count - rank) / (rank * (count - 1)) * squared
    p_value = betainc((count - rank) / 2, rank / 2, (count - rank) / (count - rank + rank * ratio))
    return jnp.where(certain, 0.0, p_value)
