"""`scorefield import`: what it writes is a run like any other, and it writes it whole or not at all."""

import dataclasses
import hashlib
import json
import resource

import jax
import numpy as np
import pytest

from experiments.config.file import save_config
from experiments.runs.load import load_model
from experiments.training.checkpoint import CheckpointWriter, read
from experiments.training.warm_start import KEY, InitFrom, Origin, begin, read_source
from tests.experiments.importing.conftest import TINY, published  # noqa: F401


@pytest.fixture
def imported(published, tmp_path, run_command):  # noqa: F811
    """(The file, the run that was made of it, what the command printed)."""
    path, run = published({**TINY, "label_dim": 3, "label_dropout": 0.1}), tmp_path / "runs" / "tiny"
    done = run_command("import", f"edm:{path}", "--out", str(run), "--json")
    assert done.status == 0, done.err
    return path, run, done.value


def test_a_run_is_written_with_the_digest_of_its_file(imported):
    path, run, said = imported
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["sha256"] == {path.name: digest}
    assert (said["run"], said["classes"], said["network"]["type"]) == (str(run), 3, "SongUNetConfig")
    model = load_model(run)
    assert model.imported is not None
    assert model.imported.sha256 == {path.name: digest}
    assert model.imported.source == str(path)
    assert (model.step, model.event_shape, model.num_classes) == (0, (8, 8, 3), 3)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.json"]
    assert [path.name for path in run.parent.iterdir()] == ["tiny"]
    raw = load_model(run, None)
    assert sum(np.size(leaf) for leaf in _leaves(raw.params)) == said["parameters"]


def test_its_parameters_are_kept_once_and_read_as_raw_and_as_average(imported):
    _, run, said = imported
    path = run / "checkpoints" / "00000000"
    assert sum(np.size(leaf) for leaf in _leaves(read(path))) == said["parameters"] + 1  # and the step
    average, raw = read_source(InitFrom(run)).params, read_source(InitFrom(run, None)).params
    jax.tree.map(np.testing.assert_array_equal, average, raw)


def test_it_is_no_training_to_go_on_with(imported, run_command):
    _, run, _ = imported
    done = run_command("train", "--outdir", run, "--data", "digits")
    assert done.status == 2
    assert f"{run} was imported, and holds no training to go on with; begin one with --init-from {run}" in done.err


def test_a_training_that_begins_from_it_keeps_the_digest_and_so_does_the_next(imported, tmp_path):
    _, run, said = imported
    source, record = read_source(InitFrom(run)), load_model(run).imported
    params, origin = begin(source, source.config, source.facts, source.params)
    assert origin.imported == record
    assert origin.summary()["imported"]["sha256"] == said["sha256"]
    assert Origin.from_json(json.loads(json.dumps(origin.to_json()))) == origin
    own = dataclasses.replace(origin, imported=None)
    assert "imported" not in own.to_json()  # as it was written before there were imports
    assert Origin.from_json(own.to_json()) == own
    writer = CheckpointWriter(tmp_path / "tune" / "checkpoints", source.config, source.facts, {KEY: origin.to_json()})
    writer.save(3, {"step": np.asarray(3, np.int32), "params": params, "ema": {"0": params}})
    writer.close()
    save_config(source.config, tmp_path / "tune" / "config.json")
    model = load_model(tmp_path / "tune")
    assert (model.imported, model.origin) == (None, origin)
    assert read_source(InitFrom(tmp_path / "tune")).imported == record


def _leaves(tree):
    return [leaf for branch in tree.values() for leaf in _leaves(branch)] if isinstance(tree, dict) else [tree]


def test_it_is_sampled_and_begun_from_and_has_no_data(imported, tmp_path, run_command):
    path, run, _ = imported
    out = tmp_path / "samples"
    done = run_command("sample", "--run", str(run), "--seeds", "0-1", "--steps", "2", "--outdir", str(out), "--json")
    assert done.status == 0, done.err
    assert done.value["imported"]["sha256"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert "nobody has counted" not in done.err
    source = read_source(InitFrom(run))
    assert source.config.label_dropout == 0.1
    np.testing.assert_array_equal(
        source.params["enc"]["8x8_conv"]["kernel"], load_model(run).params["enc"]["8x8_conv"]["kernel"]
    )
    for command in (
        ("evaluate", "--run", str(run)),
        ("train", "--outdir", str(tmp_path / "t"), "--init-from", str(run)),
    ):
        done = run_command(*command)
        assert done.status == 3
        assert "this run was imported, and no data came with it; give theirs by --data URI" in done.err


def test_a_dry_run_checks_and_writes_nothing(published, tmp_path, run_command):  # noqa: F811
    path = published(TINY)
    done = run_command("import", f"edm:{path}", "--out", str(tmp_path / "run"), "--dry-run")
    assert (done.status, (tmp_path / "run").exists()) == (0, False)
    assert "SongUNet for 8×8×3" in done.out
    assert "nothing written" in done.out


def test_what_is_there_is_not_overwritten(published, tmp_path, run_command):  # noqa: F811
    path = published(TINY)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    done = run_command("import", f"edm:{path}", "--out", str(tmp_path / "run"))
    assert done.status == 2
    assert "is there already; give another --out" in done.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_file_that_is_refused_leaves_nothing_behind(published, tmp_path, run_command):  # noqa: F811
    name, before = "model.dec.8x8_aux_conv.bias", None
    path = published(TINY, {name: np.asarray([1, np.nan, 0], "f4")})
    before = sorted(tmp_path.iterdir())
    done = run_command("import", f"edm:{path}", "--out", str(tmp_path / "run"))
    assert done.status == 4
    assert f"{name} holds numbers that are not finite" in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_is_full_is_said_in_a_line_and_nothing_is_left(published, tmp_path, run_command):  # noqa: F811
    path, limits = published(TINY), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        done = run_command("import", f"edm:{path}", "--out", str(tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'run'} cannot be written (File too large); nothing was: make room, or give" in done.err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "what to import is missing; give for example diffusers:DIR or edm:FILE.safetensors"),
        (["edm:x.safetensors"], "--out is missing; give the folder of the run to write"),
        (["edm:x.safetensors", "--out", "r", "--df", "0"], "--df is 0; give a positive number"),
        (["edm:nowhere/x.safetensors", "--dry-run"], "nowhere/x.safetensors cannot be read"),
    ],
)
def test_a_command_that_says_too_little_is_told_what_is_missing(arguments, sentence, run_command):
    done = run_command("import", *arguments)
    assert done.status in (2, 4)
    assert sentence in done.err


def test_a_record_of_files_comes_back_from_json(imported):
    _, run, _ = imported
    said = json.loads((run / "checkpoints" / "00000000" / "checkpoint.json").read_text())["imported"]
    assert load_model(run).imported.to_json() == said
