"""A preparation that is stopped goes on, to the same bytes; what is there already, and other parts, are left alone."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from experiments.data import DataConfig, Source, open_source
from experiments.data import prepare as module
from experiments.data.lazy import VERSION
from experiments.data.prepare import Parts, prepare
from experiments.errors import BusyError, DataError, UsageError

CONFIG = DataConfig(source="folder:photos")
COUNT, HELD_OUT, SHAPE = 90, 11, (6, 4, 3)
PIXELS = np.random.default_rng(0).integers(256, size=(COUNT + HELD_OUT, *SHAPE), dtype=np.uint8)
LABELS = np.arange(COUNT + HELD_OUT, dtype=np.int32) % 4


class Counting:
    """Lazy images that note which rows were asked for, and fail at one of them."""

    ndim, dtype, shape = 4, np.dtype(np.uint8), (COUNT, *SHAPE)
    fingerprint = f"{VERSION}{'0' * 64}"

    def __init__(self, damaged=None):
        self.asked, self.damaged = [], damaged

    def __len__(self):
        return COUNT

    def __getitem__(self, rows):
        wanted = np.arange(COUNT)[rows]
        self.asked.append(wanted.tolist())
        if self.damaged in wanted:
            raise DataError(f"photo {self.damaged} is damaged; restore or remove it.")
        return PIXELS[wanted]


def source(images=None):
    held_out = Source(images=PIXELS[COUNT:], labels=LABELS[COUNT:])
    images = PIXELS[:COUNT] if images is None else images
    return Source(images=images, labels=LABELS[:COUNT], class_names=tuple("abcd"), held_out=held_out, notes=("a note",))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_IMAGES", 40)


def test_what_is_prepared_is_the_source_with_its_test_split(tmp_path):
    facts = prepare(source(), CONFIG, tmp_path / "new" / "out.records")
    read = open_source(f"records:{tmp_path / 'new' / 'out.records'}")
    assert read.held_out is not None
    for part, rows in ((read, slice(0, COUNT)), (read.held_out, slice(COUNT, None))):
        np.testing.assert_array_equal(part.images[:], PIXELS[rows])
        np.testing.assert_array_equal(part.labels, LABELS[rows])
        assert part.class_names == tuple("abcd")
    assert read.notes == ("a note",)
    assert (facts.images, facts.held_out) == (COUNT + HELD_OUT, HELD_OUT)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.records"]


def test_no_more_than_a_part_is_asked_for_and_each_image_once(tmp_path):
    images = Counting()
    prepare(source(images), CONFIG, tmp_path / "out")
    assert sorted(chain.from_iterable(images.asked)) == list(range(COUNT))
    assert max(map(len, images.asked)) <= 32


def test_a_part_has_a_bounded_size():
    wide = Source(images=np.zeros((2, 1024, 4096, 3), np.uint8))
    assert Parts(wide, CONFIG, None).size == 1
    assert Parts(Source(images=np.zeros((2, 256, 256, 3), np.uint8)), CONFIG, None).size == 40
    assert all(Parts(source(), CONFIG, None).rows(i) == range(40 * i, min(40 * i + 40, 101)) for i in range(3))


def test_what_was_stopped_goes_on_where_it_was_to_the_same_bytes(tmp_path):
    prepare(source(), CONFIG, tmp_path / "at-once")
    with pytest.raises(DataError, match="photo 50 is damaged"):
        prepare(source(Counting(damaged=50)), CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    images = Counting()
    prepare(source(images), CONFIG, tmp_path / "out")
    assert sorted(chain.from_iterable(images.asked)) == list(range(40, COUNT))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "at-once").read_bytes()
    assert not (tmp_path / "out.parts").exists()


PROGRAM = """
import os, signal, sys, zlib
from pathlib import Path
from experiments.data import DataConfig, open_source
from experiments.data import prepare, records
uri, out, module, death = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
prepare.PART_IMAGES, calls, crc32 = 100, 0, zlib.crc32
class Deadly:
    def crc32(self, *arguments):
        global calls
        calls += 1
        if calls == int(death):
            os.kill(os.getpid(), signal.SIGKILL)
        return crc32(*arguments)
{"parts": prepare, "file": records}[module].zlib = Deadly()
config = DataConfig(source=uri, loading="lazy")
prepare.prepare(open_source(config), config, out)
"""


def test_a_process_that_is_killed_again_and_again_comes_to_the_same_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(256, size=(1000, 5, 5), dtype=np.uint8))
    config = DataConfig(source=f"npz:{tmp_path / 'a.npz'}", loading="lazy")
    prepare(open_source(config), config, tmp_path / "at-once")
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, config.source, str(out)]
    # While the fourth part is half written, and while five hundred images are in the file to be.
    for where, there in ((("parts", "4"), 3), (("file", "500"), 10)):
        assert subprocess.run([*command, *where]).returncode == -signal.SIGKILL
        assert len(list((tmp_path / "out.parts").glob("[0-9]*.part"))) == there
        assert not out.exists()
    assert subprocess.run([*command, "parts", "0"]).returncode == 0
    assert out.read_bytes() == (tmp_path / "at-once").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "at-once", "out"]


def stopped(folder, damaged=85):
    """A preparation with two parts of three."""
    with pytest.raises(DataError):
        prepare(source(Counting(damaged=damaged)), CONFIG, folder / "out")
    return folder / "out.parts"


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_part_that_is_damaged_is_made_anew(tmp_path, harm):
    prepare(source(Counting()), CONFIG, tmp_path / "at-once")
    part = stopped(tmp_path) / "000001.part"
    content = bytearray(part.read_bytes())
    content[77] ^= 8
    part.unlink() if harm == "gone" else part.write_bytes(content if harm == "flipped" else content[:-9])
    prepare(source(Counting()), CONFIG, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "at-once").read_bytes()


def test_parts_of_other_images_or_options_are_neither_taken_nor_removed(tmp_path):
    parts = stopped(tmp_path)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    other, recoded = Counting(), replace(CONFIG, crop="none")
    other.fingerprint = f"{VERSION}{'1' * 64}"
    for images, config in ((other, CONFIG), (Counting(), recoded)):
        with pytest.raises(UsageError, match=r"out.parts holds parts of other images.*remove that folder, or give"):
            prepare(source(images), config, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before
    assert not (tmp_path / "out").exists()


def test_the_source_may_have_moved_and_be_held_out_otherwise(tmp_path):
    stopped(tmp_path)
    prepare(source(Counting()), replace(CONFIG, source="folder:elsewhere", held_out=0.5, seed=9), tmp_path / "out")


@pytest.mark.parametrize("plan", ["{", "[" * 100_000], ids=["cut short", "a nest without end"])
def test_a_plan_that_is_no_plan_makes_all_parts_anew(tmp_path, plan):
    parts = stopped(tmp_path)
    (parts / "plan.json").write_text(plan)
    images = Counting()
    prepare(source(images), CONFIG, tmp_path / "out")
    assert sorted(chain.from_iterable(images.asked)) == list(range(COUNT))


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path, kind):
    out = tmp_path / "out"
    {"file": out.touch, "folder": out.mkdir, "dangling link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(UsageError, match=r"out exists already, and nothing is overwritten; remove it, or give another"):
        prepare(source(), CONFIG, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_parts_are_not_written_through_a_link(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.part").write_bytes(b"theirs")
    (tmp_path / "out.parts").symlink_to(tmp_path / "theirs")
    with pytest.raises(UsageError, match=r"out\.parts is a link, through which nothing is written; remove it"):
        prepare(source(), CONFIG, tmp_path / "out")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["a.part"]


def test_a_file_that_comes_meanwhile_stays(tmp_path, monkeypatch):
    out, join = tmp_path / "out", Parts.join
    monkeypatch.setattr(Parts, "join", lambda self, path: (out.write_text("mine"), join(self, path))[1])
    with pytest.raises(UsageError, match="exists already"):
        prepare(source(), CONFIG, out)
    assert out.read_text() == "mine"


def test_two_processes_do_not_prepare_one_file(tmp_path):
    parts = stopped(tmp_path)
    with open(parts / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="is being prepared by another process"):
            prepare(source(), CONFIG, tmp_path / "out")


def test_the_room_is_asked_for_first_and_is_enough(tmp_path, monkeypatch):
    asked = []

    def usage(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or namedtuple("U", "free")(free))

    prepare(source(), CONFIG, tmp_path / "at-once")
    file, parts = (tmp_path / "at-once").stat().st_size, PIXELS.nbytes
    usage(file + parts - 1)  # what it took at its fullest
    images = Counting()
    with pytest.raises(UsageError, match=r"has 13\d kB free, and \d+ kB are needed for out and the parts that it is"):
        prepare(source(images), CONFIG, tmp_path / "out")
    assert not images.asked
    assert not (tmp_path / "out.parts").exists()
    usage(10**6)
    prepare(source(images), CONFIG, tmp_path / "out")
    assert len(asked) == 2


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path, monkeypatch):
    def full(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_records", full)
    with pytest.raises(UsageError, match=r"out cannot be written \(No space left on device\)"):
        prepare(source(), CONFIG, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out.parts"]
    assert len(list((tmp_path / "out.parts").glob("*.part"))) == 3


def test_points_are_refused(tmp_path):
    with pytest.raises(UsageError, match="has points and no pixels"):
        prepare(open_source("plane:moons"), CONFIG, tmp_path / "out")


def test_what_somebody_else_has_put_beside_the_parts_stays(tmp_path):
    parts = stopped(tmp_path)
    (parts / "letter.txt").write_text("mine")
    prepare(source(), CONFIG, tmp_path / "another")
    prepare(source(Counting()), CONFIG, tmp_path / "out")
    assert [path.name for path in parts.iterdir()] == ["letter.txt"]
    assert json.loads(json.dumps(Parts(source(), CONFIG, tmp_path / "out")._plan()))
