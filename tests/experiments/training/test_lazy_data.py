"""Trainings whose images are decoded as they are used: the numbers of those in memory, and a line for lost files."""

import dataclasses
import os

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.config.file import from_json, load_config, to_json
from experiments.data import DataConfig
from experiments.data.lazy import VERSION
from experiments.errors import DataError
from experiments.training import loop
from experiments.training.checkpoint import find_checkpoints
from experiments.training.data import open_data
from tests.experiments.training.tiny_run import tiny_config

COUNT = 24


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of pictures in two classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
        os.utime(path, ns=(10**18, 10**18))
    return tmp_path / "set"


def config_of(pictures, steps=6, **data):
    training = {"steps": steps, "validate_every": 3, "checkpoint_every": 3, "log_every": 1}
    return tiny_config(training=training, data=DataConfig(source=f"folder:{pictures}", held_out=0.2, **data))


def trained(config, outdir):
    """The last parameters."""
    with loop.training(config, outdir, devices=tuple(jax.devices()[:1])) as steps:
        for step in steps:
            if step.step == config.training.steps:
                return jax.tree.leaves(step.params)
    raise AssertionError


def test_a_lazy_training_is_that_in_memory_and_goes_on_as_it_began(pictures, tmp_path, shared_programs):
    lazily = config_of(pictures, loading="lazy")
    one, other = trained(config_of(pictures), tmp_path / "memory"), trained(lazily, tmp_path / "lazy")
    assert all(map(np.array_equal, one, other))
    assert find_checkpoints(tmp_path / "lazy" / "checkpoints")[-1].facts().fingerprint.startswith(VERSION)
    small = 100 / 2**30  # bytes: the limit of memory says the same
    trained(config_of(pictures, steps=3, memory_gib=small), tmp_path / "halves")
    assert load_config(tmp_path / "halves" / "config.json").data.loading == "lazy"
    halves = trained(config_of(pictures), tmp_path / "halves")  # there is more memory now, and it stays lazy
    assert all(map(np.array_equal, one, halves))
    with pytest.raises(DataError, match=r"give --data\.loading lazy"):
        trained(config_of(pictures, steps=9, loading="memory"), tmp_path / "halves")
    with pytest.raises(DataError, match="memory-gib"):  # what began in memory stays there
        trained(config_of(pictures, steps=9, memory_gib=small), tmp_path / "memory")


def test_a_file_that_is_lost_while_training_is_named_and_the_last_step_is_saved(pictures, tmp_path, shared_programs):
    config, outdir = config_of(pictures, steps=50, loading="lazy"), tmp_path / "run"
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, checkpoint_every=50))
    lost, seen = pictures / "a" / "04.png", 0
    content = lost.read_bytes()
    with pytest.raises(DataError, match=rf"{lost} cannot be read \(No such file"):  # noqa: PT012
        for step in loop.training(config, outdir, devices=tuple(jax.devices()[:1])):
            seen = step.step
            if seen == 5:
                lost.unlink()
    assert 5 <= seen < 50
    assert find_checkpoints(outdir / "checkpoints")[-1].step == seen
    lost.write_bytes(content)  # restored: another time, the same contents
    again = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=max(seen + 1, 12)))
    whole = trained(again, tmp_path / "whole")
    assert all(map(np.array_equal, trained(again, outdir), whole))


def test_other_pictures_are_refused_by_a_lazy_run(pictures, tmp_path, shared_programs):
    trained(config_of(pictures, steps=1, loading="lazy"), tmp_path / "run")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pictures / "a" / "04.png")
    with pytest.raises(DataError, match=r"images or labels of --data\.source are not those"):
        trained(config_of(pictures, steps=2, loading="lazy"), tmp_path / "run")


def test_a_run_from_before_there_was_a_choice_is_in_memory(pictures):
    said = to_json(config_of(pictures))
    for name in ("loading", "on_bad"):
        del said["data"][name]
    data = from_json(said).data
    assert (data.loading, data.on_bad) == ("memory", "refuse")


def test_reference_images_are_read_ahead_too(pictures):
    from experiments.config.nodes import Denoising

    parts = [config_of(pictures, loading=loading) for loading in ("memory", "lazy")]
    eager, lazy = (
        open_data(dataclasses.replace(one, objective=Denoising(reference=6), conditional=False)) for one in parts
    )
    with lazy.from_step(2) as batches, eager.from_step(2) as others:
        for _ in range(5):
            one, other = next(batches), next(others)
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
