"""`scorefield train --init-from RUN`, and the trackers and measures that are named by flags."""

import json
import re
import shutil

import numpy as np
import pytest

from experiments.commands.train import read
from experiments.config.file import load_config
from experiments.errors import UsageError
from experiments.training.checkpoint import load


def test_nothing_more_is_needed_and_it_goes_on_without_its_source(conditional_run, run_command, tmp_path):
    """Other data by the configuration of the source, on other classes; then the same command without the source."""
    source, outdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(conditional_run, source)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "new.npz", images=rng.integers(0, 256, (40, 12, 12, 1), np.uint8), labels=np.arange(40) % 2)
    command = ("train", "--init-from", source, "--data", f"npz:{tmp_path / 'new.npz'}", "--outdir", outdir)
    told = run_command(*command, "--training.steps", 2)
    assert told.status == 0, told.err
    assert f"begun from {source / 'checkpoints' / '00000012'} (average 0): " in told.err
    assert "new: the optimiser, its schedule and the count of steps" in told.err
    config, before = (json.loads((run / "config.json").read_text()) for run in (outdir, source))
    assert config["data"]["size"] == 8  # the source's, which its network knows
    assert config["training"]["steps"] == 2
    assert config["network"] == before["network"]
    table = [load(run / "checkpoints" / name)[0]["ema"]["0"]["emb"]["table"]["embedding"]
             for run, name in ((source, "00000012"), (outdir, "00000000"))]  # fmt: skip
    np.testing.assert_array_equal(table[1], table[0][[0, 1, 10]])  # the classes 0 and 1, and none
    shutil.rmtree(source)
    again = run_command(*command, "--training.steps", 2)
    assert again.status == 0, again.err


def test_a_dry_run_says_what_would_be_carried_over(tiny_run, run_command, tmp_path):
    told = run_command("train", "--init-from", tiny_run, "--outdir", tmp_path / "new", "--dry-run")
    assert told.status == 0, told.err
    assert told.value["init_from"]["step"] == 12
    assert told.value["init_from"]["carried"] == "14 of 14 arrays"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", [(), ("--dry-run",)])
def test_a_source_that_is_not_there_is_refused_before_data_are_read(
    tiny_run, run_command, tmp_path, monkeypatch, given
):
    monkeypatch.setattr("experiments.training.data.open_data", lambda *_: pytest.fail("they were read"))
    (tmp_path / "empty").mkdir()
    command = ("train", "--preset", "digits-ddpm", "--outdir", tmp_path / "new", *given)
    told = run_command(*command, "--init-from", tmp_path / "empty")
    assert told.status == 4
    assert "holds no checkpoint that can be trusted" in told.err
    count = len(load_config(tiny_run / "config.json").ema.decays)
    told = run_command(*command, "--init-from", tiny_run, "--init-ema", count)
    assert told.status == 2
    assert re.search(rf"--init-ema {count} does not exist; .* has {count}, counted from 0, and raw", told.err)


@pytest.mark.parametrize("flag", [("--data", "plane:moons"), ("--data=plane:moons",), ("--data.source", "plane:moons")])
def test_images_lead_to_no_points(tiny_run, run_command, tmp_path, flag):
    """And nothing is said of a size that nobody gave."""
    told = run_command("train", "--init-from", tiny_run, *flag, "--outdir", tmp_path / "new")
    assert told.status == 2
    assert "was trained with data of images, and" in told.err
    assert "points" in told.err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--init-from", "nowhere", "--outdir", "new"), "--init-from nowhere is no folder"),
        (("--init-ema", "raw"), "--init-ema raw goes with --init-from"),
        (("--init-ema", "x"), "--init-ema 'x' is neither raw nor the number"),
        (("--init-from", "{run}"), "--init-from starts a new run; say where by --outdir"),
        (("--init-from", "{run}", "--run", "{run}"), "goes on with that run; leave --init-from out"),
    ],
)
def test_flags_that_do_not_go_together(flags, sentence, tiny_run):
    with pytest.raises(UsageError, match=sentence):
        read([flag.format(run=tiny_run) for flag in flags])


def test_trackers_and_measures_by_their_flags():
    arguments = read(["--track", "tensorboard,wandb", "--measure.levels-every", "5", "--measure.frechet-every=7"])
    assert arguments.config.tracking.trackers == ("tensorboard", "wandb")
    assert (arguments.config.measure.levels_every, arguments.config.measure.frechet_every) == (5, 7)
    with pytest.raises(UsageError, match=r"tracking.trackers"):
        read(["--track", "nobody"])
