"""What trackers are told, once each, and that none of them can stop a training."""

import importlib.util
import json
import sys
import types

import jax
import numpy as np
import pytest

from experiments.config.told import TrackingConfig
from experiments.errors import UsageError
from experiments.interface.steps import training
from experiments.tracking.hosted import Hosted
from experiments.tracking.tracker import Trackers
from tests.experiments.training.tiny_run import tiny_config, tiny_data

pytestmark = pytest.mark.usefixtures("shared_programs")


class Told:
    """A tracker that notes what it is told, and fails where it is asked to."""

    def __init__(self, fails=""):
        self.calls, self.fails = [], fails

    def _note(self, *call):
        if call[0] == self.fails:
            raise ConnectionError("the network is gone")
        self.calls.append(call)

    def log_config(self, config):
        self._note("log_config", config)

    def log(self, step, values):
        self._note("log", step, dict(values))

    def log_images(self, step, pictures):
        self._note("log_images", step, dict(pictures))

    def finish(self):
        self._note("finish")


class Rewinding(Told):
    """One that drops later steps by itself, and so is told of them again."""

    rewinds = True


def steps(folder, *trackers, **training_fields):
    config = tiny_config(training={"validate_every": 0, **training_fields})
    return training(config, folder, data=tiny_data(), devices=tuple(jax.devices()[:1]), trackers=trackers)


def logged(tracker):
    return [call[1] for call in tracker.calls if call[0] == "log"]


def test_a_tracker_of_ones_own_is_told_what_the_file_is_told(tmp_path):
    tracker, picture = Told(), np.zeros((4, 5, 3), np.uint8)
    with steps(tmp_path, tracker) as course:
        for step in course:
            if step.step == 7:
                step.log({"accuracy": np.float32(0.5), "seen": 3})
                step.log_images({"look": picture})
    names = [call[0] for call in tracker.calls]
    assert (names[0], names[-1]) == ("log_config", "finish")
    assert tracker.calls[0][1]["config"]["training"]["steps"] == 20
    json.dumps(tracker.calls[0][1])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for name, step, *(values,) in tracker.calls[1:-1] if name == "log"] == lines
    assert {"step": 7, "accuracy": 0.5, "seen": 3} in lines
    assert ("log_images", 7) in [call[:2] for call in tracker.calls]


def test_a_run_that_goes_on_tells_of_no_step_twice(tmp_path):
    """It was broken off after the line of step 15, and goes on from the checkpoint of step 10."""
    before, after, rewinding, data = Told(), Told(), Rewinding(), tiny_data(fails_at=17, error=RuntimeError)
    config = tiny_config(training={"validate_every": 0})
    devices = tuple(jax.devices()[:1])
    with pytest.raises(Exception, match="an image is gone"):
        list(training(config, tmp_path, data=data, devices=devices, trackers=[before]))
    with steps(tmp_path, after, rewinding) as course:
        assert [step.step for step in course] == list(range(11, 21))
    assert (logged(before), logged(after), logged(rewinding)) == ([5, 10, 15], [20], [15, 20])
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [5, 10, 15, 20]


@pytest.mark.parametrize("fails", ["log_config", "log", "log_images", "finish"])
def test_one_that_fails_is_left_out_with_one_line(fails, capsys):
    trackers, failing, other = Trackers(0, 0), Told(fails), Told()
    for tracker in (failing, other):
        trackers.begin("mine", lambda tracker=tracker: tracker, {})
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0})
        trackers.log_images(step, {})
    trackers.finish()
    line = "scorefield: mine takes nothing more (the network is gone); the training goes on without it.\n"
    assert capsys.readouterr().err == line
    assert [call[0] for call in other.calls] == ["log_config", *["log", "log_images"] * 2, "finish"]


def test_what_is_no_tracker_or_no_number_is_refused(tmp_path):
    with pytest.raises(UsageError, match="which has no method log_config; see"):
        steps(tmp_path, object())
    with steps(tmp_path, Told()) as course:
        step = next(course)
        for values in (3, {"step": 1}, {"a": "b"}, {"a": np.zeros(2)}):
            with pytest.raises(UsageError, match="a measure gives"):
                step.log(values)
        with pytest.raises(UsageError, match="look is float64"):
            step.log_images({"look": np.zeros((2, 2, 3))})


def hosted(monkeypatch, name, key="key"):
    """A module of that name that notes its calls, and prints where it should not."""
    calls = []

    def note(called):
        def call(*arguments, **options):
            print("noise")
            calls.append((called, arguments, options))

        return call

    parts = {part: note(part) for part in ("init", "log", "finish")}
    module = types.SimpleNamespace(
        **parts,
        login=lambda prompt: key is not None,
        Settings=dict,
        Image=lambda picture: ("image", picture.shape),
    )
    monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_both_are_told_by_one_adapter(name, monkeypatch, tmp_path, capsys):
    calls = hosted(monkeypatch, name)
    names = []
    for goes_on in (False, True, False):
        calls.clear()
        tracker = Hosted(name, tmp_path, "mine", goes_on)
        tracker.log_config({"a": {"b": 1}})
        tracker.log(3, {"loss": 0.5})
        tracker.log_images(3, {"samples": np.zeros((2, 4, 1), np.uint8)})
        tracker.finish()
        (_, _, options), *rest = calls
        assert (options["project"], options["config"], options["resume"]) == ("mine", {"a": {"b": 1}}, "allow")
        names.append(options["id" if name == "wandb" else "name"])
        assert rest == [
            ("log", ({"loss": 0.5},), {"step": 3}),
            ("log", ({"samples": ("image", (2, 4, 3))},), {"step": 3}),
            ("finish", (), {}),
        ]
    assert names[0] == names[1] != names[2]  # the same run there for one that goes on, a new one for a new one
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"[1]", b"\xff", b"[" * 100_000], ids=["a list", "no text", "a nest without end"])
def test_a_damaged_note_of_the_run_there_begins_a_new_one(monkeypatch, tmp_path, content):
    calls = hosted(monkeypatch, "wandb")
    (tmp_path / "trackers.json").write_bytes(content)
    Hosted("wandb", tmp_path, "mine", True).log_config({})
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": calls[0][2]["id"]}


def test_wandb_without_a_key_is_not_asked_for_one(monkeypatch, tmp_path, capsys):
    calls = hosted(monkeypatch, "wandb", key=None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    trackers = Trackers(0, 0)
    trackers.begin("wandb", lambda: Hosted("wandb", tmp_path, "mine", False), {})
    assert not calls
    assert "wandb takes nothing more (no API key; log in by `wandb login`" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers.begin("wandb", lambda: Hosted("wandb", tmp_path, "mine", False), {})
    assert calls[0][0] == "init"


def test_a_package_that_is_missing_is_named_before_the_first_step(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trackio", None)
    config = tiny_config(tracking=TrackingConfig(trackers=("trackio",)))
    with pytest.raises(UsageError, match=r"--track trackio needs trackio; install scorefield\[trackio\]"):
        next(training(config, tmp_path, data=tiny_data(), devices=tuple(jax.devices()[:1])))


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_keeps_what_it_is_told(monkeypatch, tmp_path):
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for goes_on, step in ((False, 1), (True, 2)):
        tracker = Hosted("trackio", tmp_path, "mine", goes_on)
        tracker.log_config({"a": 1})
        tracker.log(step, {"loss": 0.5})
        tracker.finish()
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(metrics)) for _, step, metrics in rows] == [(1, {"loss": 0.5}), (2, {"loss": 0.5})]
    assert len({name for name, _, _ in rows}) == 1


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_keeps_files_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    hook = sys.excepthook
    tracker = Hosted("wandb", tmp_path, "mine", False)
    tracker.log_config({"a": 1})
    tracker.log(1, {"loss": 0.5})
    tracker.log_images(1, {"samples": np.zeros((2, 4, 1), np.uint8)})
    tracker.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert sys.excepthook is hook
