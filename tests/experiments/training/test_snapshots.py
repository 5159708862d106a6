"""Snapshots: the averages as they were, written whole before the checkpoint, and the same after a kill."""

import errno
import shutil

import jax
import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.training import loop, snapshots
from experiments.training.checkpoint import find_checkpoints
from experiments.training.plan import count_snapshots, dispatches, due
from experiments.training.removal import remove
from experiments.training.snapshots import (
    SnapshotWriter,
    bytes_of,
    bytes_to_come,
    find_snapshots,
    flat_arrays,
    narrowed,
    nested,
    read_arrays,
    read_snapshot,
    snapshots_of,
)
from tests.experiments.training.tiny_run import tiny_config, tiny_data

EMA = {"snapshot_every": 4}


def train(folder, config=None):
    config = config or tiny_config(ema=EMA)
    loop.train(config, folder, data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True)


def numbers(run):
    """The bytes of every average in the snapshots of a run."""
    return {
        (snapshot.step, path.name): path.read_bytes()
        for snapshot in find_snapshots(snapshots_of(run))
        for path in sorted(snapshot.path.glob("*.npz"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with its snapshots, and the averages that its steps had."""
    folder, seen = tmp_path_factory.mktemp("whole"), {}
    with loop.training(tiny_config(ema=EMA), folder, data=tiny_data(), devices=tuple(jax.devices()[:1])) as steps:
        for step in steps:
            seen[step.step] = jax.tree.map(np.asarray, step.ema)
    return folder, seen


def test_a_snapshot_holds_the_averages_of_its_step_in_half_precision(whole):
    folder, seen = whole
    config = tiny_config(ema=EMA)
    found = find_snapshots(snapshots_of(folder))
    assert [snapshot.step for snapshot in found] == [4, 8, 12, 16, 20]
    for snapshot in found:
        for place, (width, path) in enumerate(read_snapshot(snapshot, config).items()):
            assert width == (0.05, 0.10)[place]
            kept, average = dict(read_arrays(path)), flat_arrays(seen[snapshot.step][2 + place])
            assert {array.dtype for array in kept.values()} == {np.dtype("float16")}
            for name, array in average.items():
                np.testing.assert_array_equal(kept[name], array.astype(np.float16))
    size = sum(array.nbytes for path in read_snapshot(found[0], config).values() for _, array in read_arrays(path))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(seen[20][0]))
    assert bytes_of(config, parameters) == size
    assert bytes_to_come(config, parameters) == 5 * size


def test_after_a_kill_at_any_place_the_snapshots_are_the_same(whole, tmp_path):
    """As a kill leaves them: those of later steps than the checkpoint's, one cut off, one half removed."""
    folder, _ = whole
    run = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "00000020")
    directory = snapshots_of(run)
    (directory / "00000020").rename(directory / ".saving-00000020")
    (directory / "00000012").rename(directory / ".deleting-00000012")
    next((directory / "00000016").glob("*.npz")).write_bytes(b"of another machine")
    train(run)
    assert numbers(run) == numbers(folder)
    assert sorted(path.name for path in directory.iterdir()) == [f"{n:08d}" for n in (4, 8, 12, 16, 20)]


def test_a_snapshot_is_there_before_the_checkpoint_of_its_step(tmp_path, monkeypatch):
    """A disk that refuses a snapshot ends the training; the same command goes on, and nothing is lacking then."""
    refused, write = [8], snapshots.write_arrays

    def writing(path, arrays):
        if refused and path.parent.name.endswith(f"{refused[0]:08d}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, arrays)

    monkeypatch.setattr(snapshots, "write_arrays", writing)
    config = tiny_config(ema=EMA, training={"steps": 8, "checkpoint_every": 4, "validate_every": 0})
    with pytest.raises(CheckpointError, match=r"00000008 could not be saved \(No space left on device\)"):
        train(tmp_path, config)
    assert [found.step for found in find_checkpoints(tmp_path / "checkpoints")] == [4]
    assert [path.name for path in snapshots_of(tmp_path).iterdir()] == ["00000004"]
    refused.clear()
    train(tmp_path, config)
    assert [found.step for found in find_snapshots(snapshots_of(tmp_path))] == [4, 8]


def test_a_dispatch_ends_where_a_snapshot_is_due():
    config = tiny_config(ema={"snapshot_every": 6}, training={"steps_per_dispatch": 4, "validate_every": 0})
    ends = [first + length for first, length in dispatches(config, 0)]
    assert {6, 12, 18} <= {*ends}
    assert [step for step in ends if due(config, step, has_held_out=False).snapshot] == [6, 12, 18]
    assert (count_snapshots(config, 0), count_snapshots(config, 6), count_snapshots(tiny_config(), 0)) == (3, 2, 0)


def test_a_damaged_snapshot_and_one_of_another_training_are_known(whole, tmp_path):
    folder, _ = whole
    config = tiny_config(ema=EMA)
    snapshot = find_snapshots(snapshots_of(folder))[0]
    with pytest.raises(CheckpointError, match="is of another training; remove it"):
        read_snapshot(snapshot, tiny_config(ema=EMA, training={"seed": 1}))
    read_snapshot(snapshot, tiny_config(ema={**EMA, "snapshot_precision": "float32"}))
    copied = snapshots.Snapshot(shutil.copytree(snapshot.path, tmp_path / "00000004"), 4)
    data = bytearray((copied.path / "0.1.npz").read_bytes())
    data[-300] ^= 1
    (copied.path / "0.1.npz").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"0\.1\.npz does not match its SHA-256"):
        read_snapshot(copied, config)


def test_numbers_too_large_for_half_precision_stay_as_they_are():
    arrays = {"small": np.float32([1.0, -2.5]), "large": np.float32([1.0, 1e5])}
    kept = narrowed(arrays, np.dtype("float16"))
    assert [kept[name].dtype.name for name in ("small", "large")] == ["float16", "float32"]
    np.testing.assert_array_equal(kept["large"], arrays["large"])


def test_paths_make_the_tree_again():
    tree = {"blocks": {"0": {"kernel": np.ones(2)}, "1": {"kernel": np.zeros(2)}}, "file": np.arange(3)}
    jax.tree.map(np.testing.assert_array_equal, nested(flat_arrays(tree)), tree)


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_a_training_from_the_start_removes_the_snapshots_of_another(tmp_path):
    (tmp_path / "00000004").mkdir()
    (tmp_path / "00000008").mkdir()
    SnapshotWriter(tmp_path, tiny_config(ema=EMA), 4)
    assert [path.name for path in tmp_path.iterdir()] == ["00000004"]
    SnapshotWriter(tmp_path, tiny_config(ema=EMA), 0)
    assert list(tmp_path.iterdir()) == []
