"""The progress of a command, on a terminal."""

from __future__ import annotations

import sys

from experiments.sampling.throughput import Throughput


def progress(throughput: Throughput, total: int, quiet: bool) -> None:
    """Show how many of `total` samples are drawn, if standard error is a terminal and `quiet` is false."""
    if not quiet and sys.stderr.isatty():
        end = "\n" if throughput.count == total else ""
        print(f"\rsampling {throughput.count}/{total}  {throughput}", end=end, file=sys.stderr, flush=True)
