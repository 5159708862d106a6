"""Seeds that several processes share: whole batches, so that each is drawn as one process alone would draw it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The part of process `index` among `count` of them; they need not know of one another."""

    index: int = 0
    count: int = 1

    def batch(self, batch: int, seeds: int) -> int:
        """The batch of every process for so many seeds: `batch`, or less where not all would have one."""
        return min(batch, -(-seeds // self.count))

    def places(self, seeds: int, batch: int) -> range:
        """The places of its seeds among so many: of B = N q + r batches r processes have q + 1, the others q.

        The first have one more; so where there are fewer batches than processes, the last have none.
        """
        each, more = divmod(-(-seeds // batch), self.count)
        low, high = (index * each + min(index, more) for index in (self.index, self.index + 1))
        return range(low * batch, min(seeds, high * batch))


ALONE = Share()
"""That of the only process."""
