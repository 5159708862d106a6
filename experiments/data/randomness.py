"""Random numbers that are addressed and not drawn in turn: a pure function of (seed, stream) on any machine.

PCG64's raw output and SeedSequence are the part of NumPy's random module whose streams are promised never to change,
so a run resumed under a later NumPy sees the same data in the same order.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64


def words(seed: int, *stream: int, count: int) -> UInt64[np.ndarray, "count"]:
    """`count` independent uniform 64-bit words of a stream of `experiments.streams`."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(count)


def permutation(seed: int, *stream: int, count: int) -> Int64[np.ndarray, "count"]:
    """A uniform permutation of 0..count−1: the order that sorts as many random words."""
    return words(seed, *stream, count=count).argsort(kind="stable")
