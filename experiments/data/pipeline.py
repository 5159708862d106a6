"""The endless stream of training batches, indexed by the step.

Element n of the stream is a pure function of (seed, n): epoch e = n // N of N images visits each of them once, in the
e-th random order, and mirrors some. Step k is the elements k·B … k·B + B − 1 across epoch borders, so that every
batch is full and no image is left out; process p of P takes the p-th of P equal runs of each step. A run is resumed
from its step number and does not depend on how many processes share it.

Grain's own `shuffle` is not used: grain 0.2.18 does not return within minutes for many seeds when a data set has
fewer than about 500 images, and its order of (seed, epoch + 1) is that of (seed + 1, epoch).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol, cast

import numpy as np
from jaxtyping import Bool, Int, Int64

from experiments import streams
from experiments.data import randomness
from experiments.data.source import Source
from experiments.errors import UsageError

Batch = dict[str, np.ndarray]
_MOST_THREADS = 16
_AHEAD = 2
"""Batches that are ready, beside those that the threads are at."""


class Batches(Protocol):
    """A process's share of every batch, by step: `image`, `label` and `slot` as in `pipeline`."""

    def __getitem__(self, step: int, /) -> Batch:
        """The share of the batch of step `step`, counted from 0: a pure function of the seed and the step."""
        ...


def pipeline(
    source: Source, *, seed: int, batch_size: int, flip: bool = False, process_index: int = 0, process_count: int = 1
) -> Batches:
    """This process's share of every batch of `batch_size` images over all processes, a `grain.MapDataset`.

    `batches[step]`, step = 0, 1, …, is a new dict of b = batch_size / process_count rows:
    `image` uint8 (b, height, width, channels), or float32 (b, d) of points, `label` int32 (b,), zeros without labels,
    and `slot` int32 (b,), the rows' places in the whole batch.

    Raises UsageError when the seed is negative, the batch cannot be shared out equally, or points are to be mirrored.
    """
    import grain

    if seed < 0:
        raise UsageError(f"the seed of the data is {seed}; give 0 or more.")
    if batch_size < 1 or batch_size % process_count:
        raise UsageError(
            f"a batch of {batch_size} images cannot be shared equally by {process_count} processes; choose a multiple."
        )
    if not 0 <= process_index < process_count:
        raise UsageError(f"process {process_index} of {process_count} does not exist; they count from 0.")
    if flip and source.of_points:
        raise UsageError(f"--data.flip mirrors images, and {source.name} has points; leave it out.")
    share = batch_size // process_count
    slots = np.arange(process_index * share, (process_index + 1) * share)
    return cast(Batches, grain.MapDataset.source(_Stream(source, seed, batch_size, flip, slots)))


@contextmanager
def read_ahead(batches: Batches, first: int) -> Iterator[Iterator[Batch]]:
    """The batches of `pipeline` from step `first` on, read by threads of grain: for sources that are decoded as they
    are used. Each batch is the same, in its place, whatever their number, and a few of them are in memory.

    Threads do: what takes the time, Pillow's decoding and resizing, holds no lock of Python's, and a process more would
    take the memory of all that it imports.
    """
    import grain

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + _AHEAD)
    iterator = iter(cast(grain.MapDataset, batches)[first:].to_iter_dataset(options))
    try:
        yield cast(Iterator[Batch], iterator)
    finally:
        iterator.close()


class _Stream:
    """The batches as a random-access data source of grain: item k is the share of step k."""

    def __init__(self, source: Source, seed: int, batch_size: int, flip: bool, slots: Int64[np.ndarray, "b"]) -> None:
        self._source, self._seed, self._batch_size, self._flip, self._slots = source, seed, batch_size, flip, slots

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size - 1  # the last element's number still fits in 63 bits

    def __getitem__(self, index: int) -> Batch:
        source, slots = self._source, self._slots
        epochs, places = np.divmod(index * self._batch_size + slots, len(source))
        rows, mirrored = np.empty_like(slots), np.zeros(len(slots), bool)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            rows[here] = _order(self._seed, epoch, len(source))[places[here]]
            if self._flip:
                mirrored[here] = _mirrored(self._seed, epoch, len(source))[places[here]]
        image = source.images[rows]
        if self._flip:
            image[mirrored] = image[mirrored, :, ::-1]
        label = np.zeros(len(rows), np.int32) if source.labels is None else source.labels[rows]
        return {"image": image, "label": label, "slot": slots.astype(np.int32)}


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Int[np.ndarray, "count"]:
    """Images in the order in which an epoch visits them, in half the memory where that will do."""
    return randomness.permutation(seed, streams.ORDER, epoch, count=count).astype(np.int32 if count < 2**31 else int)


@lru_cache(maxsize=4)
def _mirrored(seed: int, epoch: int, count: int) -> Bool[np.ndarray, "count"]:
    """Whether the image at each place of an epoch is mirrored."""
    return randomness.words(seed, streams.FLIP, epoch, count=count) >= 2**63
