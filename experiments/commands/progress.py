"""The progress of a command, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from experiments.sampling.throughput import Throughput


def progress(throughput: Throughput, total: int, quiet: bool) -> None:
    """Show how many of `total` samples are drawn, if standard error is a terminal and `quiet` is false."""
    if not quiet and sys.stderr.isatty():
        end = "\n" if throughput.count == total else ""
        print(f"\rsampling {throughput.count}/{total}  {throughput}", end=end, file=sys.stderr, flush=True)


def told(throughput: Throughput, there: Collection[int]) -> str:
    """How fast samples came, and how many had not to come."""
    if not there:
        return str(throughput)
    return f"{len(there)} of them already there" + (f", the others at {throughput}" if throughput.count else "")


def place(paths: Sequence[Path]) -> str:
    """The file, or the folder of several."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
