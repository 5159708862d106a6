"""One file of samples that several processes draw: the same as one process writes, put together once, by the last."""

import math
import os
import threading

import numpy as np
import pytest

from experiments.errors import DataError, UsageError
from experiments.pictures import files, parts
from experiments.pictures.output import output
from experiments.pictures.parts import shared_output
from experiments.sampling.seeds import Seeds
from experiments.sampling.share import Share
from tests.experiments.pictures.test_output import images, request

SEEDS = Seeds([range(7, 12), range(5)])
BATCH = 2


def draw(folder, form, share, *, batch=BATCH, stop=None, seeds=SEEDS, **changes):
    """Write a process's samples; `stop` is the seed at whose batch it fails."""
    batch = share.batch(batch, len(seeds))
    places = share.places(len(seeds), batch)
    with (out := shared_output(request(form, seeds, **changes), folder, share, batch)) as writing:
        for start in range(places.start, places.stop, batch):
            part = seeds[start : min(start + batch, places.stop)]
            if all(seed in writing.there for seed in part):
                continue
            if stop in part:
                raise RuntimeError("it fails")
            writing.add(part, images(list(part)), 7)
        return out, out.finish()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("form", ["grid", "npz", "png"])
def test_processes_write_what_one_writes(form, count, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    draw(alone, form, Share())
    for index in reversed(range(count)):
        out, paths = draw(together, form, Share(index, count))
        if form != "png":
            assert bool(paths) == (index == 0)
            assert out.missing == list(range(min(index, 5)))  # as many batches
    assert contents(together) == contents(alone)


@pytest.mark.parametrize("total", [1, 5, 64, 100, 129])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_are_whole_batches_of_all_seeds_and_even(total, count):
    for asked in (1, 7, 64):
        batch = Share(0, count).batch(asked, total)
        shares = [Share(index, count).places(total, batch) for index in range(count)]
        assert [place for share in shares for place in share] == list(range(total))
        assert all(share.start % batch == 0 for share in shares if share)
        rounds = [math.ceil(len(share) / batch) for share in shares]
        assert max(rounds) == math.ceil(math.ceil(total / batch) / count)  # no more than there must be
        assert batch == asked or max(rounds) == 1


@pytest.mark.parametrize("form", ["grid", "npz"])
def test_the_whole_is_put_together_once_by_processes_that_end_together(form, tmp_path, monkeypatch):
    written, ready, finish = [], threading.Barrier(4), parts._alone
    monkeypatch.setattr(parts, "_alone", lambda path: (ready.wait(), finish(path))[1])
    for name in ("save_png", "_describe"):
        original = getattr(files, name)

        def counting(path, *rest, original=original, **options):
            written.append(path.name)
            return original(path, *rest, **options)

        monkeypatch.setattr(files, name, counting)
    found = []
    threads = [
        threading.Thread(target=lambda index=index: found.append(draw(tmp_path, form, Share(index, 4))))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = "samples.png" if form == "grid" else "samples.npz"
    assert [[path.name for path in paths] for _, paths in found] == [[whole]] * 4
    assert written.count(whole) == 1
    assert not [name for name in os.listdir(tmp_path) if "part" in name or name.startswith(".")]


@pytest.mark.parametrize("form", ["grid", "npz"])
def test_a_process_that_fails_leaves_the_parts_of_the_others_and_its_command_again_ends_it(form, tmp_path):
    draw(tmp_path, form, Share(0, 3))
    with pytest.raises(RuntimeError):
        draw(tmp_path, form, Share(1, 3), stop=0)
    out, paths = draw(tmp_path, form, Share(2, 3))
    assert (out.missing, paths) == ([1], [])
    names = [f"samples.part-{number}-of-3.{kind}" for number in (1, 3) for kind in ("json", "npz")]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names}
    out, paths = draw(tmp_path, form, Share(2, 3))  # its part is there
    assert (list(out.there), paths) == (list(SEEDS[8:]), [])
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names} == before
    _, paths = draw(tmp_path, form, Share(1, 3))
    assert len(paths) == 1
    whole = contents(tmp_path)
    out, again = draw(tmp_path, form, Share(0, 3), stop=7)  # nothing is drawn
    assert (again, contents(tmp_path), set(out.there)) == (paths, whole, {7, 8, 9, 10})


def test_a_part_that_is_not_whole_is_missing_and_drawn_again(tmp_path):
    draw(tmp_path, "npz", Share(0, 2))
    path = tmp_path / "samples.part-1-of-2.npz"
    path.write_bytes(path.read_bytes()[:-9])
    out, paths = draw(tmp_path, "npz", Share(1, 2))
    assert (out.missing, paths) == ([0], [])
    assert draw(tmp_path, "npz", Share(0, 2))[1] == [tmp_path / "samples.npz"]


def test_a_whole_that_is_not_put_together_leaves_the_parts(tmp_path, monkeypatch):
    """As on a full disk; any of the commands again does it."""
    draw(tmp_path, "npz", Share(0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(files, "read_rows", lambda *_: (_ for _ in ()).throw(DataError("it fails")))
        with pytest.raises(DataError):
            draw(tmp_path, "npz", Share(1, 2))
    names = [f"samples.part-{number}-of-2.{kind}" for number in (1, 2) for kind in ("json", "npz")]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert draw(tmp_path, "npz", Share(0, 2), stop=7)[1] == [tmp_path / "samples.npz"]
    with np.load(tmp_path / "samples.npz") as kept:
        np.testing.assert_array_equal(kept["images"][:, 0, 0, 0], list(SEEDS))
        np.testing.assert_array_equal(kept["seeds"], list(SEEDS))


def test_parts_of_another_command_or_batch_or_person_are_refused(tmp_path):
    draw(tmp_path, "npz", Share(0, 2))
    with pytest.raises(UsageError, match=r"holds samples of another command \(steps 3, not 4\)"):
        draw(tmp_path, "npz", Share(0, 2), steps=4)
    with pytest.raises(UsageError, match="steps 3, not 4"):
        draw(tmp_path, "npz", Share(1, 2), steps=4, stop=0)  # beside the other's part
    with pytest.raises(UsageError, match=r"part-1-of-2.npz has 6 samples from place 0 on, and not 5 .* same --batch"):
        draw(tmp_path, "npz", Share(1, 2), batch=5, stop=0)  # before anything is drawn
    draw(tmp_path, "npz", Share(0, 2), batch=5)  # its own is drawn again
    draw(tmp_path, "npz", Share(1, 2), batch=5)
    assert sorted(os.listdir(tmp_path)) == ["samples.json", "samples.npz"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "samples.part-1-of-2.npz").write_text("mine")
    with pytest.raises(UsageError, match=r"holds samples.part-1-of-2\.npz, which is not one of scorefield's own"):
        draw(tmp_path / "other", "npz", Share(0, 2))


def test_an_archive_is_read_in_rows(tmp_path):
    array = np.arange(70, dtype=np.uint16).reshape(7, 5, 2)
    writer = files.ArrayWriter(tmp_path / "a.npz", "images", 7, seeds=range(7))
    writer.add(array)
    writer.finish({})
    rows = list(files.read_rows(tmp_path / "a.npz", "images", 3))
    assert [len(part) for part in rows] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(rows), array)
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        list(files.read_rows(tmp_path / "a.npz", "images", 3))
    assert list(output(request("npz", SEEDS), tmp_path / "b").there) == []
