"""Seeds as ranges: a thousand million of them take no more memory than two."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np


def _start(part: range) -> int:
    return part.start


class Seeds(Sequence[int]):
    """Different whole numbers in the order of the ranges that they come in."""

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        """The ranges rise, and none begins within another. Raises ValueError, with the number, where one does."""
        self._ranges = tuple(part for part in ranges if part)
        self._ends = tuple(itertools.accumulate(map(len, self._ranges)))
        self._sorted = sorted(self._ranges, key=_start)
        for before, after in itertools.pairwise(self._sorted):
            if after.start < before.stop:
                raise ValueError(f"{after.start} is named twice")

    @staticmethod
    def of(numbers: Iterable[int]) -> Seeds:
        """Different numbers, in rising order."""
        ranges: list[range] = []
        for number in sorted(numbers):
            if ranges and ranges[-1].stop == number:
                ranges[-1] = range(ranges[-1].start, number + 1)
            else:
                ranges.append(range(number, number + 1))
        return Seeds(ranges)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...

    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if isinstance(place, slice):
            low, high, step = place.indices(len(self))
            if step != 1:
                return [self[i] for i in range(low, high, step)]
            return Seeds(self._between(low, high))
        i = range(len(self))[place]
        which = bisect.bisect_right(self._ends, i)
        return self._ranges[which][i - self._ends[which]]  # counted from the range's end

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(self._ranges)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        which = bisect.bisect_right(self._sorted, number, key=_start)
        return which > 0 and number in self._sorted[which - 1]

    def places(self, numbers: Iterable[int]) -> Iterator[int]:
        """The place of each of the numbers that are here."""
        begins = {part.start: end - len(part) for part, end in zip(self._ranges, self._ends, strict=True)}
        for number in numbers:
            part = self._sorted[bisect.bisect_right(self._sorted, number, key=_start) - 1] if self._sorted else range(0)
            if number in part:
                yield begins[part.start] + part.index(number)

    def spread(self, count: int) -> Seeds:
        """In the place of each number s the `count` of them from count · s on."""
        return Seeds(range(part.start * count, part.stop * count) for part in self._ranges)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        parts = [np.arange(part.start, part.stop, part.step).astype(dtype or np.int64) for part in self._ranges]
        return np.concatenate(parts) if parts else np.empty(0, dtype or np.int64)

    def __repr__(self) -> str:
        return f"Seeds({len(self):,} of them)"

    def _between(self, low: int, high: int) -> Iterator[range]:
        """The parts of the ranges from place `low` to before place `high`."""
        first = bisect.bisect_right(self._ends, low)
        for part, end in zip(self._ranges[first:], self._ends[first:], strict=True):
            begin = end - len(part)
            if begin >= high:
                return
            yield part[max(0, low - begin) : high - begin]
