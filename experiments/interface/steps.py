"""Training as a loop in Python, whose steps can be sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.config.tree import Config
from experiments.interface.run import Run
from experiments.runs.model import Model
from experiments.training import loop, progress
from experiments.training.data import RunData
from experiments.training.ema import place_of

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
) -> Training[Step]:
    """Train `config` in the folder `outdir`, or go on with the training that is there, as an iterator over its steps.

        for step in training(preset("digits-ddpm"), "runs/digits"):
            if step.step % 100 == 0:
                print(step.step, step.loss)

    The parameters are those of `scorefield train`, to the bit; what the loop's body does has no part in them. Leaving
    the loop early saves the step that the body saw last, and the same call goes on from there. All else is as in
    `experiments.training.loop.training`, errors included.
    """
    return loop.training_with(Step, config, outdir, data, devices, quiet, signals, restart)
