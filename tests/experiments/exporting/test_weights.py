"""Weights alone: what is written is imported as a run that is the first one, bit for bit."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

import scorefield
from experiments.config.nodes import EMAConfig
from experiments.data.registry import NO_DATA
from experiments.errors import CheckpointError, UsageError
from experiments.exporting.weights import export_weights
from experiments.importing.plan import Options, plan_import
from experiments.importing.safetensors import open_safetensors
from experiments.importing.safetensors_writer import write_safetensors
from experiments.importing.scorefield import KEY
from experiments.runs.load import load_model
from tests.experiments.runs.test_kept_runs import KEPT, RUNS


def test_a_run_that_was_exported_and_imported_samples_bit_for_bit(conditional_run, tmp_path, run_command):
    path = tmp_path / "w.safetensors"
    done = run_command("export", "--run", conditional_run, "--weights", path, "--ema", "raw", "--json")
    assert (done.status, done.value["of"]) == (0, "raw"), done.err
    done = run_command("import", f"scorefield:{path}", "--out", tmp_path / "again", "--json")
    assert done.status == 0, done.err
    assert done.value["notes"] == ["raw of a checkpoint of step 12"]
    made = []
    for place in ((conditional_run, "--ema", "raw"), (tmp_path / "again",)):
        out = tmp_path / f"out{len(made)}"
        flags = ("--seeds", "0-4", "--steps", "3", "--format", "npz", "--outdir", out, "--json")
        done = run_command("sample", "--run", *place, *flags)
        assert done.status == 0, done.err
        with np.load(out / "samples.npz") as file:
            made.append(file["images"])
    np.testing.assert_array_equal(*made)
    assert done.value["imported"]["scheme"] == "scorefield"


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_comes_back(name, tmp_path):
    """Its network, process, sampling and classes; the parameters to the bit; without its data, but those of points."""
    model = load_model(KEPT / name)
    said = export_weights(tmp_path / "w.safetensors", model)
    plan = plan_import(f"scorefield:{tmp_path / 'w.safetensors'}", Options())
    again = plan.read()
    assert jax.tree.structure(again) == jax.tree.structure(model.params)
    jax.tree.map(np.testing.assert_array_equal, again, model.params)
    assert said["parameters"] == plan.parameters == sum(map(np.size, jax.tree.leaves(model.params)))
    source = model.config.data.source
    assert plan.config.data.source == (source if source.startswith("plane:") else NO_DATA)
    same = {"data": model.config.data, "ema": model.config.ema}
    assert dataclasses.replace(plan.config, **same) == model.config
    assert plan.config.ema == EMAConfig()
    assert (plan.facts, plan.facts.class_counts) == (model.facts, model.facts.class_counts)
    assert plan.facts.place is None


def test_the_average_that_is_asked_for_is_written(tmp_path):
    for average in (0, 1, None):
        run = scorefield.load(KEPT / "conditional", average=average)
        path = tmp_path / f"{average}.safetensors"
        scorefield.export_weights(run, path)
        file = open_safetensors(path)
        said = json.loads(file.metadata[KEY])
        assert said["parameters"] == run.model.parameters
        assert "place" not in said["facts"]
        for name in file.entries:
            value = run.model.params
            for key in name.split("."):
                value = value[key]
            np.testing.assert_array_equal(file.read(name), value)


def test_the_package_reads_them(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="the package safetensors is missing")
    model = load_model(KEPT / "chain")
    export_weights(tmp_path / "w.safetensors", model)
    arrays = numpy.load_file(tmp_path / "w.safetensors")
    assert sum(map(np.size, arrays.values())) == sum(map(np.size, jax.tree.leaves(model.params)))


def rewritten(path, target, arrays=(), metadata=None):
    """A copy with other arrays, where None leaves one out, and other metadata."""
    file = open_safetensors(path)
    held = {name: file.read(name) for name in file.entries} | dict(arrays)
    with target.open("wb") as out:
        write_safetensors(
            out,
            {name: array for name, array in held.items() if array is not None},
            dict(file.metadata) if metadata is None else metadata,
        )
    return target


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    export_weights(path, load_model(KEPT / "chain"))
    return path


def first(path):
    return next(name for name, entry in open_safetensors(path).entries.items() if len(entry.shape) == 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: {"arrays": {first(path): None}}, "the network of its configuration needs it"),
        (lambda path: {"arrays": {"other": np.ones(3, np.float32)}}, "has other, which the network"),
        (lambda path: {"arrays": {first(path): np.ones((1, 1), np.float32)}}, "has shape [1, 1], and the network"),
        (lambda path: {"metadata": {}}, "has no `scorefield` in its metadata"),
        (lambda path: {"metadata": {KEY: "{"}}, "is not valid JSON"),
        (lambda path: {"metadata": {KEY: '{"version": 7}'}}, "is of version 7, and 1 is known here"),
        (lambda path: {"metadata": {KEY: '{"version": 1, "config": 3}'}}, "holds a int, not a run's configuration"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused(weights, change, sentence, tmp_path):
    path = rewritten(weights, tmp_path / "other.safetensors", **change(weights))
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        plan_import(str(path), Options())


def test_facts_that_are_missing_are_refused(weights, tmp_path):
    said = json.loads(open_safetensors(weights).metadata[KEY])
    del said["facts"]["event_shape"]
    path = rewritten(weights, tmp_path / "other.safetensors", metadata={KEY: json.dumps(said)})
    with pytest.raises(CheckpointError, match="its scorefield describes no network"):
        plan_import(str(path), Options())


def test_nothing_is_overwritten_and_the_name_says_what_it_is(weights):
    model = load_model(KEPT / "chain")
    with pytest.raises(UsageError, match="is there already; give another --weights"):
        export_weights(weights, model)
    with pytest.raises(UsageError, match=r"write w\.safetensors"):
        export_weights(weights.with_suffix(".zip"), model)
