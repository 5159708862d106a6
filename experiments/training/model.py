"""From a configuration, or a checkpoint, to a network with its parameters."""

from __future__ import annotations

from jaxtyping import Array, Key

from diffusion.networks import Network
from diffusion.networks.conservative import Conservative
from experiments.config.tree import Config, Generator
from experiments.errors import UsageError
from experiments.training.data import Facts
from experiments.training.generator import Game
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
