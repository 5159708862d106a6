"""What `make fast` leaves out exists, and something of every file is left."""

import ast
from pathlib import Path
from typing import cast

import pytest

from tests.tiers import EVERYTHING, mark, slow_functions

ROOT = Path(__file__).parents[1]


def functions_of(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("file", slow_functions())
def test_the_slow_tests_are_there_and_not_all_of_their_file(file):
    slow = slow_functions()[file]
    there = functions_of(file)
    assert slow.keys() - {EVERYTHING} <= there
    assert any(slow.get(name) != "none" for name in there)


class Found:
    """A test as far as `mark` asks."""

    def __init__(self, nodeid):
        self.nodeid, self.markers = nodeid, []

    def add_marker(self, marker):
        self.markers.append(marker.name)


def test_the_first_case_stays_where_it_is_quick(monkeypatch):
    slow = {"a.py": {"test_first": "first", "test_none": "none"}, "b.py": {EVERYTHING: "first"}}
    monkeypatch.setattr("tests.tiers.slow_functions", lambda: slow)
    names = ("a.py::test_first[1]", "a.py::test_first[2]", "a.py::test_none[1]", "a.py::test_other[1]")
    items = [Found(name) for name in (*names, "a.py::test_other[2]", "b.py::test_it[1]", "b.py::test_it[2]")]
    mark(cast(list[pytest.Item], items))
    left_out = [item.nodeid for item in items if item.markers]
    assert left_out == ["a.py::test_first[2]", "a.py::test_none[1]", "b.py::test_it[2]"]
    assert {marker for item in items for marker in item.markers} == {"slow"}
