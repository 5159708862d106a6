"""The state of a run: everything that a step changes, and so everything that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Array, Float, Int, UInt32

from diffusion.pytree import pytree
from experiments import streams
from experiments.config.nodes import ImportanceConfig
from experiments.config.tree import Config
from experiments.errors import CheckpointError
from experiments.training import ema

Params = dict[str, Any]

# The implementation of keys is named because the state outlives the process and its defaults.
PRNG = "threefry2x32"


@pytree
class TrainState:
    """The state after `step` updates. Step n is a function of the state, the batch and `key`, and of nothing else."""

    step: Int[Array, ""]
    params: Params
    """The parameters that are evaluated and averaged."""
    ema: tuple[Params, ...]
    """A moving average of the parameters for each decay of the configuration, and then for each width."""
    opt_state: Any
    second_moments: Float[Array, " bins"]
    """Running E[loss²] by bins of u, for times drawn by importance; one bin when they are not."""
    diverged_at: Int[Array, ""]
    """The first step that was not finite, −1 while there is none. From then on nothing above changes."""
    key: UInt32[Array, "2"]
    """Data of the key that every step's key is folded from; constant."""

    def __repr__(self) -> str:
        count = sum(math.prod(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(self.params))
        return f"TrainState(step {self.step}, {count:,} parameters, {len(self.ema)} averages)"


def seed_key(seed: int, purpose: int) -> Array:
    """The root of the random numbers for a `purpose` of `streams`: TRAINING, VALIDATION or INITIAL parameters."""
    return jax.random.fold_in(jax.random.key(seed, impl=PRNG), purpose)


def initial_state(params: Params, optimizer: optax.GradientTransformation, config: Config) -> TrainState:
    """The state before the first step. The averages start as copies: a donated buffer has one owner."""
    bins = config.times.bins if isinstance(config.times, ImportanceConfig) else 1
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=tuple(jax.tree.map(jnp.copy, params) for _ in range(ema.count(config.ema))),
        opt_state=optimizer.init(params),
        second_moments=jnp.ones(bins, jnp.float32),
        diverged_at=jnp.full((), -1, jnp.int32),
        key=jax.random.key_data(seed_key(config.training.seed, streams.TRAINING)),
    )


def to_tree(state: TrainState, leaf_of: Callable[[Any], Any] = np.array) -> dict[str, Any]:
    """The state as nested dictionaries with names for keys and `leaf_of` each array, by default a copy in numpy."""
    flat, _ = tree_flatten_with_path(state)
    tree: dict[str, Any] = {}
    for path, leaf in flat:
        *folders, name = names_of(path)
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf_of(leaf)
    return tree


def from_tree(tree: dict[str, Any], like: TrainState) -> TrainState:
    """The inverse of `to_tree`; `like` gives the structure, the shapes and the types.

    Raises CheckpointError naming the first array that is missing, superfluous, or of another shape or type.
    """
    flat, treedef = tree_flatten_with_path(like)
    wanted = {names_of(path): leaf for path, leaf in flat}
    found = {tuple(names_of(path)): leaf for path, leaf in tree_flatten_with_path(tree)[0]}
    for name in (*(name for name in wanted if name not in found), *(name for name in found if name not in wanted)):
        raise CheckpointError(
            f"the checkpoint {'lacks' if name in wanted else 'has an unknown'} array {'/'.join(name)}; "
            "it was written for another configuration or by another version."
        )
    for name, leaf in wanted.items():
        if found[name].shape != leaf.shape or found[name].dtype != leaf.dtype:
            raise CheckpointError(
                f"array {'/'.join(name)} of the checkpoint is {found[name].dtype}{list(found[name].shape)} and this "
                f"configuration needs {leaf.dtype}{list(leaf.shape)}; resume it with its own configuration."
            )
    return jax.tree.unflatten(treedef, [found[name] for name in wanted])


def names_of(path: Any) -> tuple[str, ...]:
    """The keys of a leaf of nested dictionaries, as `jax.tree_util` gives its path, as texts."""
    return tuple(keystr((entry,), simple=True) for entry in path)
