"""Files are whole, new and nobody else's."""

import os
import threading

import pytest

from experiments import files
from experiments.errors import BusyError, UsageError
from experiments.files import abandon, replacing, replacing_folder, require_own, sweep, write_text, written
from experiments.training.lock import run_lock


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("tw")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    precious, link = tmp_path / "precious", tmp_path / "config.json"
    precious.write_text("mine")
    link.symlink_to(precious)
    write_text(link, "new")
    assert (precious.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_a_temporary_file_takes_no_name_that_is_there(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".a.0000.tmp").symlink_to(precious)
    monkeypatch.setattr("secrets.token_hex", lambda count: "0000")
    with pytest.raises(UsageError, match="File exists"):
        write_text(tmp_path / "a", "new")
    assert precious.read_text() == "mine"
    assert (tmp_path / ".a.0000.tmp").is_symlink()


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    left, others = [".a.png.0123456789abcdef.tmp", ".a.png.01234567.tmp"], [".b.png.0123456789abcdef.tmp", ".a.png.tmp"]
    for name in left + others:
        (tmp_path / name).write_text("")
    (tmp_path / ".a.png.00000000.tmp").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "a.png") as busy:  # as of another process that is at work
        busy.write_text("whole")
        sweep(tmp_path, {"a.png"})
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".a.png.00000000.tmp", "a.png"])
    assert (tmp_path / "a.png").read_text() == "whole"
    sweep(tmp_path / "nowhere", {"a.png"})


def test_a_file_that_is_written_again_sweeps_what_was_left_of_it(tmp_path):
    for name in (".a.txt.0123456789abcdef.tmp", ".b.txt.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == [".b.txt.0123456789abcdef.tmp", "a.txt"]


def make_link(path, target):
    path.symlink_to(target)


def make_hard_link(path, target):
    path.hardlink_to(target)


def make_folder(path, target):
    path.mkdir()


def make_pipe(path, target):
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_link, make_hard_link, make_folder, make_pipe])
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path, make):
    target = tmp_path / "precious"
    target.write_text("mine")
    make(tmp_path / "lock", target)
    refusal = r"lock is a link or no file, .*; delete it, or give another --outdir"
    with pytest.raises(UsageError, match=refusal), run_lock(tmp_path):
        pass
    assert target.read_text() == "mine"


@pytest.mark.parametrize("said", [b"\xff\xfe", b"\x00" * 5000, b"a word\nand more", b""])
def test_a_garbled_lock_is_busy_as_any_other(tmp_path, said):
    with run_lock(tmp_path):
        (tmp_path / "lock").write_bytes(said)
        with pytest.raises(BusyError, match="is in use by another process; wait for it"), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):  # and once it is free it is taken, whatever it says
        assert b"process" in (tmp_path / "lock").read_bytes()


def test_a_folder_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "run"
    left = path.parent / ".run.0123456789abcdef.tmp"
    left.mkdir(parents=True)
    (left / "half").write_text("")

    def fail():
        with replacing_folder(path) as hidden:
            write_text(hidden / "checkpoints" / "a.txt", "one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(path.parent) == []
    begun = written()
    with replacing_folder(path) as hidden:
        write_text(hidden / "a.txt", "one")
        assert written() == begun  # it is not there yet
        with replacing_folder(path) as other:  # of a process that is alive
            assert hidden.exists()
            (other / "b.txt").write_text("two")
        (path / "b.txt").unlink()
    assert os.listdir(path) == ["a.txt"]
    assert written() == begun + 2
    with pytest.raises(UsageError, match="cannot be written"), replacing_folder(path):
        pass
    assert os.listdir(path.parent) == ["run"]


def test_a_signal_leaves_no_folder_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_abandoned", threading.Event())
    folder = replacing_folder(tmp_path / "run")
    hidden = folder.__enter__()
    write_text(hidden / "a.txt", "one")
    abandon()
    assert os.listdir(tmp_path) == []
    files._abandoned.clear()
    with pytest.raises(UsageError):
        folder.__exit__(None, None, None)


def test_what_another_wrote_is_not_overwritten(tmp_path):
    def own(path):
        return path.read_text().startswith("mine")

    path = tmp_path / "a.txt"
    require_own(path, own, "--out")
    path.write_text("mine, of yesterday")
    require_own(path, own, "--out")
    for text in (b"theirs", b"\xff"):
        path.write_bytes(text)
        with pytest.raises(UsageError, match=r"a.txt is there.*give another --out, or move it away; nothing was overw"):
            require_own(path, own, "--out")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is there"):
        require_own(path, own, "--out")
