"""Energy distance and maximum mean discrepancy: what two samples say about the distance between their laws.

    energy    2 E|X − Y| − E|X − X'| − E|Y − Y'|             Székely & Rizzo 2013
    MMD²      E k(X, X') + E k(Y, Y') − 2 E k(X, Y)          Gretton et al. 2012, lemma 6

with X, X' ~ p and Y, Y' ~ q independent, |·| the Euclidean norm of the flattened event. Both are 0 for p = q alone,
and the first is the second with k(x, y) = −|x − y| (Sejdinovic et al. 2013, arXiv:1207.6076, theorem 22). Two means
over the samples may stand for an expectation: that over pairs i != j within a sample is unbiased and may be negative
(U-statistic), that over all pairs is a squared distance of the empirical laws (V-statistic).

Either is a quadratic form of the matrix k over the N = n + m pooled samples. Adding f(x) + f(y) to k changes none of
them, so k is centred once, H k H with H = I − 1/N: nothing large is subtracted afterwards, its rows add up to 0, and a
permutation costs one product with a vector. The memory is N².
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from diffusion.arrays import safe_sqrt
from diffusion.distances.permutation import PermutationTest, X, Y, check_permutations, checked, compare, orders

_BLOCK = 2**22  # numbers held at once for the differences


def energy_distance(x: X, y: Y, *, unbiased: bool = True) -> Float[Array, ""]:
    """2 mean|x_i − y_j| − mean|x_i − x_j| − mean|y_i − y_j|, in the units of x (Székely & Rizzo 2013).

    `unbiased` leaves i = j out. For d = 1 the biased one is 2 ∫(F_n − G_m)². Without a square root.
    Raises ValueError for fewer than 2 samples, unlike event shapes or values that are not finite.
    """
    x, y = checked(x, y)
    return _value(-_distances(x, y), len(x), unbiased)


def energy_test(key: Key[Array, ""], x: X, y: Y, *, unbiased: bool = True, permutations: int = 999) -> PermutationTest:
    """`energy_distance` and its p-value by `permutations` permutations; consistent against every law of finite mean.

    Raises ValueError for fewer than 2 samples, unlike event shapes, values that are not finite or no permutation.
    """
    x, y = checked(x, y)
    check_permutations(key, permutations)
    return _test(key, -_distances(x, y), len(x), unbiased, permutations)


def mmd(x: X, y: Y, *, bandwidth: ArrayLike | None = None, unbiased: bool = True) -> Float[Array, ""]:
    """MMD² for the Gaussian kernel exp(−|x − y|²/(2h²)), without unit (Gretton et al. 2012, lemma 6).

    `bandwidth` is h, `median_distance(x, y)` unless given; of several (k,) the mean of their kernels is used.
    `unbiased` leaves i = j out. Raises ValueError for fewer than 2 samples, unlike event shapes, values that are not
    finite or a bandwidth of another shape.
    """
    x, y = checked(x, y)
    return _value(_gaussian_kernel(x, y, bandwidth), len(x), unbiased)


def mmd_test(
    key: Key[Array, ""],
    x: X,
    y: Y,
    *,
    bandwidth: ArrayLike | None = None,
    unbiased: bool = True,
    permutations: int = 999,
) -> PermutationTest:
    """`mmd` and its p-value by `permutations` permutations; the bandwidth must not depend on which is x and which y.

    Raises ValueError for fewer than 2 samples, unlike event shapes, values that are not finite, a bandwidth of another
    shape or no permutation.
    """
    x, y = checked(x, y)
    check_permutations(key, permutations)
    return _test(key, _gaussian_kernel(x, y, bandwidth), len(x), unbiased, permutations)


def median_distance(x: X, y: Y) -> Float[Array, ""]:
    """The median of |w_i − w_j| > 0 over the pooled samples, 1 when all are equal: the usual bandwidth of `mmd`.

    (Gretton et al. 2012, section 8.) Raises ValueError for fewer than 2 samples, unlike event shapes or values that
    are not finite.
    """
    return _median(_distances(*checked(x, y)))


@jax.jit
def _median(distances: Float[Array, "N N"]) -> Float[Array, ""]:
    median = jnp.nanmedian(jnp.where(distances > 0, distances, jnp.nan))
    return jnp.where(jnp.isnan(median), 1.0, median)


def _gaussian_kernel(x: Array, y: Array, bandwidth: ArrayLike | None) -> Float[Array, "N N"]:
    distances = _distances(x, y)
    widths = jnp.asarray(_median(distances) if bandwidth is None else bandwidth, distances.dtype)
    if widths.ndim > 1 or widths.size == 0:
        raise ValueError(f"bandwidth has shape {widths.shape}; give one number, or (k,) for the mean of k kernels.")
    return _kernel_mean(distances, widths.reshape(-1))


@jax.jit
def _kernel_mean(distances: Float[Array, "N N"], widths: Float[Array, " k"]) -> Float[Array, "N N"]:
    kernels = jax.lax.map(lambda h: jnp.exp(-0.5 * (distances / h) ** 2), widths)
    return jnp.mean(kernels, axis=0)


@jax.jit
def _distances(x: Float[Array, "n *event"], y: Float[Array, "m *event"]) -> Float[Array, "N N"]:
    """|w_i − w_j| of the pooled samples, from differences: |a|² + |b|² − 2ab loses the digits of what is near."""
    points = jnp.concatenate([x, y]).reshape(len(x) + len(y), -1)

    @jax.checkpoint  # or a gradient would keep every difference
    def row(point: Array) -> Array:
        return safe_sqrt(jnp.sum((points - point) ** 2, axis=-1))

    return jax.lax.map(row, points, batch_size=min(len(points), max(1, _BLOCK // max(1, points.size))))


@functools.partial(jax.jit, static_argnames=("n", "unbiased"))
def _value(kernel: Float[Array, "N N"], n: int, unbiased: bool) -> Float[Array, ""]:
    return _contrast(_centred(kernel), jnp.arange(len(kernel))[None, :n], unbiased)[0]


@functools.partial(jax.jit, static_argnames=("n", "unbiased", "permutations"))
def _test(key: Array, kernel: Float[Array, "N N"], n: int, unbiased: bool, permutations: int) -> PermutationTest:
    mine = jnp.arange(n)[None]
    chosen = jnp.concatenate([mine, orders(key, permutations, len(kernel))[:, :n]])
    values = _contrast(_centred(kernel), chosen, unbiased)
    return compare(values[0], values[1:])


def _centred(kernel: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """H k H: every row and column adds up to 0."""
    rows = jnp.mean(kernel, axis=1)
    return kernel - rows[:, None] - rows + jnp.mean(rows)


def _contrast(kernel: Float[Array, "N N"], chosen: Int[Array, "B n"], unbiased: bool) -> Float[Array, " B"]:
    """mean k(x, x') + mean k(y, y') − 2 mean k(x, y) for each row, x the `chosen` samples and y the others.

    `kernel` is centred, so that one sum S = Σ k(x, x') gives the others: Σ k(y, y') = S and Σ k(x, y) = −S.
    """
    size, n = len(kernel), chosen.shape[1]
    m = size - n
    member = jax.vmap(lambda places: jnp.zeros(size, kernel.dtype).at[places].set(1))(chosen)
    within = jnp.sum(jnp.matmul(member, kernel, precision="highest") * member, axis=1)
    if not unbiased:
        return within * (1 / n + 1 / m) ** 2
    own = jnp.diag(kernel)
    own_x = jnp.matmul(member, own, precision="highest")
    own_y = jnp.sum(own) - own_x
    return (within - own_x) / (n * (n - 1)) + (within - own_y) / (m * (m - 1)) + 2 * within / (n * m)
