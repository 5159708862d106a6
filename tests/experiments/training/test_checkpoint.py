"""Checkpoints: what comes back is what was saved, or it is refused with the name of the file."""

import resource
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from experiments.errors import CheckpointError, UsageError
from experiments.runs.load import load_model
from experiments.training import checkpoint, manifest
from experiments.training.checkpoint import (
    CheckpointWriter,
    best,
    find_checkpoints,
    load,
    newest_trusted,
    set_aside,
)
from experiments.training.manifest import verify, write_manifest
from experiments.training.model import make_network
from experiments.training.optimizer import make_optimizer
from experiments.training.state import from_tree, initial_state, to_tree
from tests.experiments.training.tiny_run import tiny_config, tiny_data


@pytest.fixture(scope="module")
def state():
    config = tiny_config()
    _, params = make_network(config, tiny_data().facts, jax.random.key(0))
    begin = partial(initial_state, optimizer=make_optimizer(config.optimizer, 20), config=config)
    return jax.jit(begin)(params)


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    save(directory, to_tree(state), {5: None, 10: 0.5})
    return directory


def save(directory, tree, losses, **training):
    writer = CheckpointWriter(directory, tiny_config(training=training), tiny_data().facts)
    for step, loss in losses.items():
        writer.save(step, tree, loss)
    writer.close()


def small(step):
    return {"step": np.asarray(step, np.int32), "ema": {"0": {"w": np.full(3, float(step))}}}


def steps(directory):
    return [found.step for found in find_checkpoints(directory)]


def test_what_was_saved_comes_back_to_the_bit(state, saved):
    tree, digest = load(saved / "00000010")
    assert digest == verify(saved / "00000010")
    jax.tree.map(np.testing.assert_array_equal, from_tree(tree, state), state)
    assert [(c.step, c.held_out_loss) for c in find_checkpoints(saved)] == [(5, None), (10, 0.5)]
    assert find_checkpoints(saved)[1].facts() == tiny_data().facts


def test_a_state_of_another_shape_or_structure_is_refused(state, saved):
    tree, _ = load(saved / "00000010")
    other = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 2), leaf.dtype), state)
    with pytest.raises(CheckpointError, match=r"array step of the checkpoint is int32\[\] and .* needs int32\[2\]"):
        from_tree(tree, other)
    with pytest.raises(CheckpointError, match="lacks array key"):
        from_tree({name: leaf for name, leaf in tree.items() if name != "key"}, state)
    with pytest.raises(CheckpointError, match="has an unknown array more"):
        from_tree({**tree, "more": np.zeros(1)}, state)


def test_a_flipped_bit_in_any_file_is_found(saved, tmp_path):
    path = shutil.copytree(saved / "00000010", tmp_path / "00000010")
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    assert len(files) > 8
    rng = np.random.default_rng(0)
    for file in files:
        good = file.read_bytes()
        # Every bit of the manifest and some of the others; an empty file can only grow.
        spots = range(8 * len(good)) if file.name == "SHA256SUMS" else rng.integers(0, max(1, 8 * len(good)), 3)
        for spot in list(spots)[:: 1 if len(good) < 500 else 7]:
            bad = bytearray(good or b"\0")
            bad[spot // 8] ^= 1 << spot % 8
            file.write_bytes(bad)
            with pytest.raises(CheckpointError, match=str(path)):
                verify(path)
        file.write_bytes(good)
    verify(path)
    (path / "more").write_text("")
    with pytest.raises(CheckpointError, match="more is not in SHA256SUMS"):
        verify(path)
    (path / "more").unlink()
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        verify(path)


def test_manifest_is_what_sha256sum_writes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    write_manifest(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  a\n"


def test_a_damaged_checkpoint_is_passed_over_with_a_word(saved, tmp_path):
    directory = shutil.copytree(saved, tmp_path / "run" / "checkpoints")
    shutil.copytree(directory / "00000010", directory / "00000011")
    (directory / "00000011" / "SHA256SUMS").unlink()
    next((directory / "00000010" / "state").rglob("d/*")).write_bytes(b"?")
    said = []
    found = newest_trusted(directory, said.append)
    assert found is not None
    assert found.step == 5
    assert ["00000011 has no SHA256SUMS" in said[0], "does not match its SHA-256" in said[1]] == [True, True]
    with pytest.raises(CheckpointError, match="does not match its SHA-256"):
        load_model(directory / "00000010")
    assert load_model(directory.parent, warn=said.append).path == directory / "00000005"
    set_aside(directory, 5)
    assert steps(directory) == [5]
    assert (directory / "00000010.untrusted").is_dir()
    (directory / "00000005" / "checkpoint.json").write_text("{}")
    assert newest_trusted(directory, said.append) is None
    with pytest.raises(CheckpointError, match="no checkpoint that can be trusted"):
        load_model(directory.parent, warn=said.append)


@pytest.mark.parametrize("use_best", [False, True])
@pytest.mark.parametrize("when", ["verified", "read"])
def test_a_checkpoint_that_is_pruned_while_it_is_read_gives_way_to_the_next(
    saved, tmp_path, monkeypatch, when, use_best
):
    """As by a training that keeps one checkpoint, which saves and prunes three times under the reader's eyes."""
    directory = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved / "00000010", directory / "00000010")
    reader = manifest._digest if when == "verified" else checkpoint.read
    monkeypatch.setattr(checkpoint, "PATIENCE", 5)
    left, said = [11, 12, 13], []

    def read(path):
        if left:
            step = left.pop(0)
            shutil.copytree(saved / "00000010", directory / f"{step:08d}")
            shutil.rmtree(directory / f"{step - 1:08d}")
        return reader(path)

    monkeypatch.setattr(manifest if when == "verified" else checkpoint, reader.__name__, read)
    model = load_model(directory.parent, use_best=use_best, warn=said.append)
    assert (model.path, said) == (directory / "00000013", [])
    left.extend([14])
    with pytest.raises(CheckpointError, match=r"00000013 has vanished while it was read; a training removes"):
        load_model(directory / "00000013")
    left.extend(range(15, 15 + 1000))
    with pytest.raises(CheckpointError, match="vanish"):
        load_model(directory.parent, use_best=use_best, warn=said.append)
    assert said == []


@pytest.mark.parametrize("damage", [(b"0.", b"9."), (b"{", b"")])
def test_the_best_is_not_chosen_by_a_loss_that_nobody_has_measured(tmp_path, damage):
    """A digit of the loss in a damaged checkpoint.json once made another checkpoint the best one, silently."""
    directory = tmp_path / "checkpoints"
    for step, loss in ((5, 0.25), (10, 0.5), (15, 0.75)):
        save(directory, small(step), {step: loss})
    assert best(directory).step == 5
    path = directory / "00000005" / "checkpoint.json"
    path.write_bytes(path.read_bytes().replace(*damage, 1))
    said = []
    found = best(directory, said.append)
    assert (found.step, len(said)) == (10, 1)
    assert "00000005/checkpoint.json is damaged; --best passes over this checkpoint." in said[0]
    assert [checkpoint.sound for checkpoint in find_checkpoints(directory)] == [False, True, True]


def test_a_list_that_a_training_has_emptied_is_made_anew(saved, monkeypatch):
    lists = iter([[], find_checkpoints(saved), find_checkpoints(saved)])
    monkeypatch.setattr(checkpoint, "find_checkpoints", lambda directory: next(lists))
    assert newest_trusted(saved, lambda line: None) == find_checkpoints(saved)[-1]


def test_the_newest_and_the_best_are_kept_and_can_be_trusted(tmp_path):
    losses = {1: 0.1, 2: 0.9, 3: 0.1, 4: 0.8, 5: None, 6: 0.7, 7: float("inf")}
    for step, loss in losses.items():
        save(tmp_path, small(step), {step: loss}, keep_last=2, keep_best=1)
        # Of equals the newer is the better.
        assert set(steps(tmp_path)) == {max(1, step - 1), step} | {1 if step < 3 else 3}
    for kept in find_checkpoints(tmp_path):
        np.testing.assert_array_equal(load(kept.path)[0]["ema"]["0"]["w"], np.full(3, float(kept.step)))
    assert (found := best(tmp_path)) is not None
    assert found.step == 3


def test_a_save_that_was_cut_off_leaves_no_trace(tmp_path):
    save(tmp_path, small(1), {1: None})
    (tmp_path / ".saving-00000002" / "state").mkdir(parents=True)
    (tmp_path / ".deleting-00000000").mkdir()
    assert steps(tmp_path) == [1]
    save(tmp_path, small(2), {2: None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]


def test_a_checkpoint_is_not_removed_while_it_is_read(tmp_path):
    save(tmp_path, small(1), {1: None}, keep_last=1)
    with manifest.held(tmp_path / "00000001") as one, manifest.held(tmp_path / "00000001") as two:
        assert (one, two) == (True, True)
        save(tmp_path, small(2), {2: None}, keep_last=1)
        assert steps(tmp_path) == [1, 2]
    save(tmp_path, small(3), {3: None}, keep_last=1)
    assert steps(tmp_path) == [3]
    with manifest.held(tmp_path / "00000003", alone=True), manifest.held(tmp_path / "00000003") as held:
        assert not held


def test_a_full_disk_fails_with_a_word_and_leaves_the_last_checkpoint(tmp_path, capfd):
    save(tmp_path, small(1), {1: None})
    writer = CheckpointWriter(tmp_path, tiny_config(), tiny_data().facts)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        writer.save(2, {"noise": np.random.default_rng(0).standard_normal(100_000)})
        with pytest.raises(CheckpointError, match=r"00000002 could not be saved \(File too large\)"):
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    assert capfd.readouterr().err == ""
    verify(tmp_path / "00000001")


def test_model_of_a_checkpoint_is_its_average_and_says_where_it_is_from(state, saved):
    model = load_model(saved.parent)
    assert (model.step, model.path, model.config) == (0, saved / "00000010", tiny_config())
    assert model.digest == verify(model.path)
    jax.tree.map(np.testing.assert_array_equal, model.params, state.ema[0])
    x, c_noise, labels = np.ones((2, 8, 8, 1), np.float32), np.zeros(2, np.float32), np.array([0, 4], np.int32)
    assert jax.jit(model.network)(model.params, x, c_noise, labels).shape == x.shape
    with pytest.raises(UsageError, match=r"--ema 2 does not exist; .* has 2 average\(s\), counted from 0"):
        load_model(saved.parent, 2)
