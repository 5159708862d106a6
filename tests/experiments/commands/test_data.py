"""`scorefield data`: the group, its flags and its exit statuses."""

import gzip
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments.cli import main
from experiments.data import open_source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for i in range(8):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(256, size=(12, 10 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


def test_the_group_says_what_there_is(capsys):
    assert main(["data", "--help"]) == 0
    assert main(["data"]) == 2
    out = capsys.readouterr().out
    assert "prepare" in out
    assert "check" in out
    assert main(["data", "prepair"]) == 2
    assert "is not a command of scorefield data (did you mean 'prepare'?)" in capsys.readouterr().err


def test_what_is_prepared_is_what_a_training_would_read(photos, tmp_path, capsys):
    out = tmp_path / "out.records"
    command = ["data", "prepare", f"folder:{photos}", "--size", "6", "--crop", "none", "--out", str(out), "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["shape"], said["classes"]) == (8, [6, 6, 3], ["a", "b"])
    ours, theirs = open_source(f"records:{out}"), open_source(f"folder:{photos}", size=6, crop="none")
    np.testing.assert_array_equal(ours.images[:], theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert main(command) == 2
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err


def test_flags_may_be_written_as_those_of_a_training(photos, tmp_path):
    plain, prefixed = tmp_path / "plain", tmp_path / "prefixed"
    assert main(["data", "prepare", f"folder:{photos}", "--size", "6", "--channels=1", "--out", str(plain)]) == 0
    flags = ["--data.size", "6", "--data.channels=1", "--out", str(prefixed)]
    assert main(["data", "prepare", f"folder:{photos}", *flags]) == 0
    assert plain.read_bytes() == prefixed.read_bytes()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "no data set is named"),
        (["digits"], "--out is missing"),
        (["digits", "--out", "x", "--flip"], "--flip is no option of scorefield data prepare"),
        (["digits", "--out", "x", "--seed", "3"], "--seed is no option of scorefield data prepare"),
        (["digits", "--out", "x", "--size", "0"], "--size is 0; give a number of pixels above 0"),
        (["digits", "--out", "x", "--siz", "8"], "did you mean --size?"),
    ],
)
def test_bad_flags_are_one_line(flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "prepare", *flags]) == 2
    assert said in capsys.readouterr().err


def test_check_answers_by_its_status_and_in_json(photos, capsys):
    assert main(["data", "check", f"folder:{photos}", "--size", "6"]) == 0
    out = capsys.readouterr().out
    assert "8 images of 6×6×3" in out
    assert "2 classes: a 4, b 4" in out
    assert "A training would take these data." in out
    (photos / "a" / "bad.png").write_bytes(b"1")
    (photos / "b" / "bad.png").write_bytes(b"2")
    assert main(["data", "check", f"folder:{photos}", "--size", "6", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], len(said["refused"]), said["classes"]) == (False, 2, {"a": 4, "b": 4})
    assert said["passed_over"] == []
    assert main(["data", "check", f"folder:{photos}", "--size", "6"]) == 3
    assert "with --data.on-bad skip it would leave out what is refused." in capsys.readouterr().out
    assert main(["data", "check", f"folder:{photos}", "--size", "6", "--on-bad", "skip"]) == 0
    assert capsys.readouterr().out.count("left out: ") == 2


@pytest.mark.parametrize("kind", ["npz", "idx"])
def test_what_cannot_be_read_in_place_can_be_prepared(kind, tmp_path, capsys, monkeypatch):
    pixels = np.random.default_rng(0).integers(256, size=(9, 6, 5), dtype=np.uint8)
    if kind == "npz":
        path = tmp_path / "a.npz"
        np.savez_compressed(path, images=pixels, labels=np.arange(9) % 2)
    else:
        path = tmp_path / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()))
    uri = f"npz:{path}" if kind == "npz" else f"idx:{tmp_path}"
    out, again, folder = tmp_path / "a.records", tmp_path / "b.records", tmp_path / "cache"
    assert main(["data", "prepare", uri, "--out", str(out)]) == 0
    np.testing.assert_array_equal(open_source(f"records:{out}").images[:], pixels[..., None])
    index = set(folder.rglob("*"))
    assert main(["data", "prepare", uri, "--out", str(again), "--memory-gib", "1e-7"]) == 0  # unpacked on the disk
    assert again.read_bytes() == out.read_bytes()
    left = {entry.name for entry in tmp_path.iterdir()} - {folder.name}
    assert left == {path.name, out.name, again.name}
    assert set(folder.rglob("*")) == index  # of what has no name nothing is kept
    content, third = path.read_bytes(), tmp_path / "c.records"
    for damaged in (content[: len(content) // 2], content[:120] + bytes(30) + content[150:]):
        path.write_bytes(damaged)
        capsys.readouterr()
        assert main(["data", "prepare", uri, "--out", str(third), "--memory-gib", "1e-7"]) == 3
        assert str(path) in capsys.readouterr().err
    path.write_bytes(content)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=200))
    assert main(["data", "prepare", uri, "--out", str(third), "--memory-gib", "1e-7"]) == 2
    assert (
        f"has 200 bytes free, and {398 if kind == 'npz' else 286} bytes are needed to unpack" in capsys.readouterr().err
    )
    assert not list(tmp_path.glob(f"*{third.name}*"))


def test_images_that_are_nearly_black_are_named_before_they_are_written(tmp_path, capsys):
    np.savez(tmp_path / "masks.npz", images=np.eye(8, dtype=np.uint8)[None].repeat(20, 0))
    assert main(["data", "prepare", f"npz:{tmp_path / 'masks.npz'}", "--out", str(tmp_path / "out")]) == 0
    assert "is 1 of 255, so that the images are nearly black; scale them" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["digits", "plane:moons"])
def test_what_is_always_in_memory_is_not_lazy(uri, capsys):
    assert main(["data", "check", uri, "--loading", "lazy"]) == 2
    assert "is always in memory; leave it out" in capsys.readouterr().err


def test_a_damaged_record_is_refused_wherever_it_lies(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(256, size=(600, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels)
    out = tmp_path / "a.records"
    assert main(["data", "prepare", f"npz:{tmp_path / 'a.npz'}", "--out", str(out)]) == 0
    content = out.read_bytes()
    for i in (300, 301, 302):
        start = content.index(pixels[i].tobytes())
        out.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
        capsys.readouterr()
        assert main(["data", "check", f"records:{out}", "--json"]) == 3
        assert "is damaged" in json.loads(capsys.readouterr().out)["refused"][0]
