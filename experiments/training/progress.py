"""Where a training stands: what `for step in training(...)` gives to the loop's body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.tracking.tracker import Picture
from experiments.training.data import Facts
from experiments.training.logging import Recorder, StepRecord
from experiments.training.model import AnyNetwork
from experiments.training.state import Params, TrainState


@dataclass(frozen=True)
class Setting:
    """What stays the same throughout a training."""

    config: Config
    facts: Facts
    network: AnyNetwork
    outdir: Path


class Step:
    """A training after an update, or after the `steps_per_dispatch` updates of one call to the device.

    Reading `loss`, `metrics` or `records` waits for the device; nothing else does. `params` and `ema` are copies on
    the first device, which are the caller's to keep; they are made when they are first read, and that must be before
    the next step, which takes the arrays of this one. Where the state is cut among the devices of several processes
    (`parallel="fsdp"`), all of them must read it.
    """

    def __init__(
        self,
        step: int,
        setting: Setting,
        state: TrainState,
        report: jax.Array,
        *,
        whole: Callable[[Any], Any],
        held_out_loss: float | None,
        is_checkpoint_due: bool,
        is_sample_due: bool,
        save: Callable[[float | None], None],
        recorder: Recorder | None = None,
    ) -> None:
        """`report` holds a row of numbers for each update; `whole(part)` copies a part of the state to one device;
        `save(held_out_loss)` saves the state as it stands.
        """
        self.step = step
        """Updates done."""
        self.setting = setting
        """What stays the same throughout the training."""
        self.held_out_loss = held_out_loss
        """Mean loss on the held-out data, at the steps at which it is measured; else None."""
        self.is_checkpoint = is_checkpoint_due
        """Whether this step is a checkpoint: saved, being saved in the background, or about to be.

        Where samples are due it is saved after the loop's body, so that no checkpoint is there without its picture.
        """
        self.is_sample_due = is_sample_due
        """Whether `sample_every` divides this step."""
        self._state: TrainState | None = state
        self._report, self._whole, self._save, self._saved = report, whole, save, False
        self._recorder = recorder

    @cached_property
    def records(self) -> list[StepRecord]:
        """The metrics of every update since the last step, oldest first."""
        return [StepRecord(*row[:-1]) for row in np.asarray(self._report).tolist()]

    @property
    def metrics(self) -> StepRecord:
        """Loss, gradient norm and learning rate of the last update, as Python numbers."""
        return self.records[-1]

    @property
    def loss(self) -> float:
        """Mean of the objective over the last batch, before the update."""
        return self.metrics.loss

    @cached_property
    def params(self) -> Params:
        """The parameters. Raises RuntimeError once the next step has begun."""
        return self._copy("params", lambda state: state.params)

    @cached_property
    def ema(self) -> tuple[Params, ...]:
        """The averages of the parameters, one for each decay, then one for each width.

        Raises RuntimeError once the next step has begun.
        """
        return self._copy("ema", lambda state: state.ema)

    def log(self, values: Mapping[str, float]) -> None:
        """Write numbers of this step, by their names, to metrics.jsonl and the trackers: `step.log(measure(step))`.

        Raises UsageError for what is not a number.
        """
        numbers = _numbers(values)
        if self._recorder is not None and numbers:
            self._recorder.write(self.step, **numbers)

    def log_images(self, pictures: Mapping[str, Picture]) -> None:
        """Give the trackers uint8 pictures of this step (height, width, 1 or 3), by their names.

        Raises UsageError for what is none.
        """
        for name, picture in pictures.items():
            array = np.asarray(picture)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3):
                raise UsageError(
                    f"{name} is {array.dtype} {array.shape}; give a uint8 picture (height, width, 1 or 3)."
                )
        if self._recorder is not None:
            self._recorder.trackers.log_images(self.step, {name: np.asarray(one) for name, one in pictures.items()})

    def save(self) -> None:
        """Save this step as a checkpoint, in the background, unless it is one; in every process of a run.

        Raises RuntimeError once the next step has begun, CheckpointError when this save, or the one before, failed.
        """
        self._living("save")
        if not self._saved:
            self._save(self.held_out_loss)
            self._saved = self.is_checkpoint = True

    def end(self) -> None:
        """Let go of the state, whose arrays the next step takes."""
        self._state = None

    def __repr__(self) -> str:
        loss = f", loss {self.loss:.4g}" if "records" in self.__dict__ else ""  # a look does not wait for the device
        saved = ", checkpoint" if self.is_checkpoint else ""
        return f"Step({self.step} of {self.setting.config.training.steps}{loss}{saved})"

    def _copy(self, name: str, part: Callable[[TrainState], Any]) -> Any:
        return self._whole(part(self._living(name)))

    def _living(self, name: str) -> TrainState:
        if self._state is None:
            raise RuntimeError(f"step {self.step} is over; use its {name} in the loop's body, before the next step.")
        return self._state


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """`values` as Python numbers. Raises UsageError for what is none."""
    if not isinstance(values, Mapping):
        raise UsageError(f"a measure gives {values!r}; give a dictionary of numbers, such as {{'accuracy': 0.5}}.")
    found = {}
    for name, value in values.items():
        array = np.asarray(value)
        if not isinstance(name, str) or name == "step" or array.size != 1 or array.dtype.kind not in "biuf":
            raise UsageError(f"a measure gives {name!r} as {value!r}; give a number, by a name that is not step.")
        found[name] = array.item()
    return found
