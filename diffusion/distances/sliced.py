"""The sliced Wasserstein distance: optimal transport along random lines, where it is sorting.

    SW_p = (E_θ W_p(θᵀX, θᵀY)^p)^{1/p},    W_p^p = ∫_0^1 |F⁻¹(u) − G⁻¹(u)|^p du

with θ uniform on the sphere (Rabin et al. 2011; Bonneel et al. 2015). The quantile functions of n and m points are
constant between the multiples of 1/n and of 1/m, so that the integral is a sum of at most n + m − 1 terms.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from diffusion import keys as keys_lib
from diffusion.distances.permutation import PermutationTest, X, Y, checked, permutation_test
from diffusion.pytree import is_concrete


def sliced_wasserstein(
    key: Key[Array, ""], x: X, y: Y, *, projections: int = 128, p: int | float | Array = 2.0
) -> Float[Array, ""]:
    """SW_p of two samples along `projections` random lines, in the units of x; in one dimension W_p exactly.

    The l-th line depends on (key, l) alone.
    Raises ValueError for fewer than 2 samples, unlike event shapes, values that are not finite, p < 1 or no line.
    """
    p, x, y = _arguments(key, x, y, projections, p)
    return _sliced(p, *_project(key, x, y, projections))


def sliced_wasserstein_test(
    key: Key[Array, ""], x: X, y: Y, *, projections: int = 128, p: int | float | Array = 2.0, permutations: int = 999
) -> PermutationTest:
    """`sliced_wasserstein` and its p-value by `permutations` permutations, along the same lines.

    Raises ValueError for fewer than 2 samples, unlike event shapes, values that are not finite, p < 1, no line or no
    permutation.
    """
    p, x, y = _arguments(key, x, y, projections, p)
    return permutation_test(key, Partial(_sliced, p), *_project(key, x, y, projections), permutations=permutations)


def _arguments(key: Array, x: X, y: Y, projections: int, p: int | float | Array) -> tuple[Array, Array, Array]:
    """(p, x, y), checked."""
    keys_lib.require_key(key)
    if projections < 1:
        raise ValueError(f"projections = {projections}; give at least 1 line, usually a hundred.")
    if is_concrete(p) and not p >= 1:
        raise ValueError(f"p = {p}; W_p is a distance for p >= 1, usually 1 or 2.")
    x, y = checked(x, y)
    return jnp.asarray(p, x.dtype), x, y


@functools.partial(jax.jit, static_argnames="projections")
def _project(key: Array, x: Array, y: Array, projections: int) -> tuple[Array, Array]:
    """θᵀx (n, L) and θᵀy (m, L)."""
    keys = keys_lib.sample_keys(jax.random.fold_in(key, 0), jnp.arange(projections))
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    normal = keys_lib.normal(keys, x.shape[1:], x.dtype)
    lines = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)
    return jnp.matmul(x, lines.T, precision="highest"), jnp.matmul(y, lines.T, precision="highest")


@jax.jit
def _sliced(p: Float[Array, ""], x: Float[Array, "n L"], y: Float[Array, "m L"]) -> Float[Array, ""]:
    rows_x, rows_y, weights = _coupling(len(x), len(y))
    gaps = jnp.abs(jnp.sort(x, axis=0)[rows_x] - jnp.sort(y, axis=0)[rows_y])
    # In units of the largest, so that no power of it overflows; 0 has no derivative.
    largest = jnp.max(gaps)
    unit = jnp.where(largest > 0, largest, 1.0)
    mean = jnp.mean(jnp.sum(weights.astype(gaps.dtype)[:, None] * (gaps / unit) ** p, axis=0))
    return jnp.where(largest > 0, unit * jnp.where(largest > 0, mean, 1.0) ** (1 / p), 0.0)


def _coupling(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(i, j, w): on an interval of length w in u the quantiles are x_(i) and y_(j). In integers, units of 1/(n m)."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)
