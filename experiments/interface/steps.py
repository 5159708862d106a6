"""Training as a loop in Python, whose steps can be sampled."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.evaluation.along import measures_of
from experiments.interface.run import Run
from experiments.runs.model import Model
from experiments.tracking.tracker import Tracker
from experiments.training import loop, progress
from experiments.training.data import RunData
from experiments.training.ema import place_of
from experiments.training.warm_start import InitFrom

Training = loop.Training


class Step(progress.Step):
    """A step of a training, with the model that it has come to."""

    def model(self, average: int | float | None = 0) -> Model:
        """The network with the averaged parameters of this number or relative width, or with the raw ones for None.

        Raises IndexError for an average that there is none of, RuntimeError once the next step has begun.
        """
        setting = self.setting
        number = place_of(setting.config.ema, average) if isinstance(average, float) else average
        if average is not None and number is None:
            raise IndexError(f"no average of relative width {average} is kept; there are {setting.config.ema.widths}.")
        params = self.params if number is None else self.ema[number]
        return Model(setting.config, setting.facts, setting.network, params, step=self.step, average=average)

    def run(self, average: int | float | None = 0) -> Run:
        """This step as a run that can be sampled and measured: `step.run().sample(range(16))`. Raises as `model`."""
        return Run(self.model(average), self.setting.outdir)


def training(
    config: Config,
    outdir: Path | str,
    *,
    data: RunData | None = None,
    devices: tuple[Any, ...] | None = None,
    quiet: bool = True,
    signals: bool = False,
    restart: bool = False,
    init_from: Path | str | Run | None = None,
    init_average: int | None = 0,
    trackers: Iterable[Tracker] = (),
) -> Training[Step]:
    """Train `config` in the folder `outdir`, or go on with the training that is there, as an iterator over its steps.

        for step in training(preset("digits-ddpm"), "runs/digits"):
            if step.step % 100 == 0:
                print(step.step, step.loss)

    The parameters are those of `scorefield train`, to the bit; what the loop's body does has no part in them. Leaving
    the loop early saves the step that the body saw last, and the same call goes on from there.

    With `init_from`, the folder of a run or of one of its checkpoints, a new training begins from the parameters of
    that one, `init_average` being the number of an average or None for the raw ones; of a `Run` that was loaded they
    are its own. The `trackers`, objects with the methods of `Tracker`, are told of the losses, of what the
    configuration has measured, and of what the body gives to `step.log` and `step.log_images`. All else is as in
    `experiments.training.loop.training`, errors included.
    """
    init = _init_from(init_from, init_average)
    given = loop.Options(data, devices, quiet, signals, restart, init, tuple(trackers), measures_of)
    return loop.training_with(Step, config, outdir, given)


def _init_from(given: Path | str | Run | None, average: int | None) -> InitFrom | None:
    """Raises UsageError for what is neither a place nor a run that was loaded from one."""
    if given is None:
        return None
    if isinstance(given, Run):
        if given.model.path is None:
            raise UsageError(f"init_from is {given!r}, which is no checkpoint yet; save its step, and give the folder.")
        if isinstance(given.model.average, float):
            raise UsageError(
                f"init_from is a run with average {given.model.average}, which was made after training; load it with "
                "the number of one that is kept, such as average=0."
            )
        return InitFrom(given.model.path, given.model.average)
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise UsageError(f"init_from is {given!r}; give the folder of a run, or a run that was loaded.")
    if not (average is None or (hasattr(average, "__index__") and not isinstance(average, bool))):
        raise UsageError(f"init_average is {average!r}; give its number, counted from 0, or None for the raw ones.")
    return InitFrom(Path(given), average)
