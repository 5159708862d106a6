"""Arrays come back from the disk to the bit, or not at all."""

import numpy as np
import pytest

from experiments.evaluation import store

ARRAYS = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "meta": np.array("{}")}


def test_a_round_trip(tmp_path):
    lines = []
    store.save(tmp_path / "new", "stem", ARRAYS, lines.append)
    store.save(tmp_path / "new", "stem-2", {"a/b": np.zeros(2)}, lines.append)
    loaded = store.load(tmp_path / "new", "stem", lines.append)
    assert not lines
    assert loaded is not None
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_what_is_not_there_is_none(tmp_path):
    assert store.load(tmp_path / "no folder", "stem", pytest.fail) is None
    store.save(None, "stem", ARRAYS, pytest.fail)
    assert store.load(None, "stem", pytest.fail) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_every_damage_is_noticed(tmp_path, damage):
    store.save(tmp_path, "stem", ARRAYS, pytest.fail)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"flip": flipped, "cut": content[:middle], "empty": b"", "longer": content + b"x"}[damage])
    lines = []
    assert store.load(tmp_path, "stem", lines.append) is None
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert "SHA-256" in lines[0]
    assert not list(tmp_path.iterdir())


def test_nothing_that_could_be_a_pickle_is_loaded(tmp_path):
    store.save(tmp_path, "stem", {"a": np.array([{}], object)}, pytest.fail)
    with pytest.raises(ValueError, match="pickle"):
        store.load(tmp_path, "stem", pytest.fail)
