"""What is kept of a folder of pictures between two commands: right, or made anew."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from experiments.data import index, open_source
from experiments.data.config import DataConfig
from experiments.data.files import FolderFiles

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 6, 6), np.uint8)


def age(path, seconds=100):
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


@pytest.fixture
def folder(tmp_path):
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
        age(tmp_path / f"{i:02}.png")
    return tmp_path


@pytest.fixture
def examined(monkeypatch):
    """The files that are read whole."""
    seen = []
    examine = index._examined

    def seeing(files, i, config):
        seen.append(files.name(i))
        return examine(files, i, config)

    monkeypatch.setattr(index, "_examined", seeing)
    return seen


def opened(folder, **options):
    return open_source(f"folder:{folder}", loading="lazy", **options)


def only(cache):
    (path,) = (cache / "index").iterdir()
    return path


def test_a_second_opening_reads_no_picture(folder, examined, monkeypatch):
    first = opened(folder)
    assert len(examined) == 20
    monkeypatch.setattr("experiments.data.files.FolderFiles.read", lambda self, i: 1 / 0)
    monkeypatch.setattr("experiments.data.files.FolderFiles.open", lambda self, i: 1 / 0)
    again = opened(folder)
    assert len(examined) == 20
    assert again.fingerprint == first.fingerprint
    assert opened(folder, size=3).event_shape == (3, 3, 1)  # what is done to the pictures is not in the index
    monkeypatch.undo()
    np.testing.assert_array_equal(again.images[:][..., 0], PIXELS)


def test_only_what_has_changed_is_read_again(folder, examined):
    before = opened(folder)
    examined.clear()
    Image.fromarray(PIXELS[0]).save(folder / "07.png")
    age(folder / "07.png", 50)
    Image.fromarray(PIXELS[1]).save(folder / "zz.png")
    age(folder / "zz.png", 50)
    (folder / "03.png").unlink()
    after = opened(folder)
    assert sorted(os.path.basename(name) for name in examined) == ["07.png", "zz.png"]
    assert after.fingerprint != before.fingerprint
    wanted = PIXELS[[0, 1, 2, 4, 5, 6, 0, *range(8, 20), 1]]
    np.testing.assert_array_equal(after.images[:][..., 0], wanted)
    anew = opened(folder)
    assert len(examined) == 2
    assert anew.fingerprint == after.fingerprint


def test_a_file_that_has_only_just_changed_is_not_known_by_its_time(folder, examined):
    path = folder / "05.png"
    path.write_bytes(path.read_bytes())
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    opened(folder)
    examined.clear()
    opened(folder)
    assert [os.path.basename(name) for name in examined] == ["05.png"]


def test_a_bad_picture_is_looked_at_again(folder, examined):
    good = (folder / "04.png").read_bytes()
    (folder / "04.png").write_bytes(good[:50] + bytes(len(good) - 50))
    age(folder / "04.png")
    assert len(opened(folder, on_bad="skip")) == 19
    examined.clear()
    stamp = os.stat(folder / "04.png").st_mtime_ns
    (folder / "04.png").write_bytes(good)  # mended, of the same size and time
    os.utime(folder / "04.png", ns=(stamp, stamp))
    assert len(opened(folder, on_bad="skip")) == 20
    assert len(examined) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-7],
        lambda content: b"",
        lambda content: b"something else" * 40,
        lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
    ],
)
def test_a_damaged_index_is_told_of_and_made_anew(folder, cache, examined, capsys, damage):
    before = opened(folder)
    path = only(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    examined.clear()
    assert opened(folder).fingerprint == before.fingerprint
    assert len(examined) == 20
    assert capsys.readouterr().err.count("is made anew") == 1
    examined.clear()
    opened(folder)
    assert not examined


def test_an_index_of_other_files_is_not_taken(folder, cache, examined, capsys, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    Image.fromarray(PIXELS[0]).save(other / "00.png")
    opened(other)
    foreign = only(cache).read_bytes()
    opened(folder)
    path = index._path(FolderFiles(str(folder), ()), DataConfig())
    path.write_bytes(foreign)
    examined.clear()
    assert len(opened(folder)) == 20
    assert len(examined) == 20
    assert "of other files" in capsys.readouterr().err


def test_an_index_that_cannot_be_written_is_not_kept(folder, cache, capsys):
    cache.mkdir(exist_ok=True)
    (cache / "index").write_text("a file where a folder should be")
    one = opened(folder)
    assert "is not kept" in capsys.readouterr().err
    np.testing.assert_array_equal(one.images[:][..., 0], PIXELS)


def test_the_array_of_an_npz_is_read_whole_once(tmp_path, cache, monkeypatch, capsys):
    path = tmp_path / "a.npz"
    np.savez(path, x=PIXELS)
    age(path)
    one = open_source(f"npz:{path}", loading="lazy")
    monkeypatch.setattr("experiments.data.inplace.StoredImages._read_whole", lambda self: 1 / 0)
    assert open_source(f"npz:{path}", loading="lazy").fingerprint == one.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    only(cache).write_text("{")
    assert open_source(f"npz:{path}", loading="lazy").fingerprint == one.fingerprint
    assert "made anew" in capsys.readouterr().err
