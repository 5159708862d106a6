"""The configuration of a run: one tree of frozen dataclasses, written to `config.json` and read back exactly.

The nouns of the core are their own configuration: `schedule=VP(beta_max=10.0)` is both the field and the object.
A node that can be one of several types (schedule, noise, network, weighting, times) is chosen by name on the
command line, `--schedule vp --schedule.beta-max 10`, and carries its type's name in the file.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.noises import Gaussian, StudentT
from diffusion.prediction import Preconditioning
from diffusion.process import Process
from diffusion.schedules import EDM, VE, VP, Cosine, RectifiedFlow, Schedule, SubVP
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma, UniformTime
from diffusion.score_matching.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityWeighting,
)
from experiments.config.checks import refusals
from experiments.config.nodes import (
    Chain,
    Denoising,
    EMAConfig,
    Generator,
    ImportanceConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
)
from experiments.data.config import DataConfig
from experiments.errors import UsageError

__all__ = [
    "Chain",
    "Config",
    "DataConfig",
    "Denoising",
    "EMAConfig",
    "Generator",
    "ImportanceConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "TrainingConfig",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    schedule: VP | SubVP | Cosine | VE | EDM | RectifiedFlow | Chain = EDM()
    noise: Gaussian | StudentT = Gaussian()
    network: UNetConfig | DiTConfig | MLPConfig = dataclasses.field(default_factory=UNetConfig)
    preconditioning: Preconditioning = Preconditioning()
    weighting: (
        EDMWeighting | SNRWeighting | MinSNRWeighting | UniformWeighting | LikelihoodWeighting | VelocityWeighting
    ) = EDMWeighting()
    times: LogNormalSigma | LogUniformSigma | UniformTime | ImportanceConfig = LogNormalSigma()
    draw: Literal["low_discrepancy", "antithetic", "independent"] = "low_discrepancy"
    """How the uniforms behind the times are drawn."""
    objective: Denoising | Generator = Denoising()
    conservative: bool = False
    """Answer with the gradient of a scalar, so that the score is that of a density; estimators always do."""
    learned_variance: bool = False
    """Learn the reverse variance too, with the hybrid loss, whatever `weighting` says; for the discrete chain."""
    conditional: bool = False
    """Condition on the class labels of the data."""
    label_dropout: float = 0.1
    """Fraction of labels replaced by «no class» in training, so that guidance is possible."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EMAConfig = EMAConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        for refused, sentence in refusals(self):
            if refused:
                raise UsageError(sentence)

    def process(self) -> Process:
        """x_t = α x_0 + σ z of this run."""
        schedule: Schedule = self.schedule.build() if isinstance(self.schedule, Chain) else self.schedule
        return Process(schedule, self.noise)
