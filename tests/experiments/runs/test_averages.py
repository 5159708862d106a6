"""Averages that are made after training: those that a training keeps, at every door that takes one, or a sentence."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.errors import CheckpointError, UsageError
from experiments.interface.run import load
from experiments.runs.averages import folder_of
from experiments.runs.load import CheckpointArguments, choose, load_model, load_run
from experiments.training import loop
from experiments.training.checkpoint import find_checkpoints
from experiments.training.manifest import write_manifest
from experiments.training.power import exponent
from experiments.training.snapshots import find_snapshots, flat_arrays, read_arrays, snapshots_of, write_arrays
from tests.experiments.training.tiny_run import tiny_config, tiny_data

DEVICE = tuple(jax.devices()[:1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of forty steps with twenty snapshots, and the raw parameters of all its steps."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(ema={"snapshot_every": 2}, training={"steps": 40, "checkpoint_every": 20})
    with loop.training(config, folder, data=tiny_data(), devices=DEVICE) as steps:
        seen = [jax.tree.map(np.asarray, step.params) for step in steps]
    return folder, seen


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "run")


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))


def kept_from_the_start(seen, width):
    """The average by its profile, in float64."""
    edges = (np.arange(len(seen) + 1) / len(seen)) ** (exponent(width) + 1)
    return jax.tree.map(lambda *leaves: np.tensordot(np.diff(edges), np.float64(leaves), 1), *seen)


def distance(a, b):
    return norm(jax.tree.map(np.subtract, a, b)) / norm(b)


def test_the_command_makes_the_averages_that_a_training_would_have_kept(run, copy, run_command):
    """Within a hundredth by their norm; and every door that takes an average takes them."""
    seen = run[1]
    outcome = run_command("ema", "--run", copy, "--sigma-rel", "0.05,0.08,0.15", "--json")
    assert outcome.status == 0, outcome.err
    assert [(row["sigma_rel"], row["step"], row["snapshots"]) for row in outcome.value] == [
        (width, 40, 20) for width in (0.05, 0.08, 0.15)
    ]
    for row in outcome.value:
        width, model = row["sigma_rel"], load_model(copy, row["sigma_rel"])
        assert distance(model.params, kept_from_the_start(seen, width)) < 0.01
        assert row["distance"] < (1e-6 if width == 0.05 else 0.02)
        assert (model.ema, model.average, model.step) == (str(width), width, 40)
    # One of a width that was kept is the one that was kept, and no other that the checkpoint has.
    with np.load(Path(outcome.value[0]["path"]) / "average.npz") as made:
        of_checkpoint = flat_arrays(load_model(copy, 0.05).params)
        assert set(made.files) == set(of_checkpoint)
        for name, array in of_checkpoint.items():
            np.testing.assert_allclose(made[name], array, rtol=1e-6, atol=1e-7)
    # They move, by more than that.
    assert distance(seen[-1], kept_from_the_start(seen, 0.15)) > 0.02
    model = load_run(CheckpointArguments(run=copy, ema="0.15"))
    assert (model.parameters, model.path) == ("average of relative width 0.15", copy / "checkpoints" / "00000040")
    assert len({model.digest, load_model(copy, 0.08).digest, load_model(copy).digest}) == 3
    jax.tree.map(np.testing.assert_array_equal, load(copy, average=0.15).model.params, model.params)
    # Of a width that was kept, the one that was kept.
    jax.tree.map(np.testing.assert_array_equal, load_model(copy, 0.1).params, load_model(copy, 3).params)
    sampled = run_command(
        *("sample", "--run", copy, "--ema", "0.15", "--seeds", "0-1", "--steps", "2"),
    )
    assert sampled.status == 0, sampled.err


def test_an_earlier_checkpoint_has_averages_of_its_own(run, copy, run_command):
    outcome = run_command("ema", copy / "checkpoints" / "00000020", "--sigma-rel", "0.07")
    assert outcome.status == 0, outcome.err
    assert "0.07 at step 20: profile" in outcome.out
    assert "from 10 snapshots" in outcome.out
    model = load_model(copy / "checkpoints" / "00000020", 0.07)
    assert distance(model.params, kept_from_the_start(run[1][:20], 0.07)) < 0.01
    with pytest.raises(UsageError, match=r"no average of relative width 0\.07 at 00000040; make it by: scorefield ema"):
        load_model(copy, 0.07)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--sigma-rel is missing; give one or more widths"),
        (("--sigma-rel", "0.3"), "--sigma-rel 0.3 is no width of an average; give one above 0 and up to 0.2887"),
        (("--sigma-rel", "0"), "--sigma-rel 0 is no width of an average"),
        (("--sigma-rel", "0.01"), "--sigma-rel 0.01 is not reached from the 20 snapshots"),
    ],
)
def test_widths_that_cannot_be_made_are_refused(run, run_command, flags, words):
    outcome = run_command("ema", "--run", run[0], *flags)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err
    assert not (run[0] / "averages").exists()


def test_too_few_snapshots_are_told_with_the_widths_that_can_be_made(copy, run_command):
    for snapshot in find_snapshots(snapshots_of(copy))[:-2]:
        shutil.rmtree(snapshot.path)
    outcome = run_command("ema", "--run", copy, "--sigma-rel", "0.15")
    assert outcome.status == 2
    assert "not reached from the 2 snapshots" in outcome.err
    nearest = re.search(r"away; give (0\.\d+), about the nearest width that is, or train", outcome.err)
    assert nearest is not None
    assert run_command("ema", "--run", copy, "--sigma-rel", nearest[1]).status == 0


def test_a_run_without_snapshots_is_refused(copy, run_command, tiny_run):
    shutil.rmtree(snapshots_of(copy))
    outcome = run_command("ema", "--run", copy, "--sigma-rel", "0.15")
    assert outcome.status == 2
    assert "has no snapshots before step 40" in outcome.err
    outcome = run_command("ema", "--run", tiny_run, "--sigma-rel", "0.15")
    assert outcome.status == 2
    assert "was trained without power-function averages; train with --ema.snapshot-every" in outcome.err


def test_a_damaged_snapshot_is_passed_over_with_a_word(run, copy, run_command):
    path = find_snapshots(snapshots_of(copy))[9].path / "0.05.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    outcome = run_command("ema", "--run", copy, "--sigma-rel", "0.12", "--json")
    assert outcome.status == 0
    assert outcome.err.count("It is passed over.") == 1
    assert outcome.value[0]["snapshots"] == 19
    assert distance(load_model(copy, 0.12).params, kept_from_the_start(run[1], 0.12)) < 0.01


def test_an_average_of_another_checkpoint_and_a_damaged_one_are_refused(copy, run_command):
    assert run_command("ema", "--run", copy, "--sigma-rel", "0.12").status == 0
    place = folder_of(find_checkpoints(copy / "checkpoints")[-1].path, 0.12)
    shutil.copytree(place, place.with_name("00000020-0.12"))
    with pytest.raises(UsageError, match="was made from another checkpoint than the one that is there now"):
        load_model(copy / "checkpoints" / "00000020", 0.12)
    file = place / "average.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"average\.npz does not match its SHA-256"):
        load_model(copy, 0.12)
    assert run_command("ema", "--run", copy, "--sigma-rel", "0.12").status == 0
    load_model(copy, 0.12)


HARMS = {
    "another shape": lambda arrays: {name: np.zeros(7) for name in arrays},
    "texts": lambda arrays: {name: np.full(array.shape, "a") for name, array in arrays.items()},
    "another name": lambda arrays: {**arrays, "more": np.zeros(3)},
    "a name below another": lambda arrays: {**arrays, f"{min(arrays)}/more": np.zeros(3)},
    "fewer": lambda arrays: dict(list(arrays.items())[1:]),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_files_that_hold_other_arrays_are_refused(copy, run_command, harm):
    """With a manifest of their own, as somebody else may have written them."""

    def harmed(path):
        write_arrays(path, harm(dict(read_arrays(path))))
        (path.parent / "SHA256SUMS").unlink()
        write_manifest(path.parent)

    assert run_command("ema", "--run", copy, "--sigma-rel", "0.08").status == 0
    harmed(folder_of(find_checkpoints(copy / "checkpoints")[-1].path, 0.08) / "average.npz")
    with pytest.raises(CheckpointError, match=r"average.npz (holds other|lacks) arrays"):
        load_model(copy, 0.08)
    harmed(snapshots_of(copy) / "00000010" / "0.05.npz")
    outcome = run_command("ema", "--run", copy, "--sigma-rel", "0.15")
    assert outcome.status == 4
    assert re.search(r"0.05.npz (holds other|lacks) arrays", outcome.err)


@pytest.mark.parametrize("word", ["1.2.3", "-1", "0.1x", "x", "", "."])
def test_a_word_that_names_no_average_is_refused(word):
    with pytest.raises(
        UsageError, match="neither raw nor the number of an average, counted from 0, nor a relative width"
    ):
        load_run(CheckpointArguments(run=Path("runs/any"), ema=word))


def test_the_checkpoint_is_chosen_as_for_a_model(run):
    assert choose(run[0], False, print).step == 40
    with pytest.raises(UsageError, match="--best chooses among a run's checkpoints"):
        choose(run[0] / "checkpoints" / "00000020", True, print)
