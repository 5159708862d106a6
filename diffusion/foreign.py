"""Somebody else's network as a denoiser: with its own prediction, its own scaling of the input and its own clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike

from diffusion.arrays import expand
from diffusion.prediction import Denoiser, Kind, combination, to_x0
from diffusion.process import Process
from diffusion.pytree import as_partial


def foreign_denoiser(
    process: Process,
    network: Callable[..., Array],
    kind: Kind,
    *,
    time: Callable[[Array], Array] | None = None,
    input_scale: Callable[[Array], Array] | None = None,
) -> Denoiser:
    """The denoiser of somebody else's network `network(x, time) -> y`, y a prediction of this kind.

    For t of shape (b,) the network is given c(t) x_t and τ(t), (b,): `input_scale` is c, 1 unless given, and `time` is
    τ, t itself unless given. DDPM's networks take x as it is and count 0 to T − 1 where the chain counts 1 to T,

        foreign_denoiser(Process(Betas.linear(1000)), network, "eps", time=lambda t: t - 1)

    and with `continuous(Process(Betas.linear(1000)))` they are asked between these times too, by solvers that need it.

    The arrays of a network are leaves, so that others of the same shapes do not recompile, where it is a Partial,
    `Partial(apply, params)`, or itself a pytree that can be called, as a module of equinox is: what is no array in it
    is compiled in. A module of PyTorch is called back through `scorefield.torch_network(module)`.
    Raises ValueError for an unknown kind, and where it is called for an answer of another shape than x; TypeError for
    the score of a noise that is not Gaussian.
    """
    combination(process, process.t_max, kind)
    told, scale = (None if function is None else as_partial(function) for function in (time, input_scale))
    return Partial(_Foreign(kind), process, _as_network(network), told, scale)


def _as_network(network: Callable[..., Array]) -> Partial:
    """The network as a Partial, the arrays of a callable pytree as its leaves."""
    if isinstance(network, Partial) or not callable(network) or jax.tree_util.all_leaves([network]):
        return as_partial(network)
    leaves, structure = jax.tree.flatten(network)
    arrays = [leaf if isinstance(leaf, (np.ndarray, jax.Array)) else None for leaf in leaves]
    others = tuple(leaf if array is None else None for leaf, array in zip(leaves, arrays, strict=True))
    return Partial(_Tree(structure, others), arrays)


@dataclasses.dataclass(frozen=True)
class _Tree:
    """What is no array of a callable pytree."""

    structure: Any
    others: tuple[Any, ...]

    def __call__(self, arrays: list[Array | None], x: Array, time: Array) -> Array:
        pairs = zip(arrays, self.others, strict=True)
        leaves = [other if array is None else array for array, other in pairs]
        return jax.tree.unflatten(self.structure, leaves)(x, time)


@dataclasses.dataclass(frozen=True)
class _Foreign:
    """The static part of a foreign network's denoiser."""

    kind: Kind

    def __call__(
        self,
        process: Process,
        network: Partial,
        time: Partial | None,
        scale: Partial | None,
        x: Array,
        t: ArrayLike,
    ) -> Array:
        times = jnp.broadcast_to(jnp.asarray(t, x.dtype), (x.shape[0],))
        scaled = x if scale is None else expand(scale(times), x) * x
        told = times if time is None else time(times)
        answer = network(scaled, told)
        if jnp.shape(answer) != x.shape:
            raise ValueError(
                f"the network answers {jnp.shape(answer)} to x of {x.shape}; give one that answers in the shape of x, "
                "such as a function that takes its first channels."
            )
        return to_x0(answer.astype(x.dtype), x, t, process, self.kind)
