"""A denoiser of a whole batch, asked about one sample at a time under a map over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array

from diffusion.prediction import Denoiser, x0_alone


def one_by_one(denoise: Denoiser, size: int) -> Callable[[Array, Array, Array], Array]:
    """(i, x of one event, t) -> the denoiser's answer for sample i, called under a map over all `size` samples.

    A denoiser is asked about the whole batch, each sample at a time of its own: what belongs to one of them, its
    class or its measurement, stays with it. So the map over samples becomes one call, and another map within it, that
    of an implicit solver over the directions of a derivative, one call after another.
    """
    leaves, tree = jax.tree.flatten(denoise)

    def of_all(leaves: list[Any], x: Array, t: Array) -> Array:
        return x0_alone(jax.tree.unflatten(tree, leaves)(x, t), "an adaptive solver").astype(x.dtype)

    value = _for_one(lambda leaves, point: of_all(leaves, *point), size)
    slope = _for_one(lambda leaves, both: jax.jvp(lambda *point: of_all(leaves, *point), *both)[1], size)

    # A map with a rule of its own has no derivative that an implicit solver could take apart.
    @jax.custom_jvp
    def ask(leaves: list[Any], i: Array, x: Array, t: Array) -> Array:
        return value(leaves, i, (x, t))

    @ask.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
        leaves, i, *point = primals
        return ask(*primals), slope(leaves, i, (tuple(point), tuple(tangents[2:])))

    return lambda i, x, t: ask(leaves, i, x, t)


def _for_one(of_all: Callable[[list[Any], Any], Array], size: int) -> Callable[[list[Any], Array, Any], Array]:
    """(leaves, i, arguments of one sample) -> row i of what `of_all` says of the whole batch."""

    def repeated(tree: Any, count: int, mapped: Any) -> Any:
        return jax.tree.map(lambda a, was: a if was else jnp.broadcast_to(a, (count, *a.shape)), tree, mapped)

    @custom_vmap
    def one(leaves: list[Any], i: Array, arguments: Any) -> Array:
        return of_all(leaves, jax.tree.map(lambda a: jnp.broadcast_to(a, (size, *a.shape)), arguments))[i]

    @one.def_vmap
    def _(count: int, mapped: Any, leaves: list[Any], i: Array, arguments: Any) -> tuple[Array, bool]:
        arguments = repeated(arguments, count, mapped[2])
        if mapped[1]:  # the map over samples
            return of_all(leaves, arguments), True
        return jax.lax.map(lambda each: one(leaves, i, each), arguments), True

    return one
