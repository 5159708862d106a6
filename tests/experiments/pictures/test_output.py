"""Samples on the disk: written as they come, gone on with, and nobody else's overwritten."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.errors import UsageError
from experiments.pictures import files
from experiments.pictures.output import Request, output

ASKED = {"sampler": "heun", "steps": 3, "checkpoint_step": 12, "checkpoint": "a", "class": 2, "guidance": None}
RUN = Path("runs/tiny")


def request(form, seeds=range(5), points=False, **changes):
    model = SimpleNamespace(of_points=points, path=RUN / "checkpoints" / "00000012")
    return Request(model, form, list(seeds), {**ASKED, "seeds": str(list(seeds)), **changes})


def images(seeds):
    return np.asarray(seeds, np.uint8).reshape(-1, 1, 1, 1) * np.ones((8, 8, 1), np.uint8)


def fill(folder, form, seeds=range(5), batch=2, stop=None, **changes):
    """Write what is not there; `stop` is the seed at whose batch the drawing is interrupted."""
    seeds = list(seeds)
    with (out := output(request(form, seeds, **changes), folder)) as writing:
        for start in range(0, len(seeds), batch):
            part = seeds[start : start + batch]
            if stop in part:
                raise KeyboardInterrupt
            if not set(part) <= writing.there:
                writing.add(part, images(part), 7)
        return out, writing.finish()


@pytest.mark.parametrize(("form", "left"), [("png", ["000000.png", "000001.png"]), ("grid", []), ("npz", [])])
def test_an_interruption_keeps_single_pictures_and_no_half_of_a_file(tmp_path, form, left):
    tmp_path /= "out"
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, form, stop=2)
    assert sorted(os.listdir(tmp_path) if tmp_path.exists() else []) == left


def test_single_pictures_go_on_where_they_stopped_and_with_more_seeds(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, "png", stop=4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    out, paths = fill(tmp_path, "png", range(7), checkpoint="another way to the same")
    assert (out.there, out.nfe) == ({0, 1, 2, 3}, 7)
    assert [path.name for path in paths] == [f"{seed:06d}.png" for seed in range(7)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files.read_provenance(paths[5])["seed"] == 5
    assert output(request("png"), tmp_path).there == set(range(5))


def test_a_picture_that_is_cut_short_or_foreign_is_not_taken_for_one(tmp_path):
    _, paths = fill(tmp_path, "png")
    whole = paths[3].read_bytes()
    for damaged in (whole[:-20], b"", b"theirs"):
        paths[3].write_bytes(damaged)
        with pytest.raises(UsageError, match=r"holds 000003.png, which is not one of scorefield's own; give another"):
            fill(tmp_path, "png")
        assert paths[3].read_bytes() == damaged


@pytest.mark.parametrize("form", ["png", "grid", "npz"])
def test_nothing_of_another_command_is_overwritten(tmp_path, form):
    _, paths = fill(tmp_path, form)
    fill(tmp_path, form)  # the same command may
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"holds samples of another command \(steps 3, not 4\); give another --outdir"):
        fill(tmp_path, form, steps=4)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    if form != "png":
        with pytest.raises(UsageError, match=r"another command \(seeds "):
            fill(tmp_path, form, range(3))
    paths[0].unlink()
    paths[0].symlink_to(tmp_path / "elsewhere")
    (tmp_path / "samples.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="which is not one of scorefield's own"):
        fill(tmp_path, form)


def test_arrays_in_parts_are_those_in_one(tmp_path):
    _, (path,) = fill(tmp_path, "npz", batch=2)
    with np.load(path) as kept:
        np.testing.assert_array_equal(kept["images"], images(range(5)))
        np.testing.assert_array_equal(kept["seeds"], range(5))
    said = files.read_provenance(path)  # which compares the digest
    assert said["arrays"] == {"seeds": [5], "images": [5, 8, 8, 1]}
    assert said["nfe"] == 7
    path.unlink()  # as if it had been killed between the two files
    fill(tmp_path, "npz")
    assert files.read_provenance(path) == said


def test_a_folder_is_named_from_what_determines_the_samples():
    name = request("png").folder()
    assert name.parent == RUN / "samples"
    assert name.name.startswith("step-0000012-heun-3-class-2-")
    assert request("png", range(9), checkpoint="b").folder() == name
    others = [request("png", steps=4), request("grid"), request("grid", range(9)), request("png", clip="range")]
    assert len({name, *(other.folder() for other in others)}) == 5


def test_leftovers_of_the_same_command_are_removed(tmp_path):
    for name in (".000003.png.0123456789abcdef.tmp", ".000009.png.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("")
    fill(tmp_path, "png")
    assert sorted(os.listdir(tmp_path)) == [".000009.png.0123456789abcdef.tmp", *(f"00000{i}.png" for i in range(5))]
