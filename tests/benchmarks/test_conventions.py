"""The table of conventions measures what it says, and says what it cannot measure."""

import pytest

from benchmarks import conventions


def test_a_relation_that_holds_is_printed_and_passes(capsys):
    assert conventions.main(["scipy"]) == 0
    assert "the root" in capsys.readouterr().out


def test_one_that_does_not_hold_fails(monkeypatch, capsys):
    wrong = conventions.Found("a quantity", 1.0, 2.0, "the same", 1.0)
    monkeypatch.setitem(conventions.LIBRARIES, "scipy", lambda: [wrong])
    assert conventions.main(["scipy"]) == 1
    assert "the same, but 1 was expected" in capsys.readouterr().out


def test_a_library_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(conventions.LIBRARIES, "no-such-library", list)
    assert conventions.main(["no-such-library"]) == 0
    assert "no-such-library       not measured: No package metadata" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="jaxx is not compared here; there are blackjax"):
        conventions.main(["jaxx"])
