"""Progress: what is said, when, and where."""

import io
import math

import pytest

from experiments import progress
from experiments.errors import warn
from experiments.progress import Reporter, duration, reporting, stage, tell, tracked


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_the_time_left_is_smoothed_and_leaves_compilation_out(clock):
    """The first item takes 60 s and foretells nothing; then 2 s each, and one of 12 s moves the estimate by a fifth."""
    one = Reporter(io.StringIO(), clock).begin("samples", 10)
    clock.now = 30
    assert one.words() == "samples: the first of 10, with compilation, 30 s"
    for now in (60, 62, 64):
        clock.now = now
        one.advance()
    assert one.words() == "samples: 3 of 10, 14 s left"
    clock.now = 76
    one.advance()
    assert one.words() == "samples: 4 of 10, 24 s left"


def test_a_terminal_has_one_line_and_a_file_a_line_now_and_then(clock):
    for stream, expected in (
        (Terminal(), ["\rwork, 2 s", "\rwork, 3 s", "\rwork, 40 s", "\r" + " " * 10 + "\r"]),
        (io.StringIO(), ["scorefield: work, 40 s\n"]),
    ):
        clock.now = 0.0
        reporter = Reporter(stream, clock)
        reporter.begin("work", None)
        for now in (1.0, 2.0, 2.1, 3.0, 40.0):
            clock.now = now
            reporter.tell()
        reporter.clear()
        assert stream.getvalue() == "".join(expected)


def test_the_innermost_is_told_of(clock):
    stream = Terminal()
    reporter = Reporter(stream, clock)
    reporter.begin("checks", 3)
    inner = reporter.begin("samples", 2)
    clock.now = 5.0
    reporter.tell()
    reporter.end(inner)
    clock.now = 6.0
    reporter.tell()
    assert [line.split(":")[0] for line in stream.getvalue().split("\r")[1:]] == ["samples", "checks"]


def test_it_is_shown_where_it_is_asked_for_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", -1.0)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    shown, quiet = Terminal(), Terminal()
    assert list(tracked(range(3), "numbers")) == [0, 1, 2]
    with reporting(stream=shown):
        for _ in tracked(range(2), "numbers"):
            with stage("waiting"):
                for _ in range(200):
                    if "waiting" in shown.getvalue():
                        break
                    progress.time.sleep(0.01)
    with reporting(quiet=True, stream=quiet):
        assert list(tracked(iter("ab"), "letters", 2)) == ["a", "b"]
    assert "waiting" in shown.getvalue()
    assert shown.getvalue().endswith("\r")
    assert quiet.getvalue() == ""


def test_the_line_is_wiped_before_another_is_printed(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "FIRST", -1.0)
    monkeypatch.setattr(progress, "EVERY", 3600.0)  # the thread says nothing; the test speaks for it
    for say, expected in ((tell, "a row\n"), (warn, "scorefield: a row\n")):
        with reporting(stream=terminal), stage("work"):
            reporter = progress._reporters[-1]
            reporter.said = -math.inf
            reporter.tell()
            say("a row")
        blank = "\r" + " " * len("work, 0 s") + "\r"
        assert terminal.getvalue() == f"\rwork, 0 s{blank}{expected}"
        terminal.seek(0)
        terminal.truncate()
        say("a row")
        assert terminal.getvalue() == expected  # and where nothing is shown, nothing is wiped
        terminal.seek(0)
        terminal.truncate()


def test_durations_are_as_a_person_says_them():
    assert [duration(s) for s in (8.4, 89, 90, 3600, 7500)] == ["8 s", "89 s", "2 min", "60 min", "2 h 5 min"]
