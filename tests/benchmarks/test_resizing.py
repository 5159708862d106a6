"""The table of resizings, as far as it needs no other library."""

import importlib.util

from benchmarks.resizing import table


def test_the_standard_is_no_way_off_itself_and_the_others_are(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table()[2:]]
    assert rows[0] == ["0"] * 4
    assert len(rows) == 5
    assert all(float(cell) > 1 for row in rows[1:] for cell in row)
