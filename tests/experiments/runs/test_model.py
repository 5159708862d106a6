"""A trained network under its one name: what it says of itself, and that it is built without its parameters."""

import dataclasses
from pathlib import Path

import jax
import pytest

from diffusion.networks.configs import MLPConfig, UNetConfig
from diffusion.prediction import Preconditioning
from experiments.config.nodes import Chain, Generator
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.runs.model import Model
from experiments.runs.provenance import origin
from experiments.training.data import Facts
from experiments.training.model import make_network, network_of

FACTS = Facts((4, 4, 1), 10)
NETWORK = MLPConfig(hidden=8, layers=1, embedding=4)
PLAIN = Config(network=NETWORK)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        Config(network=NETWORK, conditional=True),
        Config(network=NETWORK, conservative=True),
        Config(
            network=NETWORK, schedule=Chain(steps=10), preconditioning=Preconditioning("eps"), learned_variance=True
        ),
        Config(network=NETWORK, objective=Generator(), preconditioning=Preconditioning("x0")),
    ],
)
def test_a_network_is_built_without_its_parameters(config):
    """It is the one that is trained, and it holds no array."""
    network = network_of(config, FACTS)
    trained, params = make_network(config, FACTS, jax.random.key(0))
    assert network == trained
    same = jax.tree.map(lambda a, b: a.shape == b.shape, params, jax.eval_shape(network.init, jax.random.key(1)))
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (UNetConfig(attention_resolutions=(7,)), (64, 64, 1), "--network.attention-resolutions has 7, .* such as 16"),
        (UNetConfig(multipliers=(1, 1)), (1, 8, 1), "--network.multipliers has 2 levels"),
    ],
)
def test_a_network_that_does_not_fit_the_data_names_its_flag(network, shape, words):
    with pytest.raises(UsageError, match=f"the network does not fit the data: {words}"):
        network_of(Config(network=network), Facts(shape, 0))


def test_a_model_knows_classes_only_if_it_is_conditional():
    conditional = Model(dataclasses.replace(PLAIN, conditional=True), FACTS, network_of(PLAIN, FACTS), None)
    assert (conditional.num_classes, dataclasses.replace(conditional, config=PLAIN).num_classes) == (10, 0)


def test_a_model_says_in_a_line_what_it_is():
    network, params = make_network(PLAIN, FACTS, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    said = repr(Model(PLAIN, FACTS, network, params, Path("runs/x/checkpoints/00000012"), 12, "ab", average=1))
    assert said == f"Model(runs/x/checkpoints/00000012, step 12, average 1: MLP of {count:,} parameters for 4×4×1)"
    assert repr(Model(PLAIN, FACTS, network, None)).startswith("Model(in training, average 0: MLP")


@pytest.mark.parametrize(
    ("average", "ema", "words"), [(None, "raw", "raw"), (0, "0", "average 0"), (2, "2", "average 2")]
)
def test_which_parameters_a_model_has_is_said_in_its_provenance(average, ema, words):
    model = Model(PLAIN, FACTS, network_of(PLAIN, FACTS), None, Path("runs/x"), 7, "ab", average)
    assert model.ema == ema
    said = origin(model)
    assert (said["parameters"], said["checkpoint"], said["checkpoint_step"]) == (words, "runs/x", 7)
    assert said["checkpoint_sha256"] == "ab"
