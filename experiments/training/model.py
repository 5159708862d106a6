"""From a configuration, or a checkpoint, to a network with its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key

from diffusion.networks import Network
from diffusion.networks.conservative import Conservative
from experiments.config import Config, Generator
from experiments.config_file import load_config
from experiments.errors import CheckpointError, UsageError
from experiments.training import checkpoint as checkpoints
from experiments.training.data import Facts
from experiments.training.generator import Game
from experiments.training.manifest import NAME as MANIFEST
from experiments.training.state import Params

AnyNetwork = Network | Conservative | Game
"""What is called as F(params, x, c_noise, labels, keys)."""


def make_network(config: Config, facts: Facts, key: Key[Array, ""]) -> tuple[AnyNetwork, Params]:
    """The network of `config` for data of these facts, and its initial parameters.

    Raises UsageError when the network cannot have the shape of the data.
    """
    classes, outputs = facts.num_classes if config.conditional else 0, 2 if config.learned_variance else 1
    try:
        plain = Network(config.network, facts.event_shape, classes, outputs)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the network does not fit the data: {error}") from None
    network = plain
    if isinstance(config.objective, Generator):
        network = Game(plain)
    elif config.conservative:
        network = Conservative(plain)
    return network, network.init(key)


@dataclass(frozen=True)
class TrainedModel:
    """A network with trained parameters, and where they come from."""

    config: Config
    facts: Facts
    network: AnyNetwork
    params: Params
    path: Path
    """The checkpoint's folder."""
    step: int
    digest: str
    """SHA-256 of the checkpoint's manifest, and so of every byte in it."""


def load_model(
    place: Path, average: int | None = 0, *, use_best: bool = False, warn: Callable[[str], None] = print
) -> TrainedModel:
    """The model of a run's folder, or of one checkpoint's folder.

    Of a run it is the newest checkpoint that can be trusted (`warn` is told a line for each that cannot), or with
    `use_best` the one of the lowest held-out loss; a checkpoint that is asked for by name is refused when damaged.
    `average` is the index of the averaged parameters, None the raw ones.

    Raises CheckpointError when there is no checkpoint, or it is damaged, and UsageError when it has no such average.
    """
    is_checkpoint = (place / MANIFEST).exists()
    if is_checkpoint and use_best:
        raise UsageError(
            f"--best chooses among a run's checkpoints, and {place} is a single one; give the run's folder."
        )
    found = checkpoints.describe(place) if is_checkpoint else _choose(place, use_best, warn)
    path = found.path
    tree, digest = checkpoints.load(path)
    config, facts = load_config(path / "config.json"), found.facts()
    if average is not None and str(average) not in tree["ema"]:
        raise UsageError(
            f"--ema {average} does not exist; {path} has {len(tree['ema'])} average(s), counted from 0, and raw."
        )
    params = tree["params"] if average is None else tree["ema"][str(average)]
    # The shapes alone: a checkpoint holds the values.
    networks: list[Any] = []
    jax.eval_shape(lambda key: networks.append(made := make_network(config, facts, key)) or made[1], jax.random.key(0))
    return TrainedModel(config, facts, networks[0][0], params, path, int(tree["step"]), digest)


def _choose(run: Path, use_best: bool, warn: Callable[[str], None]) -> checkpoints.Checkpoint:
    directory = run / "checkpoints"
    found = checkpoints.best(directory) if use_best else checkpoints.newest_trusted(directory, warn)
    if use_best and found is not None and found.held_out_loss is None:
        warn(f"no held-out loss was measured in {run}; --best takes the newest checkpoint.")
    if found is None:
        raise CheckpointError(f"{run} holds no checkpoint that can be trusted; train it, or give another folder.")
    return found
