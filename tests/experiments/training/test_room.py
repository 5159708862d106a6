"""A disk that is full: asked before, said at once, and without the words of others."""

import asyncio
import errno
import logging
import os
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.training import checkpoint, quiet, room
from experiments.training.checkpoint import CheckpointWriter, find_checkpoints, load
from experiments.training.loop import train
from experiments.training.plan import count_saves, dispatches, due
from tests.experiments.training.tiny_run import tiny_config, tiny_data

ONE = tuple(jax.devices()[:1])
pytestmark = pytest.mark.usefixtures("shared_programs")


def with_free(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_room_is_asked_for_what_will_be_there_at_once(tmp_path, monkeypatch):
    writer = CheckpointWriter(tmp_path, tiny_config(training={"keep_last": 3}), tiny_data().facts)
    with_free(monkeypatch, 3_600_000)
    writer.require_room(1_000_000, 3)
    writer.require_room(3_000_000, 1)
    with pytest.raises(CheckpointError, match=r"has 3\.6 MB free, and this run needs 4\.7 MB for 4 more"):
        writer.require_room(1_000_000, 9)
    for step in (1, 2, 3):
        (tmp_path / f"{step:08d}").mkdir()
    writer.require_room(1_000_000, 9)  # one takes the place of another
    writer.require_room(10**12, 0)
    with pytest.raises(CheckpointError, match=r"could not be saved .*3\.6 MB free, 4\.8 MB needed.*make room"):
        writer.save(4, {"w": np.zeros(600_000)})
    writer.close()
    assert sorted(os.listdir(tmp_path)) == ["00000001", "00000002", "00000003"]


def test_a_disk_that_does_not_tell_is_asked_for_nothing(tmp_path):
    room.require_room(tmp_path / "nowhere", 10**18, 3)
    assert room.lacking(tmp_path / "nowhere", 10**18) is None


@pytest.mark.parametrize("start", [0, 3, 7, 10, 19, 20, 25])
def test_saves_are_counted_as_they_are_made(start):
    for every in (3, 10, 50):
        config = tiny_config(training={"checkpoint_every": every})
        ends = [first + length for first, length in dispatches(config, start)]
        assert count_saves(config, start) == sum(due(config, step, has_held_out=False).save for step in ends)


def test_a_training_that_has_no_room_is_refused_before_its_first_step(tmp_path, monkeypatch):
    with_free(monkeypatch, 1000)
    with pytest.raises(CheckpointError, match=r"has 1\.0 kB free, and this run needs .* for 2 more checkpoints"):
        train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert find_checkpoints(tmp_path / "checkpoints") == []


def failing(monkeypatch, times):
    """Let so many saves fail in the background, and wait for each before the next step."""
    write, left = checkpoint.write_manifest, [None] * times

    def attempt(folder):
        if left:
            left.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder)

    save = CheckpointWriter.save

    def at_once(self, *arguments):
        save(self, *arguments)
        self.settle()

    monkeypatch.setattr(checkpoint, "write_manifest", attempt)
    monkeypatch.setattr(CheckpointWriter, "save", at_once)


def test_a_save_that_fails_once_is_made_up_for_at_the_next_step(straight, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 1)
    result = train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert result.step == 20
    assert [found.step for found in find_checkpoints(tmp_path / "checkpoints")] == [11, 20]
    first, second = capsys.readouterr().err.splitlines()
    assert "00000010 could not be saved (No space left on device); the earlier ones are untouched" in first
    assert first.endswith("Step 11 is tried instead.")
    assert second == "scorefield: step 11 was saved instead, and the training goes on."
    same = load(tmp_path / "checkpoints" / "00000020")[0], load(straight / "checkpoints" / "00000020")[0]
    jax.tree.map(np.testing.assert_array_equal, *same)


def test_a_save_that_fails_twice_ends_the_training(tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 2)
    with pytest.raises(CheckpointError, match=r"00000011 could not be saved \(No space left on device\)"):
        train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert os.listdir(tmp_path / "checkpoints") == []
    assert capsys.readouterr().err.count("\n") == 1


def test_the_last_save_is_tried_again_too(tmp_path, monkeypatch):
    failing(monkeypatch, 1)
    train(tiny_config(training={"checkpoint_every": 50}), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert [found.step for found in find_checkpoints(tmp_path / "checkpoints")] == [20]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("RESOURCE_EXHAUSTED: in \"a\": [os_error_code='28']\nmore"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (KeyError("w"), "KeyError: 'w'"),
        (RuntimeError(), "RuntimeError: "),
    ],
)
def test_of_an_error_a_person_is_told_what_the_system_said(error, words):
    assert room.why(error) == words


def test_sizes_are_for_a_person():
    assert [room.shown(size) for size in (12, 999, 1500, 123_456, 5e9, 7e15)] == [
        *("12 bytes", "999 bytes", "1.5 kB", "123 kB", "5.0 GB", "7000 TB")
    ]


def test_only_what_belongs_to_checkpoints_is_silenced():
    def record(name, message, path="a.py"):
        return logging.LogRecord(name, logging.ERROR, path, 1, message, (), None)

    quiet.silence()
    absl, loops = logging.getLogger("absl"), logging.getLogger("asyncio")
    assert not absl.filter(record("absl", "failed", "/site-packages/orbax/checkpoint/future.py"))
    assert absl.filter(record("absl", "failed", "/site-packages/other/future.py"))
    assert not loops.filter(record("asyncio", "Task exception was never retrieved: tensorstore_spec"))
    assert loops.filter(record("asyncio", "Task exception was never retrieved: mine"))
    for error, passes in (("DATA_LOSS: Error reading shard entry", False), ("mine: DATA_LOSS", True)):
        raised = record("asyncio", "Task exception was never retrieved")
        raised.exc_info = (ValueError, ValueError(error), None)
        assert bool(loops.filter(raised)) == passes


def test_a_loop_that_orbax_has_closed_is_not_reported(monkeypatch):
    told = []
    loop = asyncio.new_event_loop()
    loop.close()
    for act in (lambda: loop.call_soon_threadsafe(print), lambda: 1 / 0):
        try:
            act()
        except (RuntimeError, ZeroDivisionError):
            kind, value, trace = sys.exc_info()
            quiet._hook(told.append, SimpleNamespace(exc_type=kind, exc_value=value, exc_traceback=trace))
    assert [type(one.exc_value) for one in told] == [ZeroDivisionError]
