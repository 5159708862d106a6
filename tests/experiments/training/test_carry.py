"""Parameters of one network in another: by name, rows of classes by the names of the classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks import Network, build
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from experiments.errors import CheckpointError
from experiments.training.carry import carry_over

SHAPE = (4, 4, 1)
X, C_NOISE = jax.random.normal(jax.random.key(7), (3, *SHAPE)), jnp.linspace(-1, 1, 3)


MLP = MLPConfig(hidden=6, layers=1, embedding=4)
TOKENS = DiTConfig(patch=4, width=8, heads=2, depth=1, class_tokens=2)


def trained(classes, seed, shape=SHAPE, config=MLP, augment_dim=0):
    """A network whose every parameter has moved, the table of classes and the output among them."""
    network = Network(config, shape, len(classes), augment_dim=augment_dim)
    params = network.init(jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 100), 99))
    return network, jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)


def answer(network, params, label=None):
    labels = None if label is None else jnp.full(3, label)
    return np.asarray(network(jax.tree.map(jnp.asarray, params), X, C_NOISE, labels))


def test_a_class_has_the_answers_of_the_class_of_its_name_and_a_new_one_those_of_no_class():
    old, new = ("cat", "dog", "owl"), ("ant", "owl", "cat")
    source, params = trained(old, 0)
    network, begin = trained(new, 1)
    carried, told = carry_over(params, begin, old, new)
    for label, name in enumerate(new):
        before = answer(source, params, old.index(name) if name in old else None)
        np.testing.assert_array_equal(answer(network, carried, label), before)
    np.testing.assert_array_equal(answer(network, carried), answer(source, params))
    assert (told.known_classes, told.new_classes, told.new) == (("owl", "cat"), ("ant",), ())
    assert not np.array_equal(answer(network, carried, 0), answer(network, carried, 1))


def test_classes_come_to_a_network_that_knew_none_without_a_change():
    source, params = trained((), 0)
    network, begin = trained(("a", "b"), 1)
    carried, told = carry_over(params, begin, (), ("a", "b"))
    for label in (None, 0, 1):
        np.testing.assert_array_equal(answer(network, carried, label), answer(source, params))
    assert told.new == ("emb/table/embedding",)
    assert told.new_classes == ("a", "b")


@pytest.mark.parametrize("config", [MLP, TOKENS], ids=["mlp", "class tokens"])
def test_without_classes_a_network_answers_as_for_no_class(config):
    source, params = trained(("a", "b"), 0, config=config)
    network, begin = trained((), 1, config=config)
    carried, _ = carry_over(params, begin, ("a", "b"), ())
    np.testing.assert_allclose(answer(network, carried), answer(source, params), rtol=1e-5, atol=1e-5)
    assert np.ptp(answer(source, params, 0) - answer(source, params)) > 1e-3  # the rows do matter


@pytest.mark.parametrize(("before", "after"), [(0, 9), (9, 0), (9, 4), (9, 9)])
def test_augmentation_may_come_and_go_and_an_image_as_it_is_has_the_same_answers(before, after):
    source, params = trained(("a",), 0, augment_dim=before)
    network, begin = trained(("a",), 1, augment_dim=after)
    carried, told = carry_over(params, begin, ("a",), ("a",))
    np.testing.assert_array_equal(answer(network, carried, 0), answer(source, params, 0))
    assert told.new == (("emb/augment/kernel",) if after not in (0, before) else ())
    assert ("emb/augment/kernel" in told.carried) == (before == after)


def test_arrays_of_another_shape_begin_anew_and_the_initial_ones_stay_as_they_are():
    _, params = trained((), 0)
    _, begin = trained((), 1, shape=(4, 4, 3))
    kept = jax.tree.map(np.array, begin)
    carried, told = carry_over(params, begin)
    assert told.new == ("first/kernel", "out/bias", "out/kernel")
    for name, part in (("first", "kernel"), ("out", "bias"), ("out", "kernel")):
        np.testing.assert_array_equal(carried[name][part], begin[name][part])
    np.testing.assert_array_equal(carried["first"]["bias"], params["first"]["bias"])
    jax.tree.map(np.testing.assert_array_equal, kept, jax.tree.map(np.asarray, begin))


def test_a_network_of_another_kind_is_refused():
    _, params = trained((), 0)
    _, other = build(UNetConfig(channels=4, multipliers=(1,), blocks=1), SHAPE, key=jax.random.key(0))
    with pytest.raises(CheckpointError, match="its network is of another kind"):
        carry_over(params, other)
    with pytest.raises(CheckpointError, match="no array of the source has the shape"):
        carry_over({"a": np.zeros(2)}, {"a": np.zeros(3)})
