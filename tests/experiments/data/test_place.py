"""A path means what it meant in the folder in which it was typed, or nothing."""

import os

import pytest

from experiments.data.place import UNNAMED, Place, find, place_of
from experiments.errors import DataError

HERE = os.uname().nodename


@pytest.fixture
def photos(tmp_path, monkeypatch):
    (tmp_path / "one" / "photos").mkdir(parents=True)
    (tmp_path / "two" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one")
    return tmp_path / "one" / "photos"


@pytest.mark.parametrize("typed", ["folder:photos", "folder:./photos/", "folder:../one/photos", "hf:photos"])
def test_a_relative_path_is_found_from_another_folder(photos, monkeypatch, typed):
    place = place_of(typed)
    monkeypatch.chdir("../two")
    assert find(typed, place) == (f"{typed.partition(':')[0]}:{photos}", None)


@pytest.mark.parametrize("typed", ["digits", "plane:moons", "ring-line:photos", "hf:ylecun/mnist", "folder:"])
def test_what_is_no_path_stays_as_it_was_typed(photos, typed):
    assert place_of(typed) == Place(typed, HERE)
    assert find(typed, place_of(typed)) == (typed, None)


def test_home_is_written_out(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert place_of("npz:~/photos").uri == f"npz:{photos}"


def test_data_that_are_gone_are_not_looked_for_where_a_path_of_that_name_leads(photos, monkeypatch):
    place = place_of("folder:photos")
    photos.rmdir()
    monkeypatch.chdir("../two")  # which has a folder of that name
    with pytest.raises(DataError, match=rf"were folder:{photos} on {HERE}, and are not there; give their place now by"):
        find("folder:photos", place)


def test_a_run_of_another_machine_is_not_taken_at_its_word(photos):
    assert find("folder:photos", Place(f"folder:{photos}", "theirs")) == (f"folder:{photos}", "theirs")
    with pytest.raises(DataError, match="were folder:/nowhere/photos on theirs, and are not there"):
        find("folder:photos", Place("folder:/nowhere/photos", "theirs"))
    with pytest.raises(DataError, match="made on theirs from hf:some/thing, which would be fetched; give their place"):
        find("hf:some/thing", Place("hf:some/thing", "theirs"))
    assert find("digits", Place("digits", "theirs")) == ("digits", None)


def test_a_run_that_noted_no_place_may_be_of_anywhere(photos):
    """And nothing is fetched for it: its configuration may be a stranger's."""
    assert find("folder:photos", None) == ("folder:photos", UNNAMED)
    assert find("hf:photos", None) == ("hf:photos", UNNAMED)  # a folder
    assert find("digits", None) == ("digits", None)
    with pytest.raises(
        DataError, match="does not say where it was made, and hf:some/thing would be fetched; give their"
    ):
        find("hf:some/thing", None)
