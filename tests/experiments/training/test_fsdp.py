"""A state that is cut among the devices is the state that is whole on each, to rounding, wherever it goes on."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments.config.told import MeasureConfig
from experiments.errors import UsageError
from experiments.training import sharding
from experiments.training.checkpoint import find_checkpoints, load
from experiments.training.fsdp import Shards
from experiments.training.generator import optimizer_of
from experiments.training.loop import train, training
from experiments.training.model import network_of
from experiments.training.placement import make_replicas
from experiments.training.state import initial_state
from tests.experiments.training.tiny_run import tiny_config, tiny_data

pytestmark = pytest.mark.usefixtures("shared_programs")
DEVICES = tuple(jax.devices()[:4])


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    """The arrays of the tiny network are cut too."""
    monkeypatch.setattr(sharding, "SMALL", 2)


def cut(**training):
    return dataclasses.replace(tiny_config(training=training), parallel="fsdp")


def final(outdir):
    return load(find_checkpoints(outdir / "checkpoints")[-1].path)[0]


def same(a, b):
    # Adam divides gradients near zero by themselves, rounding errors included: 0.2% of the distance of one update.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=5e-6), a, b)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """Ten steps on four devices."""
    folder = tmp_path_factory.mktemp("halfway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALL", 2)
        train(cut(steps=10), folder, data=tiny_data(), devices=DEVICES, quiet=True)
    return folder


@pytest.mark.parametrize(("count", "parallel"), [(4, "fsdp"), (2, "fsdp"), (1, "data")])
def test_a_run_goes_on_from_what_was_cut_on_any_number_of_devices(halfway, straight, tmp_path, count, parallel):
    run = shutil.copytree(halfway, tmp_path / "run")
    config = dataclasses.replace(cut(), parallel=parallel)
    result = train(config, run, data=tiny_data(), devices=DEVICES[:count], quiet=True)
    assert result.step == 20
    same(final(run), final(straight))


def test_the_devices_hold_parts_before_and_after_a_step(tmp_path):
    config = cut(steps=2)
    with training(config, tmp_path, data=tiny_data(), devices=DEVICES) as steps:
        for step in steps:
            kernels = [
                leaf
                for path, leaf in jax.tree_util.tree_leaves_with_path(step._state)
                if jax.tree_util.keystr(path[-1:], simple=True) == "kernel"
            ]
            assert len(kernels) > 4
            whole = [leaf for leaf in kernels if leaf.addressable_data(0).size == leaf.size]
            assert all(not any(side % 4 == 0 for side in leaf.shape) for leaf in whole)
            assert len(whole) < len(kernels)
            # What the loop's body is given is whole, on one device, and its own.
            for given, held in zip(jax.tree.leaves(step.params), jax.tree.leaves(step._state.params), strict=True):
                assert given.devices() == {DEVICES[0]}
                np.testing.assert_array_equal(given, held)


def test_micro_batches_take_the_elements_that_they_take_on_each_device(tmp_path):
    one = dataclasses.replace(tiny_config(training={"steps": 3}).optimizer, accumulate=2)
    runs = []
    for parallel in ("data", "fsdp"):
        config = dataclasses.replace(tiny_config(training={"steps": 3}), optimizer=one, parallel=parallel)
        train(config, tmp_path / parallel, data=tiny_data(), devices=DEVICES, quiet=True)
        runs.append(final(tmp_path / parallel))
    same(*runs)


def test_what_each_device_holds_is_told_before_it_is_held():
    config = cut()
    shards = make_replicas(config, DEVICES)
    assert isinstance(shards, Shards)
    network = network_of(config, tiny_data().facts)
    state = initial_state(network.init(jax.random.key(0)), optimizer_of(config), config)
    placed = shards.place(state)
    held = [sum(leaf.addressable_shards[i].data.nbytes for leaf in jax.tree.leaves(placed)) for i in range(4)]
    assert held == [shards.bytes_on_each(state)] * 4
    assert held[0] < 0.5 * make_replicas(dataclasses.replace(config, parallel="data"), DEVICES).bytes_on_each(state)


def test_several_processes_refuse_measures_for_which_one_would_need_the_whole_model(monkeypatch):
    config = dataclasses.replace(cut(), measure=MeasureConfig(levels_every=1))
    assert make_replicas(config).count  # one process has it whole
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match=r"among 2; leave --measure\.levels-every"):
        make_replicas(config)
    assert make_replicas(dataclasses.replace(config, parallel="data")).count
