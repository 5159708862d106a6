"""What a command says of the samples that it has written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from experiments.sampling.throughput import Throughput


def told(throughput: Throughput, there: Collection[int]) -> str:
    """How fast samples came, and how many had not to come."""
    if not there:
        return str(throughput)
    return f"{len(there)} of them already there" + (f", the others at {throughput}" if throughput.count else "")


def place(paths: Sequence[Path]) -> str:
    """The file, or the folder of several."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
