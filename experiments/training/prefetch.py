"""Work ahead: the next batches are read and sent to the devices while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Item = TypeVar("Item")


def prefetch(function: Callable[[Item], T], items: Iterable[Item], depth: int = 2) -> Generator[T]:
    """`function` of each item in order, computed up to `depth` items ahead on one thread.

    What the function raises is raised where its result would have come. Close the iterator to stop the thread.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as executor:
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
