"""The divergence ∇·u = tr A, A = ∂u/∂x, from products A v: exact, or unbiased estimates with their error.

    exact       Σ_i e_iᵀ A e_i                                          d products
    Hutchinson  vᵀ A v,  E v vᵀ = I                                     Hutchinson 1990; Grathwohl et al. 2019 (FFJORD)
    Hutch++     tr QᵀAQ + gᵀ (I − QQᵀ) A (I − QQᵀ) g,  Q = orth(A S)    Meyer et al. 2021, arXiv:2010.09649

The field must treat the elements of a batch one by one, so that one product serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import draws
from diffusion import keys as keys_lib
from diffusion.arguments import as_ids
from diffusion.pytree import is_concrete, pytree, short_repr, static

Product = Callable[[Array], Array]
"""v (b, *event) -> A v, with each element's own A."""
ProbeLaw = Literal["rademacher", "gaussian"]


def _require_count(name: str, value: int, what: str) -> None:
    if is_concrete(value) and value < 1:
        raise ValueError(f"{name} = {value}; at least 1 of the {what} is needed.")


def _require_law(law: str) -> None:
    if isinstance(law, str) and law not in get_args(ProbeLaw):
        raise ValueError(f"law = {law!r} is not a law of probes; choose one of {', '.join(get_args(ProbeLaw))}.")


class Divergence:
    """How tr A is found from products with A."""

    @property
    def stochastic(self) -> bool:
        """Whether probes are drawn."""
        return True

    def draw(self, keys: Key[Array, " b"], x: Float[Array, "b *event"]) -> Float[Array, "n b *event"]:
        """The probes of each element, from its own key. Along an ODE they are drawn once and kept."""
        raise NotImplementedError

    def trace(self, product: Product, probes: Float[Array, "n b *event"]) -> Float[Array, "k b"]:
        """k unbiased values of tr A, independent given what they share: their mean is the estimate."""
        raise NotImplementedError


@pytree
class Exact(Divergence):
    """tr A by d products, `block` of them at a time: memory grows with `block`, not with d."""

    block: int = static(default=128)
    """The number of products at a time."""

    def __post_init__(self) -> None:
        _require_count("block", self.block, "products at a time")

    @property
    def stochastic(self) -> bool:
        """False: no probes are drawn."""
        return False

    def draw(self, keys: Key[Array, " b"], x: Float[Array, "b *event"]) -> Float[Array, "n b *event"]:
        """No probes: an empty array with the shape of the batch."""
        return jnp.zeros((0, *x.shape), x.dtype)

    def trace(self, product: Product, probes: Float[Array, "n b *event"]) -> Float[Array, "k b"]:
        """Σ_i (A e_i)_i, (1, b)."""
        batch, *event = probes.shape[1:]
        d = math.prod(event)

        def diagonal(i: Array) -> Array:
            unit = jnp.zeros(d, probes.dtype).at[i].set(1).reshape(event)
            return product(jnp.broadcast_to(unit, (batch, *event))).reshape(batch, d)[:, i]

        if d <= self.block:
            return jnp.sum(jax.vmap(diagonal)(jnp.arange(d)), axis=0)[None]
        return jnp.sum(jax.lax.map(diagonal, jnp.arange(d), batch_size=self.block), axis=0)[None]


@pytree
class Hutchinson(Divergence):
    """vᵀ A v for `probes` independent v of the law "rademacher" (±1) or "gaussian".

    With H = (A + Aᵀ)/2 the variance is 2 |H|² for Gaussian v and 2 (|H|² − Σ H_ii²) for Rademacher v, never more.
    """

    probes: int = static(default=8)
    """The number of probes; a single one has no spread, and the standard error is NaN."""
    law: ProbeLaw = static(default="rademacher")
    """The law of the probes."""

    def __post_init__(self) -> None:
        _require_count("probes", self.probes, "probes")
        _require_law(self.law)

    def draw(self, keys: Key[Array, " b"], x: Float[Array, "b *event"]) -> Float[Array, "n b *event"]:
        """(probes, b, *event)."""
        return _probes(keys, self.probes, x, self.law)

    def trace(self, product: Product, probes: Float[Array, "n b *event"]) -> Float[Array, "k b"]:
        """vᵀ A v for each probe."""
        return _inner(probes, jax.vmap(product)(probes))


@pytree
class HutchPlusPlus(Divergence):
    """tr A on the range Q of A S exactly, Hutchinson on the rest: 2 `sketch` + `probes` products.

    Exact when the rank of A is at most `sketch`; the values share S, which costs no bias. Derivatives take Q as
    given, which leaves them unbiased too. Raises ValueError when `sketch` exceeds d, where `Exact` costs less.
    """

    sketch: int = static(default=4)
    """The number of columns of S."""
    probes: int = static(default=4)
    """The number of probes; a single one has no spread, and the standard error is NaN."""
    law: ProbeLaw = static(default="rademacher")
    """The law of the probes."""

    def __post_init__(self) -> None:
        _require_count("sketch", self.sketch, "columns")
        _require_count("probes", self.probes, "probes")
        _require_law(self.law)

    def draw(self, keys: Key[Array, " b"], x: Float[Array, "b *event"]) -> Float[Array, "n b *event"]:
        """(sketch + probes, b, *event): S, then g."""
        d = math.prod(x.shape[1:])
        if self.sketch > d:
            raise ValueError(f"sketch = {self.sketch} exceeds the {d} dimensions of an event; use Exact() there.")
        return _probes(keys, self.sketch + self.probes, x, self.law)

    def trace(self, product: Product, probes: Float[Array, "n b *event"]) -> Float[Array, "k b"]:
        """tr QᵀAQ + hᵀ A h with h = (I − QQᵀ) g, for each g."""
        shape = probes.shape[1:]
        sketch, g = probes[: self.sketch], probes[self.sketch :].reshape(self.probes, shape[0], -1)
        image = jax.vmap(product)(sketch).reshape(self.sketch, shape[0], -1)
        q = jnp.moveaxis(jax.lax.stop_gradient(jnp.linalg.qr(jnp.moveaxis(image, 0, -1))[0]), -1, 0)
        inside = jnp.einsum("rbd,kbd->rkb", q, g, precision="highest")
        h = g - jnp.einsum("rbd,rkb->kbd", q, inside, precision="highest")
        directions = jnp.concatenate([q, h])
        values = _inner(directions, jax.vmap(product)(directions.reshape(-1, *shape)).reshape(directions.shape))
        return jnp.sum(values[: self.sketch], axis=0) + values[self.sketch :]


class DivergenceEstimate(NamedTuple):
    """∇·u at each x."""

    value: Float[Array, " b"]
    """The divergence, or its unbiased estimate."""
    standard_error: Float[Array, " b"]
    """The standard error of the value, 0 when it is exact."""

    __repr__ = short_repr


def divergence(
    field: Callable[[Array], Array],
    x: Float[Array, "b *event"],
    method: Divergence | None = None,
    *,
    key: Key[Array, ""] | None = None,
    ids: ArrayLike | None = None,
) -> DivergenceEstimate:
    """∇·field at x, for a field (b, *event) -> (b, *event) that treats the elements of a batch one by one.

    `method` is Exact() unless given. Estimates need a `key`; element i depends on (key, ids[i]) alone, ids being
    0..b − 1 unless given.
    Raises TypeError without the key, ValueError when `ids` do not fit.
    """
    method = Exact() if method is None else method
    probes = draw_probes(method, x, key, ids)
    return summarise(method, method.trace(jax.linearize(field, x)[1], probes))


def draw_probes(
    method: Divergence, x: Float[Array, "b *event"], key: Array | None, ids: ArrayLike | None
) -> Float[Array, "n b *event"]:
    """The probes of `method` for the batch x. Raises TypeError without a key, ValueError when `ids` do not fit."""
    if method.stochastic and key is None:
        raise TypeError(f"key = None, and {type(method).__name__} draws probes; give jax.random.key(seed), or Exact().")
    key = jax.random.key(0) if key is None else key
    keys_lib.require_key(key)
    return _draw(method, key, x, as_ids(ids, x.shape[0]))


@jax.jit
def _draw(method: Divergence, key: Array, x: Array, ids: Array) -> Float[Array, "n b *event"]:
    return method.draw(element_keys(key, x.shape[0], ids), x)


def element_keys(key: Array, batch: int, ids: ArrayLike | None) -> Key[Array, " b"]:
    """A key for each element by its id. Raises TypeError for anything but a key, ValueError when `ids` do not fit."""
    keys_lib.require_key(key)
    return keys_lib.sample_keys(key, as_ids(ids, batch))


def summarise(method: Divergence, values: Float[Array, "k b"]) -> DivergenceEstimate:
    """The mean of the values, and its standard error √(Σ (v_k − v̄)²/(k (k − 1)))."""
    mean, count = jnp.mean(values, axis=0), values.shape[0]
    if not method.stochastic:
        return DivergenceEstimate(mean, jnp.zeros_like(mean))
    if count == 1:
        return DivergenceEstimate(mean, jnp.full_like(mean, jnp.nan))
    return DivergenceEstimate(mean, jnp.sqrt(jnp.sum((values - mean) ** 2, axis=0) / (count * (count - 1))))


def _probes(keys: Array, count: int, x: Array, law: str) -> Float[Array, "n b *event"]:
    """`count` draws for each element, the k-th from its key folded with k."""
    draw = jax.random.rademacher if law == "rademacher" else draws.normal

    def each(k: Array) -> Array:
        return jax.vmap(lambda key: draw(key, x.shape[1:], x.dtype))(keys_lib.fold(keys, k))

    return jax.vmap(each)(jnp.arange(count))


def _inner(v: Float[Array, "n b *event"], w: Float[Array, "n b *event"]) -> Float[Array, "n b"]:
    return jnp.sum((v * w).reshape(*v.shape[:2], -1), axis=-1)
