"""A training whose held-out loss is scripted: it warns, ends early, keeps the best, and goes on by the same count."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import loop
from experiments.training.checkpoint import best, find_checkpoints
from experiments.training.loop import train
from tests.experiments.conftest import on_one_device
from tests.experiments.training.tiny_run import tiny_config, tiny_data


@pytest.fixture
def scripted(monkeypatch):
    """Let the held-out losses be those of a list, in the order of validations, two batches each."""
    losses, asked = [], [0]
    make = loop.make_programs

    def made(*arguments):
        def held_out_loss(*_):
            asked[0] += 1
            loss = losses[(asked[0] - 1) // 2]
            return jnp.asarray(loss), loss + jnp.asarray([-0.5, 0.5])

        return dataclasses.replace(make(*arguments), held_out_loss=held_out_loss)

    monkeypatch.setattr(loop, "make_programs", made)
    monkeypatch.setattr(loop, "make_replicas", on_one_device)

    def script(*values):
        losses[:], asked[0] = values, 0

    return script


def config(stop_after, **training):
    said = {"steps": 20, "validate_every": 1, "checkpoint_every": 10, "keep_last": 1, "stop_after": stop_after}
    return tiny_config(training={**said, **training})


def steps_in(outdir):
    return [checkpoint.step for checkpoint in find_checkpoints(outdir / "checkpoints")]


def test_a_run_ends_when_its_loss_no_longer_falls_and_keeps_the_best(tmp_path, scripted, capsys):
    scripted(3.0, 2.0, 2.5, 2.5, 2.5, 1.0)
    result = train(config(3), tmp_path, data=tiny_data())
    assert (result.step, result.signum, result.exit_status) == (5, None, 0)
    assert steps_in(tmp_path) == [2, 5]
    found = best(tmp_path / "checkpoints")
    assert (found.step, found.held_out_loss) == (2, 2.0)
    assert (
        "ended at step 5 of 20: the held-out loss was lowest at step 2, 2, which --best takes"
        in capsys.readouterr().err
    )
    # The same command has nothing to do; more patience goes on from the end, by the count so far.
    scripted(1.0)
    assert train(config(3), tmp_path, data=tiny_data(), quiet=True).step == 5
    scripted(2.5, 2.5, 1.0)
    assert train(config(5), tmp_path, data=tiny_data(), quiet=True).step == 7
    assert steps_in(tmp_path) == [2, 7]
    scripted(1.0, *np.full(12, 1.5))
    assert train(config(0), tmp_path, data=tiny_data(), quiet=True).step == 20


def test_a_run_that_is_stopped_counts_on_from_where_it_was(tmp_path, scripted):
    scripted(3.0, 2.0, 2.5, 2.6)
    with loop.training(config(3), tmp_path, data=tiny_data()) as steps:
        for step in steps:
            if step.step == 4:
                break
    scripted(2.7, 1.0)
    assert train(config(3), tmp_path, data=tiny_data(), quiet=True).step == 5


def test_without_it_the_loss_ends_nothing_and_a_parting_is_told_once(tmp_path, scripted, capsys, monkeypatch):
    monkeypatch.setattr("experiments.training.course.Validation", falling())
    scripted(3.0, 2.0, *np.linspace(2.1, 4, 18))
    assert train(config(0), tmp_path, data=tiny_data(), quiet=True).step == 20
    said = capsys.readouterr().err
    assert said.count("the held-out loss has risen from 2 to") == 1
    assert "since step 2 " in said
    assert steps_in(tmp_path) == [10, 20]


def falling():
    """A validation whose training loss falls with the step."""
    from experiments.training.parting import Validation

    return lambda step, training, held_out: Validation(step, -step, held_out)
