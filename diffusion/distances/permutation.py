"""The permutation test: a p-value for "x and y have the same law" from any statistic, exact at any sample size.

    p = (1 + #{b : T_b >= T})/(1 + B)

with T_b the statistic after the b-th of B random permutations of the pooled samples. When the laws are the same, all
B + 1 values are exchangeable, so that P(p <= α) <= α for every α, and = α for multiples of 1/(1 + B) without ties
(Davison & Hinkley 1997, section 4.3; Phipson & Smyth 2010, arXiv:1603.05766).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.pytree import as_partial, as_traced, short_repr

X = Float[np.ndarray | Array, "n *event"]
Y = Float[np.ndarray | Array, "m *other"]
"""Another number of samples; that both have events of one shape is checked by hand, for the sake of the message."""
_TIE = 100  # in units of the rounding: values at most this far below T count as T


class PermutationTest(NamedTuple):
    """A statistic of two samples, and what it says about "they have one law"."""

    statistic: Float[Array, ""]
    """T, larger the less alike the samples are."""
    p_value: Float[Array, ""]
    """A bound on the probability of a statistic this large if they do: reject at the level α when p_value <= α."""

    __repr__ = short_repr


def permutation_test(
    key: Key[Array, ""], statistic: Callable[[Array, Array], Array], x: X, y: Y, *, permutations: int = 999
) -> PermutationTest:
    """T = statistic(x, y), large for unlike laws, and its p-value; B = `permutations`, evaluated one after the other.

    The samples of x, and those of y, must be independent. The b-th permutation depends on (key, b) alone.
    Raises ValueError for fewer than 2 samples, unlike event shapes, values that are not finite or B < 1.
    """
    x, y = checked(x, y)
    check_permutations(key, permutations)
    return _test(key, as_traced(as_partial(statistic)), x, y, permutations)


@functools.partial(jax.jit, static_argnames="permutations")
def _test(key: Array, statistic: Callable[..., Array], x: Array, y: Array, permutations: int) -> PermutationTest:
    n, pooled = len(x), jnp.concatenate([x, y])

    def permuted(order: Array) -> Array:
        return jnp.asarray(statistic(pooled[order[:n]], pooled[order[n:]]), pooled.dtype)

    return compare(permuted(jnp.arange(len(pooled))), jax.lax.map(permuted, orders(key, permutations, len(pooled))))


def orders(key: Key[Array, ""], permutations: int, size: int) -> Int[Array, "B N"]:
    """Random permutations of 0 .. N − 1; the first n places are the new x."""
    keys = keys_lib.sample_keys(jax.random.fold_in(key, 1), jnp.arange(permutations))
    return jax.vmap(lambda k: jax.random.permutation(k, size))(keys)


def compare(statistic: Float[Array, ""], permuted: Float[Array, " B"]) -> PermutationTest:
    """The p-value; values that equal T up to rounding count as no smaller, which can only raise it."""
    size = jnp.maximum(jnp.max(jnp.abs(permuted)), jnp.abs(statistic))
    slack = _TIE * jnp.finfo(permuted.dtype).eps * size
    above = jnp.sum(permuted >= statistic - slack)
    # Rounded down, by a table: in single precision 5/100 may come out above 0.05.
    exact = np.arange(1, len(permuted) + 2) / (1 + len(permuted))
    rounded = exact.astype(permuted.dtype)
    lower = np.where(rounded > exact, np.nextafter(rounded, np.zeros_like(rounded)), rounded)
    return PermutationTest(statistic, jnp.asarray(lower)[above])


def checked(x: X, y: Y) -> tuple[Array, Array]:
    """Both as arrays of one floating-point type, of at least 32 bits.

    Raises ValueError for fewer than 2 samples, unlike event shapes or values that are not finite (outside jit).
    """
    for name, value in (("x", x), ("y", y)):
        if np.ndim(value) < 1 or len(value) < 2:
            raise ValueError(f"{name} has shape {np.shape(value)}; give (n, *event) with at least n = 2 samples.")
        if not isinstance(value, Tracer) and not np.isfinite(np.asarray(value)).all():
            raise ValueError(
                f"{name} has {np.sum(~np.isfinite(np.asarray(value)))} values that are not finite numbers; "
                "drop the samples that diverged, or count them."
            )
    if np.shape(x)[1:] != np.shape(y)[1:]:
        raise ValueError(f"x has events {np.shape(x)[1:]} and y {np.shape(y)[1:]}; both must have one shape.")
    dtype = jnp.promote_types(jnp.result_type(float, x, y), jnp.float32)
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def check_permutations(key: Key[Array, ""], permutations: int) -> None:
    """Raise TypeError for what is no key, ValueError for less than one permutation."""
    keys_lib.require_key(key)
    if permutations < 1:
        raise ValueError(f"permutations = {permutations}; give at least 19 for a test at the level of 5%.")
