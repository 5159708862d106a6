"""Files that anything may have happened to: they are read, or refused in one line, and never anything else.

Every mutation is drawn by a seed; a failure names it.
"""

import io
import json
import os
import random
import shutil
import struct
import zipfile
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from benchmarks.reliability.mutators import changed, values
from experiments.config.file import load_config
from experiments.data import open_source
from experiments.errors import LIMIT, CheckpointError, DataError, ScorefieldError, UsageError
from experiments.pictures.files import read_provenance, save_png
from experiments.runs import fitted_grids
from experiments.runs.load import load_model
from experiments.training import checkpoint
from experiments.training.manifest import write_manifest
from samplers.ddim import DDIM


def refused_or_read(read, what):
    """Whether `read()` was refused, which it may be in one line only."""
    try:
        read()
    except (CheckpointError, DataError, UsageError) as error:
        sentence = str(error)
        assert sentence.isprintable(), what
        assert len(sentence) <= LIMIT, what
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    return False


def text_of(value, rng):
    """JSON, at times as bytes that something has happened to."""
    text = json.dumps(value).encode()
    return changed(text, rng) if rng.random() < 0.3 else text


def test_a_configuration(tiny_run, tmp_path):
    good, path = json.loads((tiny_run / "config.json").read_text()), tmp_path / "config.json"
    refused = 0
    for seed in range(120):
        rng = random.Random(seed)
        path.write_bytes(text_of(values(good, rng), rng))
        refused += refused_or_read(lambda: load_config(path), f"seed {seed}")
    assert refused > 70
    path.write_text("[" * 5000 + "]" * 5000)
    assert refused_or_read(lambda: load_config(path), "nested")
    path.write_text("[" * 500 + "]" * 500)
    assert refused_or_read(lambda: load_config(path), "nested")


@pytest.mark.parametrize("name", ["checkpoint.json", "config.json"])
def test_a_file_of_a_checkpoint_whose_digests_were_made_anew(tiny_run, tmp_path, name, monkeypatch):
    monkeypatch.setattr("experiments.training.manifest.sync", lambda path: None)  # which takes most of the time
    place = shutil.copytree(tiny_run / "checkpoints" / "00000012", tmp_path / "run" / "checkpoints" / "00000012")
    good, tree = json.loads((place / name).read_text()), checkpoint.load(place)[0]
    refused = 0
    with mock.patch.object(checkpoint, "read", return_value=tree):
        for seed in range(30):
            rng = random.Random(seed)
            (place / name).write_bytes(text_of(values(good, rng), rng))
            write_manifest(place)
            for where in (place, tmp_path / "run"):
                refused += refused_or_read(lambda where=where: load_model(where), f"seed {seed}")
            refused_or_read(lambda: load_model(tmp_path / "run", use_best=True), f"seed {seed}")
            checkpoint.find_checkpoints(tmp_path / "run" / "checkpoints")
    assert refused > 20


def test_a_fitted_grid(tmp_path):
    kept = {"times": [1.0, 0.5, 0.0], "sampler": "ddim", "options": {}, "steps": 2, "seed": 0}
    path = fitted_grids.save(tmp_path, kept)
    refused = 0
    for seed in range(60):
        rng = random.Random(seed)
        path.write_bytes(text_of(values(kept, rng), rng))
        with mock.patch.object(fitted_grids, "_file", return_value=path):
            refused += refused_or_read(lambda: fitted_grids.load(tmp_path, "ddim", DDIM(), 2), f"seed {seed}")
    assert refused > 15


def test_a_number_of_a_fitted_grid_that_has_changed_is_refused(tmp_path):
    kept = {"times": [1.0, 0.5, 0.0], "sampler": "ddim", "options": {}, "steps": 2, "seed": 0}
    path = fitted_grids.save(tmp_path, kept)
    with mock.patch.object(fitted_grids, "_file", return_value=path):
        assert {**fitted_grids.load(tmp_path, "ddim", DDIM(), 2), "times": kept["times"]} == kept
        path.write_text(path.read_text().replace("0.5", "0.7"))
        with pytest.raises(UsageError, match="its numbers are not those that were written"):
            fitted_grids.load(tmp_path, "ddim", DDIM(), 2)
        path.write_text(json.dumps(kept))  # as it was written before there was a sum
        assert fitted_grids.load(tmp_path, "ddim", DDIM(), 2)["seed"] == 0


def test_a_picture_with_a_changed_byte_is_not_taken_for_one_that_is_there(tmp_path):
    """Every chunk of a PNG has a checksum; the pixels' was not looked at."""
    path = tmp_path / "a.png"
    save_png(path, np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), {"seed": 1})
    good = path.read_bytes()
    for place in range(8, len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DataError):
            read_provenance(path)
    path.write_bytes(good)
    assert read_provenance(path) == {"seed": 1}


def test_the_provenance_of_a_picture(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, np.zeros((8, 8, 1), np.uint8), {"seed": 1, "steps": 4})
    good = path.read_bytes()
    for seed in range(60):
        path.write_bytes(changed(good, random.Random(seed)))
        refused_or_read(lambda: read_provenance(path), f"seed {seed}")


def archive(kind):
    """A small npz or zip."""
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez(buffer, images=np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4), labels=np.array([0, 1]))
    else:
        picture = io.BytesIO()
        Image.new("L", (4, 4), 7).save(picture, "PNG")
        with zipfile.ZipFile(buffer, "w") as file:
            for name in ("a/0.png", "b/1.png"):
                file.writestr(name, picture.getvalue())
            file.writestr("dataset.json", json.dumps({"labels": [["a/0.png", 0], ["b/1.png", 1]]}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["npz", "zip"])
def test_an_archive(kind, tmp_path):
    good, path = archive(kind), tmp_path / f"data.{kind}"
    path.write_bytes(good)
    assert len(open_source(f"{kind}:{path}")) == 2
    refused = 0
    for seed in range(150):
        rng = random.Random(seed)
        bad = bytearray(good)
        if seed % 2:  # in the directory at the end, where the names are
            start = good.rindex(b"PK\x01\x02")
            for _ in range(3):
                bad[rng.randrange(start, len(bad))] = rng.randrange(256)
        else:
            bad = changed(good, rng)
        path.write_bytes(bad)
        refused += refused_or_read(lambda: open_source(f"{kind}:{path}"), f"seed {seed}")
    assert refused > 100


def test_an_archive_whose_directory_is_not_utf_8(tmp_path):
    path = tmp_path / "data.npz"
    good = archive("npz")
    place = good.rindex(b"labels.npy")
    flags = good.rindex(b"PK\x01\x02") + 8
    bad = bytearray(good)
    bad[place : place + 2] = b"\xff\xfe"
    bad[flags : flags + 2] = struct.pack("<H", 0x800)
    path.write_bytes(bad)
    with pytest.raises(DataError, match=r"data\.npz cannot be read .*can't decode byte 0xff"):
        open_source(f"npz:{path}")


@pytest.mark.parametrize("kind", ["npz", "zip"])
def test_long_and_strange_names_in_an_archive_make_short_sentences(kind, tmp_path):
    path = tmp_path / f"data.{kind}"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(300):
            file.writestr("deep/" * 100 + f"name\n{i}.{'npy' if kind == 'npz' else 'png'}", b"nonsense")
    assert refused_or_read(lambda: open_source(f"{kind}:{path}"), kind)


def test_a_folder_so_deep_that_its_path_cannot_be_written(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(90):
        os.mkdir("d" * 60, dir_fd=here)
        below = os.open("d" * 60, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    assert refused_or_read(lambda: open_source(f"folder:{tmp_path}"), "deep")


def test_a_folder_of_more_folders_than_python_enters(tmp_path, monkeypatch):
    def walk(*_, **__):
        raise RecursionError

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(DataError, match=r"cannot be read \(RecursionError\); restore it"):
        open_source(f"folder:{tmp_path}")


def test_a_name_with_a_newline(tmp_path):
    (tmp_path / "a\nb.png").write_bytes(b"nonsense")
    with pytest.raises(ScorefieldError, match=r"a\\nb\.png is not a picture that can be read"):
        open_source(f"folder:{tmp_path}")
