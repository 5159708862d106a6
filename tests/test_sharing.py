"""Files go to the workers one after the other, the dearest first, and what they share is made once."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import order
from tests.sharing import made_once

ROOT = Path(__file__).parents[1]


def test_what_is_shared_is_made_once_and_nobody_has_it_before_it_is_whole(tmp_path):
    made, seen, may_go_on = [], [], threading.Event()

    def make(folder):
        made.append(folder)
        folder.mkdir()
        may_go_on.wait(10)
        (folder / "last").touch()

    def ask():
        seen.append((made_once(tmp_path, "run", make) / "last").exists())

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    assert not seen
    may_go_on.set()
    for asker in askers:
        asker.join(10)
    assert made == [tmp_path / "run"]
    assert seen == [True, True, True]


def test_what_could_not_be_made_is_tried_again(tmp_path):
    def fail(folder):
        folder.mkdir()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        made_once(tmp_path, "run", fail)
    assert made_once(tmp_path, "run", Path.mkdir).exists()


def test_the_dearest_files_come_first_and_each_stays_in_one_piece():
    cheap = [SimpleNamespace(nodeid=f"tests/{name}.py::test") for name in ("a", "b", "b")]
    dear = [SimpleNamespace(nodeid=f"{file}::test[{case}]") for file in reversed(order.DEAREST) for case in "xy"]
    items = cast(list[Any], [cheap[0], *dear, *cheap[1:]])
    order.dearest_first(items)
    names = [item.nodeid.partition("::")[0] for item in items]
    assert names == [file for file in order.DEAREST for _ in "xy"] + ["tests/b.py", "tests/b.py", "tests/a.py"]
    assert [item.nodeid for item in items[:2]] == [f"{order.DEAREST[0]}::test[{case}]" for case in "xy"]


@pytest.mark.parametrize("file", order.DEAREST)
def test_the_dearest_files_exist(file):
    assert (ROOT / file).exists()
