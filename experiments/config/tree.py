"""The configuration of a run: one tree of frozen dataclasses, written to `config.json` and read back exactly.

The nouns of the core are their own configuration: `schedule=VP(beta_max=10.0)` is both the field and the object.
A node that can be one of several types (schedule, noise, network, weighting, times, objective) is chosen by name on
the command line, `--schedule vp --schedule.beta-max 10`, and carries its type's name in the file. Both names follow
from the hints of `Config` (see `choices`).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from diffusion import noises, schedules
from diffusion.networks import configs as networks
from diffusion.networks import edm_configs, unet2d_config
from diffusion.prediction import Preconditioning
from diffusion.process import Process
from diffusion.score_matching import times as laws
from diffusion.score_matching import weightings
from experiments.config.augment import AugmentConfig
from experiments.config.nodes import (
    Chain,
    Denoising,
    EMAConfig,
    FlowMap,
    Generator,
    ImportanceConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
)
from experiments.config.told import MeasureConfig, TrackingConfig
from experiments.data.config import DataConfig
from experiments.errors import Refusals

# The types that may stand at each node, listed here alone: a new one is a class and a line.
AnySchedule = (
    schedules.VP | schedules.SubVP | schedules.Cosine | schedules.VE | schedules.EDM | schedules.RectifiedFlow | Chain
)
AnyNoise = noises.Gaussian | noises.StudentT
AnyNetwork = (
    networks.UNetConfig
    | networks.DiTConfig
    | networks.MLPConfig
    | networks.JiTConfig
    | edm_configs.SongUNetConfig
    | edm_configs.DhariwalUNetConfig
    | unet2d_config.UNet2DConfig
)
AnyWeighting = (
    weightings.EDMWeighting
    | weightings.SNRWeighting
    | weightings.MinSNRWeighting
    | weightings.UniformWeighting
    | weightings.LikelihoodWeighting
    | weightings.VelocityWeighting
    | weightings.VWeighting
)
AnyTimes = laws.LogNormalSigma | laws.LogUniformSigma | laws.UniformTime | ImportanceConfig
AnyObjective = Denoising | Generator | FlowMap


def changed(self: object) -> str:
    """The repr of a dataclass that names the fields alone which are not as by default, in its parts too.

    It makes the same object when it is evaluated.
    """
    shown = []
    for field in dataclasses.fields(self):  # type: ignore[arg-type]
        value = getattr(self, field.name)
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.repr and repr(value) != repr(made):
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            shown.append(f"{field.name}={changed(value) if nested else repr(value)}")
    return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run."""

    __repr__ = changed

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = AugmentConfig()
    schedule: AnySchedule = schedules.EDM()
    noise: AnyNoise = noises.Gaussian()
    network: AnyNetwork = dataclasses.field(default_factory=networks.UNetConfig)
    preconditioning: Preconditioning = Preconditioning()
    weighting: AnyWeighting = weightings.EDMWeighting()
    times: AnyTimes = laws.LogNormalSigma()
    sigma_data: Literal["given", "auto"] = "given"
    """auto measures the standard deviation of the training data, as a run begins, and writes it where preconditioning
    and weighting have `sigma_data` as by default; --preconditioning.sigma-data auto says the same."""
    draw: Literal["low_discrepancy", "antithetic", "independent"] = "low_discrepancy"
    """Way in which the uniform numbers behind the times are drawn."""
    objective: AnyObjective = Denoising()
    conservative: bool = False
    """Answer with the gradient of a scalar, so that the score is a density's; a generator's estimators always do."""
    learned_variance: bool = False
    """Learn the reverse variance too, by the hybrid loss and whatever the weighting; for the discrete chain."""
    conditional: bool = False
    """Condition on the class labels of the data."""
    label_dropout: float = 0.1
    """Fraction of the labels that training replaces by "no class", which makes guidance possible."""
    parallel: Literal["data", "fsdp"] = "data"
    """How a run is spread over several devices: the state whole on each, or (fsdp) cut among them, for large models."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EMAConfig = EMAConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    measure: MeasureConfig = MeasureConfig()
    tracking: TrackingConfig = TrackingConfig()

    def refusals(self) -> Refusals:
        """Values of its own that cannot be trained; those of its parts, and their combinations, are in `checks`."""
        return [
            (
                not 0 <= self.label_dropout <= 1,
                f"--label-dropout is {self.label_dropout}; it is a fraction between 0 and 1.",
            )
        ]

    def process(self) -> Process:
        """x_t = α x_0 + σ z of this run."""
        schedule: schedules.Schedule = self.schedule.build() if isinstance(self.schedule, Chain) else self.schedule
        return Process(schedule, self.noise)
