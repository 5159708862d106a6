"""How fast samples come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Throughput:
    """Samples a second; once a second batch is done, without the first, in which everything is compiled."""

    def __init__(self, batch: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the clock, in seconds. Every batch costs as much as `batch` samples, for a short one is filled up."""
        self.count = 0
        self._batch, self._clock, self._ends = batch, clock, [clock()]
        self._elsewhere = 0.0

    def add(self, count: int) -> None:
        """Note that another batch is done, `count` of whose samples are wanted."""
        self.count += count
        self._ends.append(self._clock() - self._elsewhere)

    def resume(self) -> None:
        """Leave out the time since the last batch: it went into something else."""
        self._elsewhere = self._clock() - self._ends[-1]

    @property
    def seconds(self) -> float:
        """The seconds from the start to the end of the last batch."""
        return self._ends[-1] - self._ends[0]

    @property
    def with_compilation(self) -> bool:
        """Whether the rate includes the compilation."""
        return len(self._ends) < 3

    @property
    def rate(self) -> float:
        """Samples a second."""
        if self.with_compilation:
            return self.count / self.seconds if self.count else 0.0
        return self._batch * (len(self._ends) - 2) / (self._ends[-1] - self._ends[1])

    def rates(self) -> dict[str, Any]:
        """The rate, as JSON values."""
        return {"samples_per_second": self.rate, "with_compilation": self.with_compilation}

    def report(self) -> dict[str, Any]:
        """The time and the rate, as JSON values."""
        return {"seconds": self.seconds, **self.rates()}

    def __str__(self) -> str:
        return f"{self.rate:.1f} samples/s" + (" with compilation" if self.with_compilation else "")
