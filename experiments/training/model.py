"""From a configuration and the facts of its data to a network, and to its initial parameters."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Key

from diffusion.flow_maps.network import GAP_NUMBERS
from diffusion.networks import Network
from diffusion.networks.conservative import Conservative
from experiments.config.nodes import FlowMap, Generator
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.training.data import Facts, num_classes
from experiments.training.generator import Game
from experiments.training.state import Params

AnyNetwork = Network | Conservative | Game
"""What is called as F(params, x, c_noise, labels, keys)."""


def network_of(config: Config, facts: Facts) -> AnyNetwork:
    """The network of `config` for data of these facts: shapes alone, no parameters.

    Raises UsageError when the network cannot have the shape of the data.
    """
    outputs = 2 if config.learned_variance else 1
    if config.augment.on and len(facts.event_shape) != 3:
        raise UsageError("--augment transforms images, and these data are points; leave it out.")
    try:
        numbers = GAP_NUMBERS if isinstance(config.objective, FlowMap) else config.augment.numbers
        plain = Network(config.network, facts.event_shape, num_classes(config, facts), outputs, numbers)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the network does not fit the data: {_with_flag(str(error), config)}") from None
    if isinstance(config.objective, Generator):
        return Game(plain)
    return Conservative(plain) if config.conservative else plain


def _with_flag(sentence: str, config: Config) -> str:
    """A sentence that begins with a field of the network, with the flag in its place."""
    word, _, rest = sentence.partition(" ")
    known = word in (field.name for field in dataclasses.fields(config.network))
    return f"--network.{word.replace('_', '-')} {rest}" if known else sentence


def make_network(config: Config, facts: Facts, key: Key[Array, ""]) -> tuple[AnyNetwork, Params]:
    """`network_of`, and its initial parameters. Raises as it does."""
    network = network_of(config, facts)
    return network, network.init(key)
