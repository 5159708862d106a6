"""Augmentation: what is done to an image, what the network is told of it, and that nobody else is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import keys as keys_lib
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from experiments import streams
from experiments.config.augment import AugmentConfig
from experiments.config.checks import check
from experiments.config.file import from_json, to_json
from experiments.config.nodes import Denoising, Generator
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.training import augmentation
from experiments.training.augmentation import Transformations, draw, told
from experiments.training.data import Facts
from experiments.training.model import make_network, network_of
from experiments.training.objective import make_objective
from tests.experiments.training.tiny_run import SHAPE, tiny_config, tiny_data

GROUPS = {"flip_x": 1, "flip_y": 1, "scale": 1, "rotate": 2, "stretch": 2, "translate": 2}
NONE = dict.fromkeys(GROUPS, False)
ALL = AugmentConfig(probability=0.5)
transformed = jax.jit(augmentation.transformed)
augmented = jax.jit(augmentation.augmented, static_argnums=1)
cropped = jax.jit(augmentation.cropped, static_argnums=2)


def keys(count, seed=0):
    return keys_lib.sample_keys(jax.random.key(seed), jnp.arange(count))


def images(count=3, height=9, width=9, channels=2):
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (count, height, width, channels)), jnp.float32)


def of(count=1, **fields):
    zeros = jnp.zeros(count)
    nothing = Transformations(zeros > 0, zeros > 0, zeros, zeros, zeros, zeros, jnp.zeros((count, 2)))
    given = {name: jnp.broadcast_to(jnp.asarray(value), getattr(nothing, name).shape) for name, value in fields.items()}
    return nothing._replace(**given)


def bump(height, width, row, column, tall=2.0, wide=2.0):
    """A Gaussian hill, its middle counted from that of the image."""
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    hill = np.exp(-((rows[:, None] - row) ** 2) / (2 * tall**2) - (columns - column) ** 2 / (2 * wide**2))
    return jnp.asarray(hill, jnp.float32)[None, ..., None]


def test_mirrorings_are_so_to_the_bit():
    x = images()
    np.testing.assert_array_equal(transformed(x, of(3, flip_x=True)), x[:, :, ::-1])
    np.testing.assert_array_equal(transformed(x, of(3, flip_y=[True, False, True])), [x[0, ::-1], x[1], x[2, ::-1]])


def test_nothing_done_is_nothing_done_to_the_bit_beside_others_to_which_it_is():
    x = images(3)
    found = transformed(x, of(3, angle=[0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(found[jnp.asarray([0, 2])], x[jnp.asarray([0, 2])])
    assert np.abs(found[1] - x[1]).max() > 0.1


@pytest.mark.parametrize("turns", [1, 2, -1])
def test_quarter_turns(turns):
    x = images()
    found = transformed(x, of(3, angle=np.pi / 2 * turns))
    np.testing.assert_allclose(found, np.rot90(x, turns, axes=(1, 2)), atol=1e-5)


def test_translations_by_eighths_of_the_side_are_shifts_to_the_right_and_upwards():
    x = images(1, 16, 24)
    found = transformed(x, of(shift=[[1.0, 2.0]]))  # 3 of 24 pixels to the right, 4 of 16 upwards
    np.testing.assert_allclose(found[:, :12, 3:], x[:, 4:, :-3], atol=1e-5)


def test_scaling_and_stretching_widen_a_hill_as_they_say():
    x, grow = bump(33, 33, 2.0, -3.0), 2**0.2
    found = transformed(x, of(scale=1.0))
    np.testing.assert_allclose(found, bump(33, 33, 2.0 * grow, -3.0 * grow, 2 * grow, 2 * grow), atol=1e-3)
    found = transformed(x, of(stretch=1.0))
    np.testing.assert_allclose(found, bump(33, 33, 2.0 / grow, -3.0 * grow, 2 / grow, 2 * grow), atol=1e-3)
    # With its axes rotated by a quarter turn it is the stretching of the other sign.
    turned = transformed(x, of(stretch=1.0, axis=np.pi / 2))
    np.testing.assert_allclose(turned, transformed(x, of(stretch=-1.0)), atol=1e-5)
    # By a half, it is the same.
    half = transformed(x, of(stretch=1.0, axis=-np.pi))
    np.testing.assert_allclose(half, transformed(x, of(stretch=1.0)), atol=1e-5)


def test_they_are_done_in_the_order_that_is_stated():
    x = bump(33, 33, 3.0, 4.0)
    parts = ("scale", 0.7), ("angle", 0.6), ("stretch", -0.8), ("shift", [[0.3, -0.4]])
    step_by_step = x
    for name, value in parts:
        axis = {"axis": 0.5} if name == "stretch" else {}
        step_by_step = transformed(step_by_step, of(**{name: value}, **axis))
    at_once = transformed(x, of(**dict(parts), axis=0.5))
    np.testing.assert_allclose(at_once, step_by_step, atol=3e-3)
    other_way = x
    for name, value in reversed(parts):
        other_way = transformed(other_way, of(**{name: value}, **({"axis": 0.5} if name == "stretch" else {})))
    assert np.abs(at_once - other_way).max() > 0.1


def test_images_stay_within_their_range():
    x = jnp.sign(images())
    found = transformed(x, of(3, angle=0.3))
    assert np.abs(found).max() == 1


def test_each_is_drawn_with_its_probability_and_its_law():
    n, p = 4000, 0.3
    drawn = draw(keys(n), AugmentConfig(probability=p))

    def near(found, wanted, spread):
        assert abs(np.mean(found) - wanted) < 4 * spread / np.sqrt(len(found))

    near(drawn.flip_x, 0.5, 0.5)
    near(drawn.flip_y, p / 2, 0.36)
    for value in (drawn.scale, drawn.angle, drawn.stretch, drawn.shift[:, 0]):
        near(value != 0, p, 0.46)
    np.testing.assert_array_equal(drawn.shift[:, 0] != 0, drawn.shift[:, 1] != 0)
    near(drawn.axis != 0, 0.5, 0.5)
    for value in (drawn.angle, drawn.axis):
        value = value[value != 0]
        near(value > 0, 0.5, 0.5)
        near(value**2, np.pi**2 / 3, np.pi**2 * np.sqrt(4 / 45))
    for value in (drawn.scale, drawn.stretch, drawn.shift[:, 1]):
        near(value[value != 0] ** 2, 1, np.sqrt(2))


def test_each_is_drawn_by_itself():
    """No two of the numbers, and no two of whether they are 0, go together; but for the two of a translation."""
    n = 4000
    values = np.stack(jax.tree.leaves(draw(keys(n), ALL)._replace(shift=jnp.zeros(n))))[:-1]
    shift = draw(keys(n), ALL).shift
    for numbers in ((*values, *shift.T), (*(values != 0), shift[:, 0] != 0)):
        together = np.corrcoef(np.asarray(numbers, float)) - np.eye(len(numbers))
        assert np.abs(together).max() < 4 / np.sqrt(n)


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_alone_is_told_by_its_numbers_and_changes_no_other(name):
    alone = AugmentConfig(probability=0.5, **{**NONE, name: True})
    assert alone.numbers == GROUPS[name]
    x = images(12)
    found, vector = augmented(keys(12), alone, x)
    assert vector.shape == (12, GROUPS[name])
    changed = np.any(np.asarray(found != x), axis=(1, 2, 3))
    np.testing.assert_array_equal(np.any(np.asarray(vector) != 0, axis=-1), changed)
    assert 0 < changed.sum() < 12
    columns = dict(zip(GROUPS, np.split(np.arange(9), np.cumsum(list(GROUPS.values()))[:-1]), strict=True))
    np.testing.assert_array_equal(vector, told(draw(keys_of(12), ALL), ALL)[:, columns[name]])


def keys_of(count):
    return keys_lib.fold(keys(count), streams.TRANSFORMED)


def test_what_is_told_determines_what_was_done():
    drawn = draw(keys_of(64), ALL)
    flip_x, flip_y, scale, cos, sin, along, across, right, up = told(drawn, ALL).T
    np.testing.assert_allclose(np.arctan2(sin, cos + 1), drawn.angle, atol=1e-6)
    np.testing.assert_allclose(along + 1j * across, drawn.stretch * np.exp(1j * drawn.axis), atol=1e-6)
    for found, wanted in ((flip_x, drawn.flip_x), (flip_y, drawn.flip_y), (scale, drawn.scale)):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.stack([right, up], axis=-1), drawn.shift)


def test_an_image_depends_on_its_own_key_alone():
    x, config = images(6), AugmentConfig(probability=0.5, pad=2)
    together = augmented(keys(6), config, x)
    order = jnp.asarray([4, 1, 5])
    for all_of, some in zip(together, augmented(keys(6)[order], config, x[order]), strict=True):
        np.testing.assert_allclose(some, all_of[order], atol=1e-6)


def test_crops_of_a_padded_image_are_shifts_of_all_sizes_alike():
    height, width, pad, count = 5, 4, 2, 500
    x = images(1, height, width, 1)
    padded = np.pad(x[0, ..., 0], pad, mode="reflect")
    crops = [padded[i : i + height, j : j + width] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    found = cropped(keys(count), jnp.broadcast_to(x, (count, height, width, 1)), pad)
    which = [[np.array_equal(crop, one) for one in crops] for crop in np.asarray(found[..., 0])]
    counts = np.sum(which, axis=0)
    assert counts.sum() == count
    share = count / len(crops)
    assert np.abs(counts - share).max() < 4 * np.sqrt(share)


def test_crops_alone_are_not_told():
    config = AugmentConfig(pad=1)
    assert (config.on, config.numbers) == (True, 0)
    assert len(augmented(keys(2), config, images(2))) == 1
    assert not AugmentConfig().on


NETWORKS = [
    UNetConfig(channels=8, multipliers=(1,), blocks=1),
    DiTConfig(patch=4, width=16, depth=1, heads=2),
    MLPConfig(hidden=8, layers=1, embedding=4, zero_output=False),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda config: type(config).__name__)
def test_a_network_that_is_told_nothing_is_the_one_without_to_the_bit(network):
    config = tiny_config(network=network, augment=ALL)
    facts = tiny_data().facts
    net, params = make_network(config, facts, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), params)
    plain = network_of(dataclasses.replace(config, augment=AugmentConfig()), facts)
    weights = {name: dict(part) if isinstance(part, dict) else part for name, part in params.items()}
    table = weights["emb"].pop("augment")
    assert [leaf.shape for leaf in jax.tree.leaves(table)] == [(9, table["kernel"].shape[1])]
    x, c_noise = images(3, *SHAPE), jnp.asarray([-1.0, 0.0, 1.0])
    without = plain(weights, x, c_noise)
    np.testing.assert_array_equal(net(params, x, c_noise), without)
    np.testing.assert_array_equal(net(params, x, c_noise, augment=jnp.zeros((3, 9))), without)
    vector = jnp.zeros((3, 9)).at[1, 4].set(1.0)
    told_one = net(params, x, c_noise, augment=vector)
    np.testing.assert_allclose(told_one[::2], without[::2], atol=1e-6)
    assert np.abs(told_one[1] - without[1]).max() > 1e-3


def loss_of(config, train, rows=slice(None)):
    data = tiny_data()
    network, params = make_network(config, data.facts, jax.random.key(1))
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape)), params)
    objective = make_objective(config, network, 4, config.network.dropout > 0)
    batch = {name: jnp.asarray(leaf[rows]) for name, leaf in data.batches[0].items()}
    return jax.jit(objective, static_argnums=4)(params, jax.random.key(2), batch, jnp.ones(1), train)[0]


def test_the_loss_of_an_element_does_not_depend_on_how_the_batch_is_shared():
    config = tiny_config(augment=AugmentConfig(probability=0.5, pad=1))
    whole = loss_of(config, True)
    shares = [loss_of(config, True, slice(0, 4)), loss_of(config, True, slice(4, 8))]
    np.testing.assert_allclose(np.concatenate(shares), whole, rtol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_the_network_is_told_of_each_image_what_was_done_to_it_and_nothing_else(train):
    """By keys of its own, which neither the noise nor the dropped labels have."""
    config, data, told_it = tiny_config(augment=ALL), tiny_data(), []

    def network(params, x, c_noise, labels, keys, *told):
        told_it.append(told)
        return jnp.zeros_like(x)

    batch = {name: jnp.asarray(leaf) for name, leaf in data.batches[0].items()}
    make_objective(config, network, 4, dropout=False)({}, jax.random.key(2), batch, jnp.ones(1), train)
    own = keys_lib.sample_keys(jax.random.fold_in(jax.random.key(2), streams.AUGMENT), batch["slot"])
    wanted = [told(draw(keys_lib.fold(own, streams.TRANSFORMED), ALL), ALL)] if train else []
    (found,) = told_it
    assert len(found) == len(wanted)
    jax.tree.map(np.testing.assert_array_equal, list(found), wanted)


def test_training_alone_is_augmented():
    config, plain = tiny_config(augment=AugmentConfig(pad=1)), tiny_config()
    np.testing.assert_array_equal(loss_of(config, False), loss_of(plain, False))
    assert np.abs(loss_of(config, True) - loss_of(plain, True)).max() > 1e-3


def test_times_noise_and_dropout_are_those_of_a_run_without(monkeypatch):
    config, plain = tiny_config(augment=AugmentConfig(pad=1)), tiny_config()
    monkeypatch.setattr(augmentation, "cropped", lambda keys, images, pad: images)
    np.testing.assert_array_equal(loss_of(config, True), loss_of(plain, True))


def test_it_is_off_unless_asked_for_and_kept_in_the_file():
    assert not Config().augment.on
    config = tiny_config(augment=AugmentConfig(probability=0.12, rotate=False, pad=3))
    assert from_json(to_json(config)) == config
    old = to_json(config)
    del old["augment"]  # a run that was made before
    assert from_json(old).augment == AugmentConfig()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"augment": AugmentConfig(probability=1.2)}, "augment.probability is 1.2"),
        ({"augment": AugmentConfig(probability=float("nan"))}, "augment.probability is nan"),
        ({"augment": AugmentConfig(pad=-1)}, "augment.pad is -1"),
        ({"augment": AugmentConfig(probability=0.1, **NONE)}, "every transformation is turned off"),
        ({"augment": AugmentConfig(pad=1), "objective": Denoising(reference=8)}, "leave --objective.reference out"),
        ({"augment": ALL, "objective": Generator()}, "leave --objective generator out"),
    ],
)
def test_what_cannot_be_augmented_is_refused(fields, sentence):
    with pytest.raises(UsageError, match=sentence):
        check(Config(**fields))


def test_points_are_not_augmented():
    with pytest.raises(UsageError, match="points"):
        network_of(Config(network=MLPConfig(), augment=AugmentConfig(probability=0.12)), Facts((2,), 0))
