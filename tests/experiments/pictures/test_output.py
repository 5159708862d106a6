"""Samples on the disk: written as they come, gone on with, and nobody else's overwritten."""

import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.data.place import Place
from experiments.errors import ExhaustedError, UsageError
from experiments.pictures import files
from experiments.pictures.output import output
from experiments.pictures.request import Request
from experiments.sampling.drawing import starts
from experiments.sampling.seeds import Seeds

ASKED = {"sampler": "heun", "steps": 3, "checkpoint_step": 12, "checkpoint": "a", "class": 2, "guidance": None}
RUN = Path("runs/tiny")


def request(form, seeds=range(5), points=False, place=None, data=None, **changes):
    shape = (2,) if points else (8, 8, 1)
    model = SimpleNamespace(
        of_points=points,
        path=RUN / "checkpoints" / "00000012",
        event_shape=shape,
        bits=8,
        config=SimpleNamespace(data=SimpleNamespace(source="digits")),
        facts=SimpleNamespace(place=place),
        data=data,
    )
    seeds = seeds if isinstance(seeds, Seeds) else list(seeds)
    return Request(model, form, seeds, {**ASKED, "seeds": str(seeds), **changes})


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
            if not all(seed in writing.there for seed in part):
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
    assert (set(out.there), out.nfe) == ({0, 1, 2, 3}, 7)
    assert [path.name for path in paths] == [f"{seed:06d}.png" for seed in range(7)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files.read_provenance(paths[5])["seed"] == 5
    assert set(output(request("png"), tmp_path).there) == set(range(5))


def test_a_million_seeds_take_little_memory(tmp_path):
    """What is kept of them, and of what is in the folder, and what is done to find it."""
    fill(tmp_path, "png", range(3))
    for name in ("1000000.png", "theirs.png", "12.png", "0000001.png"):  # none of them is a seed's
        (tmp_path / name).write_text("")
    tracemalloc.start()
    out = output(request("png", Seeds([range(1_000_000)])), tmp_path)
    places = starts(range(1_000_000), 64, ()), starts(range(2_000_000_000), 1, ())
    paths = out.finish()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2e6
    assert (set(out.there), len(paths), paths[-1].name) == ({0, 1, 2}, 1_000_000, "999999.png")
    assert [path.name for path in paths[1:3]] == ["000001.png", "000002.png"]
    assert list(map(len, places)) == [15_625, 2_000_000_000]


def test_a_picture_that_does_not_fit_into_memory_is_refused(tmp_path):
    seeds = Seeds([range(2**45)])
    with pytest.raises(
        ExhaustedError, match=r"^--format grid of 35,.* images takes at least .*B of memory, and .*B is free; "
    ):
        output(request("grid", seeds), tmp_path)
    output(request("npz", seeds), tmp_path)


def test_the_seeds_of_an_archive_are_written_in_parts(tmp_path):
    """Of half a million, not one array; a class that all share is none either."""
    count = 500_000
    tracemalloc.start()
    seeds, label = Seeds([range(7, count), range(7)]), np.broadcast_to(3, count)
    writer = files.ArrayWriter(tmp_path / "a.npz", "images", count, seeds=seeds, labels=label)
    for _ in range(0, count, 50_000):
        writer.add(np.zeros((50_000, 1), np.uint8))
    writer.finish({})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3e6
    with np.load(tmp_path / "a.npz") as kept:
        np.testing.assert_array_equal(kept["seeds"], np.roll(np.arange(count), -7))
        assert kept["labels"].shape == (count,)
        assert np.all(kept["labels"] == 3)


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


@pytest.mark.parametrize("form", ["grid", "npz"])
def test_a_file_of_all_that_is_there_is_not_drawn_again(tmp_path, form):
    fill(tmp_path, form)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    out, paths = fill(tmp_path, form)
    assert (set(out.there), out.nfe) == (set(range(5)), 7)
    assert {path: path.stat().st_mtime_ns for path in [*paths, *before]} == before


def test_an_archive_that_is_not_whole_is_drawn_again(tmp_path):
    _, (path,) = fill(tmp_path, "npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    out, _ = fill(tmp_path, "npz")
    assert not out.there
    with np.load(path) as kept:
        np.testing.assert_array_equal(kept["images"][:, 0, 0, 0], range(5))


@pytest.mark.parametrize("form", ["png", "grid", "npz"])
def test_where_nothing_can_be_written_is_said_before_anything_is_drawn(tmp_path, form):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/x cannot be written \(Not a directory\); choose another place"):
        output(request(form), tmp_path / "file" / "x")
    output(request(form), tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == ["file"]


def test_samples_are_not_written_among_the_data_of_the_run(tmp_path):
    (tmp_path / "cats").mkdir()
    place = Place(f"folder:{tmp_path}", "here")
    for folder in (tmp_path, tmp_path / "cats", tmp_path / "new"):
        with pytest.raises(UsageError, match=r"is in .*, among the data of the run; give another"):
            output(request("png", place=place), folder)
    with pytest.raises(UsageError, match="among the data of the run"):  # where they have moved
        output(request("png", data=f"folder:{tmp_path}"), tmp_path)
    output(request("png", place=place, data="folder:elsewhere"), tmp_path)
    output(request("png", place=place), tmp_path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("form", "before", "after"),
    [
        ("png", "2 of 5 samples are written", "4 of 5 samples are written"),
        ("grid", "nothing was written; --format png keeps what is drawn", "the samples are written"),
    ],
)
def test_what_is_written_is_told_while_it_is_drawn(tmp_path, form, before, after):
    """Of a batch that is partly there, the rest counts."""
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, form, stop=2)
    out = output(request(form), tmp_path)
    assert (out.told(0), out.told(2)) == (before, after)
