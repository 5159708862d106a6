"""Errors that end a command: one sentence for the person, one exit status for the script."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable
from typing import ClassVar, NoReturn

from experiments.progress import make_way

Refusals = Iterable[tuple[bool, str]]
"""(Whether refused, the sentence that says why) of each value, or combination of values, that has a condition."""


LIMIT = 300
"""The characters of the longest sentence; a longer one is shortened."""
_SHORT = 40
"""The characters that a long word keeps at least when it is shortened."""


class ScorefieldError(Exception):
    """What went wrong, in one sentence that names the file or flag, the value and the remedy."""

    exit_status: ClassVar[int] = 1

    def __init__(self, sentence: str) -> None:
        """The sentence becomes `one_line`, whatever names and values it quotes."""
        super().__init__(one_line(sentence))


class UsageError(ScorefieldError):
    """A flag or a configuration that cannot be used."""

    exit_status = 2


class DataError(ScorefieldError):
    """A data set, an image or a file of numbers that cannot be used."""

    exit_status = 3


class PictureError(DataError):
    """A picture of a data set that cannot be read, where it may be left out instead; its remedies end with that one."""

    def __init__(self, sentence: str) -> None:
        """The sentence names what else helps."""
        super().__init__(f"{sentence.removesuffix('.')}, or leave such pictures out with --data.on-bad skip.")


class CheckpointError(ScorefieldError):
    """A checkpoint that is missing, damaged or of another run."""

    exit_status = 4


class UnsavedError(CheckpointError):
    """A checkpoint was not saved, and nothing of it is left."""

    why = ""
    """What refused it."""


class DivergedError(ScorefieldError):
    """A loss, a gradient or a sample that is not finite."""

    exit_status = 5


class BusyError(ScorefieldError):
    """A run directory that another process writes to."""

    exit_status = 6


class ExhaustedError(ScorefieldError):
    """Memory, of the machine or of an accelerator, that ran out or would."""

    exit_status = 8


def refuse(refusals: Refusals) -> None:
    """Raise UsageError with the first sentence whose condition holds."""
    for refused, sentence in refusals:
        if refused:
            raise UsageError(sentence)


def reason(error: BaseException) -> str:
    """What another library says about its error, on one line and without a full stop, for use within a sentence."""
    words = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
    return words or type(error).__name__


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the choice nearest to `word`, or the empty string when none is near.

    Where several begin with the word, such as mnist, all of them are meant.
    """
    known, word = list(choices), word.lower()
    near = [choice for choice in known if word and choice.startswith(word)]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    *others, last = map(repr, near) if near else ("",)
    return f" (did you mean {', '.join(others)}{' or ' * bool(others)}{last}?)" if near else ""


def one_line(text: str, limit: int = LIMIT) -> str:
    """`text` on one line of at most `limit` characters: what cannot be printed is escaped.

    Of a longer text the longest words, such as paths, lose their middle first, and then the text itself does.
    """
    words = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text).split(" ")
    while (excess := sum(map(len, words)) + len(words) - 1 - limit) > 0:
        place = max(range(len(words)), key=lambda i: len(words[i]))
        if len(words[place]) <= _SHORT:
            return _without_middle(" ".join(words), limit)
        words[place] = _without_middle(words[place], max(_SHORT, len(words[place]) - excess))
    return " ".join(words)


def _without_middle(text: str, length: int) -> str:
    head = length // (3 if "/" in text and " " not in text else 2)  # a path says more at its end
    return f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"


def warn(line: str) -> None:
    """Print one line on standard error."""
    make_way()
    print(f"scorefield: {one_line(line)}", file=sys.stderr, flush=True)


def end_process(status: int, line: str = "") -> NoReturn:
    """End the process at once, from any thread, with a line on standard error, whatever has been put in its place."""
    with contextlib.suppress(OSError, ValueError):
        if line:
            make_way()
            print(f"scorefield: {one_line(line)}", file=sys.__stderr__ or sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
