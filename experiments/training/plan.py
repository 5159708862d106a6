"""When a run does what: the calls to the device, and what is due after each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from experiments.config.tree import Config


def dispatches(config: Config, start: int) -> Iterator[tuple[int, int]]:
    """(first step, number of steps) of every call to the device from step `start` on.

    A call makes `steps_per_dispatch` steps, or a single one where more would run past something that is due.
    """
    training, step, measured = config.training, start, (config.measure.levels_every, config.measure.frechet_every)
    often = (training.checkpoint_every, training.validate_every, training.sample_every, config.ema.snapshot_every)
    periods = [n for n in (*often, *measured) if n > 0]
    while step < training.steps:
        room = min(training.steps - step, *(period - step % period for period in periods))
        length = training.steps_per_dispatch if training.steps_per_dispatch <= room else 1
        yield step, length
        step += length


def count_saves(config: Config, start: int) -> int:
    """How many checkpoints may be due after step `start`: one in each period, and one at the end."""
    steps, every = config.training.steps, config.training.checkpoint_every
    if config.training.stop_after > 0:  # each lowest loss is saved
        every = min(every, config.training.validate_every)
    return -(-steps // every) - start // every if start < steps else 0


def count_snapshots(config: Config, start: int) -> int:
    """How many snapshots of the averages are due after step `start`."""
    every = config.ema.snapshot_every
    return max(0, config.training.steps // every - start // every) if every else 0


class Due(NamedTuple):
    """What is due after a step."""

    save: bool
    validate: bool
    sample: bool
    snapshot: bool

    @property
    def anything(self) -> bool:
        """Whether the host must wait for the device."""
        return any(self)


def due(config: Config, step: int, *, has_held_out: bool) -> Due:
    """What is due after `step` steps; nothing is validated where nothing is held out."""
    training = config.training

    def every(period: int) -> bool:
        return period > 0 and step % period == 0

    save = step == training.steps or every(training.checkpoint_every)
    # Every checkpoint of a validated run has its loss, or the best of them could not be told.
    validate = has_held_out and (every(training.validate_every) or (save and training.validate_every > 0))
    return Due(save, validate, every(training.sample_every), every(config.ema.snapshot_every))
