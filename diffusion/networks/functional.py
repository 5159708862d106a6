"""Networks as functions: a hashable `Network` and a pure tree of parameters, split once.

    network, params = build(UNetConfig(), (28, 28, 1), num_classes=10, key=jax.random.key(0))
    y = network(params, x, c_noise, labels)

The network holds no array and no random state, so it is a static argument of `jit` and the function of a
`jax.tree_util.Partial`; networks of equal configurations are equal, and are traced once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PyTree

from diffusion.networks.configs import NetworkConfig

Params = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """F(x, c_noise, label): a configuration for a shape of data, without its parameters.

    Raises ValueError for a shape, a number of classes or of outputs that the architecture cannot have.
    """

    config: NetworkConfig
    """The architecture."""
    event_shape: tuple[int, ...]
    """The shape of one x."""
    num_classes: int = 0
    """The number of classes; 0 for a network without labels."""
    outputs: int = 1
    """The number of output channels for each channel of x."""
    augment_dim: int = 0
    """How many numbers say how an image was augmented; 0 for a network that is not told."""

    def __post_init__(self) -> None:
        if not isinstance(self.config, NetworkConfig):
            known = ", ".join(config.__name__ for config in NetworkConfig.__subclasses__())
            raise TypeError(f"config is a {type(self.config).__name__}; give one of {known}.")
        if not self.event_shape or min(self.event_shape) < 1:
            raise ValueError(f"event_shape is {self.event_shape}; give at least one axis, and no empty one.")
        if len(self.event_shape) != 3 and not self.config.takes_any_shape:
            raise ValueError(
                f"event_shape is {self.event_shape}; a {type(self.config).__name__} needs (height, width, channels), "
                "so reshape the data or choose an MLPConfig."
            )
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; give 0 for a network without labels.")
        if self.outputs < 1:
            raise ValueError(f"outputs is {self.outputs}; give 1, or 2 to learn a variance as well.")
        if self.augment_dim < 0:
            raise ValueError(f"augment_dim is {self.augment_dim}; give 0 for a network that is not told.")
        if self.augment_dim and not self.config.takes_augmentation:
            raise ValueError(
                f"augment_dim is {self.augment_dim}; a {type(self.config).__name__} cannot be told how an image was "
                "augmented, so give 0, or define its module with `augment_dim` and set takes_augmentation."
            )
        _graph(self)

    def init(self, key: Key[Array, ""]) -> Params:
        """Float32 parameters, a nested dictionary with names for keys: what is trained, averaged and saved."""
        return (_make if isinstance(key, Tracer) else _make_at_once)(self, key)[1]

    def __call__(
        self,
        params: PyTree,
        x: Float[Array, "b *event"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | Float[Array, "b e"] | None = None,
        keys: Key[Array, " b"] | None = None,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b *out"]:
        """The network's output (b, *event[:-1], outputs·channels), in the type of the parameters.

        `labels` are in 0..num_classes, where num_classes, like None, means "no label"; a label beyond gives NaN.
        An architecture whose labels are vectors, (b, e), says so.
        `keys`, one for each sample, turn dropout on: the mask of sample i depends on keys[i] alone.
        `augment` (b, augment_dim) says how each image was augmented; zeros, like None, mean not at all.

        Raises ValueError when the event shape of x is not the network's.
        """
        if x.shape[1:] != self.event_shape:
            raise ValueError(f"x has shape {x.shape}; this network takes batches of shape {('b', *self.event_shape)}.")
        dtype = jax.tree.leaves(params)[0].dtype
        model = nnx.merge(_graph(self), nnx.restore_int_paths(params))
        told = () if augment is None or not self.augment_dim else (augment.astype(dtype),)
        return model(x.astype(dtype), c_noise.astype(dtype), labels, keys, *told).astype(dtype)


def build(
    config: NetworkConfig,
    event_shape: tuple[int, ...],
    *,
    num_classes: int = 0,
    outputs: int = 1,
    key: Key[Array, ""],
) -> tuple[Network, Params]:
    """The network that `config` describes for events of `event_shape`, and its initial parameters.

    `num_classes` > 0 adds a table of labels with the null class at its end; `outputs` multiplies the output's
    channels (2 for a learned variance). Raises as `Network` does.
    """
    network = Network(config, event_shape, num_classes, outputs)
    return network, network.init(key)


class _Stream(nnx.RngStream):
    """Keys as flax's own stream gives them, counted in Python.

    Flax counts in an array, and while a network is traced each count describes the whole program so far.
    """

    def __init__(self, key: Key[Array, ""]) -> None:
        super().__init__(key, tag="default")
        self.used = 0

    def __call__(self) -> Key[Array, ""]:
        self.used += 1
        return jax.random.fold_in(self.key.get_value(), self.used - 1)


def _create(network: Network, key: Key[Array, ""]) -> nnx.Module:
    module, rngs = network.config.module(), cast(Any, nnx.Rngs())
    rngs.default = _Stream(key)
    told = {"augment_dim": network.augment_dim} if network.augment_dim else {}
    return module(network.config, network.event_shape, network.num_classes, network.outputs, **told, rngs=rngs)


def _made(network: Network, key: Key[Array, ""]) -> tuple[nnx.GraphDef, Params]:
    """The network's structure and its parameters."""
    graph, params, _ = nnx.split(_create(network, key), nnx.Param, ...)
    return graph, _named(nnx.to_pure_dict(params))


# A network is traced once, for its structure, for its shapes and for its parameters. These are drawn once: compiled
# without optimisation, that is done three times sooner.
_make = jax.jit(_made, static_argnums=0)
_make_at_once = jax.jit(_made, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def _graph(network: Network) -> nnx.GraphDef:
    """The network's structure, from shapes alone."""
    return jax.eval_shape(lambda: _make(network, jax.random.key(0)))[0]


def _named(tree: Any) -> Any:
    """Positions in lists as names: checkpoints have no integer keys."""
    return {str(k): _named(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree
