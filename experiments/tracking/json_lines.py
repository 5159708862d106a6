"""`metrics.jsonl`: a line for each step that has something to tell, appended at once and cut where a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from experiments.errors import reason, warn
from experiments.files import replacing


class JsonLines:
    """The metrics file of a run; a full disk costs it lines, and not the training."""

    def __init__(self, path: Path, start: int) -> None:
        """Continue the file from step `start`: what it holds of later steps will be written again."""
        self.reached = last_step(path)
        """The last step that the file told of before; 0 where there is none."""
        damaged = truncate(path, start)
        if damaged:
            warn(f"{path} had {damaged} damaged {'line' if damaged == 1 else 'lines'}, now left out.")
        self.path, self._cut_short = path, False
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        self._file = open(os.open(path, flags, 0o666), "ab", buffering=0)  # noqa: SIM115

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append {"step": step, ...}, or say that it is missing."""
        line = b"\n" * self._cut_short + json.dumps({"step": step, **values}).encode() + b"\n"
        try:
            written, why = self._file.write(line) or 0, "it was cut short"
        except OSError as error:
            written, why = 0, reason(error)
        if written < len(line):
            self._cut_short = self._cut_short or written > 0
            warn(f"metrics.jsonl lacks its line of step {step} ({why}); the training goes on, so make room.")
        else:
            self._cut_short = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def truncate(path: Path, step: int) -> int:
    """Drop the lines of a metrics file after `step`, a line that a kill left unfinished, and damaged ones.

    The file is written anew where anything is dropped, and where it is a link or has another name besides, which are
    not written through. Returns the number of damaged lines.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            path.unlink()
        return 0
    *lines, unfinished = text.split(b"\n")
    steps = [_step_of(line) for line in lines]
    kept = [line + b"\n" for line, of in zip(lines, steps, strict=True) if of is not None and of <= step]
    if unfinished or len(kept) < len(lines) or path.is_symlink() or path.stat().st_nlink > 1:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
    return steps.count(None)


def newest(path: Path, name: str) -> float | None:
    """The number of that name in the last line of a metrics file that has it; None without one."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    found = (line for line in reversed(lines) if f'"{name}"'.encode() in line)
    value = json.loads(next(found, b"{}")).get(name)
    return float(value) if isinstance(value, (int, float)) else None


def series(path: Path, name: str) -> list[tuple[int, float]]:
    """(step, number) of each line of a metrics file that has a number of that name, in order."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    said = [json.loads(line) for line in lines if f'"{name}"'.encode() in line]
    return [(line["step"], float(line[name])) for line in said if isinstance(line.get(name), (int, float))]


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics, None for one that is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):  # also what is not UTF-8
        return None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def last_step(path: Path) -> int:
    """The last step of which a metrics file tells; 0 for none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return 0
    return max((step for step in map(_step_of, lines) if step is not None), default=0)
