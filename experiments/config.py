"""The configuration of a run: one tree of frozen dataclasses, written to `config.json` and read back exactly.

The nouns of the core are their own configuration: `schedule=VP(beta_max=10.0)` is both the field and the object.
A node that can be one of several types (schedule, noise, network, weighting, times) is chosen by name on the
command line, `--schedule vp --schedule.beta-max 10`, and carries its type's name in the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

from diffusion.betas import Betas
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.noises import Gaussian, StudentT
from diffusion.prediction import Preconditioning
from diffusion.process import Process
from diffusion.schedules import EDM, VE, VP, Cosine, RectifiedFlow, Schedule, SubVP
from diffusion.time_distributions import LogNormalSigma, UniformTime
from diffusion.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityWeighting,
)
from experiments.data.config import DataConfig
from experiments.errors import UsageError, did_you_mean
from samplers.registry import GRIDS, SAMPLERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
    """The discrete chain of DDPM, `Betas`, by its constructor."""

    shape: Literal["linear", "cosine", "ramp"] = "linear"
    """How β_t grows: linear (Ho et al.), cosine (Nichol & Dhariwal) or a ramp from zero."""
    steps: int = 1000
    """T, the length of the chain."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"--schedule.steps is {self.steps}; the chain needs at least one step.")

    def build(self) -> Betas:
        """The chain's schedule."""
        return {"linear": Betas.linear, "cosine": Betas.cosine, "ramp": Betas.ramp}[self.shape](self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceConfig:
    """Times drawn in proportion to the root-mean-square loss, learned while training."""

    bins: int = 64
    """Number of equal bins of the base distribution, uniform in t."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up and decay, after clipping by the global norm."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 200
    """Steps of linear warm-up from 0."""
    decay: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate goes on after the warm-up; cosine and linear end at 0 with the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    b1: float = 0.9
    """Adam's β₁."""
    b2: float = 0.99
    """Adam's β₂."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    accumulate: int = 1
    """Micro-batches whose gradients are averaged before one update; it divides each device's share of the batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Exponential moving averages of the parameters, one for each decay."""

    decays: tuple[float, ...] = (0.999,)
    """Decay of each average; the first is the one that samples are drawn with."""
    warmup: bool = True
    """Start as the plain average: the decay at update n is min(decay, (1 + n)/(10 + n))."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, batch, bookkeeping."""

    steps: int = 10_000
    """Parameter updates in all."""
    batch_size: int = 128
    """Images in the global batch, over all devices and hosts."""
    seed: int = 0
    """Step n depends on (seed, n) alone."""
    steps_per_dispatch: int = 1
    """Updates in one call to the device; more than 1 helps small models on accelerators, and hurts on CPU."""
    log_every: int = 50
    """Steps between lines of metrics."""
    validate_every: int = 1000
    """Steps between losses on held-out data; 0 turns them off."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is always written at the end."""
    keep_last: int = 3
    """Newest checkpoints to keep."""
    keep_best: int = 1
    """Checkpoints of the lowest held-out loss to keep besides."""
    sample_every: int = 0
    """Steps between grids of samples; 0 turns them off."""
    tensorboard: bool = False
    """Write TensorBoard event files too (needs the `tensorboard` extra)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How this run is sampled when nothing else is said."""

    sampler: str = "heun"
    """Name of the sampler; `scorefield samplers` lists them."""
    steps: int = 18
    """Steps of the grid."""
    grid: str = "auto"
    """Name of the time grid; auto is the sampler's usual one for the process."""


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
    times: LogNormalSigma | UniformTime | ImportanceConfig = LogNormalSigma()
    draw: Literal["low_discrepancy", "antithetic", "independent"] = "low_discrepancy"
    """How the uniforms behind the times are drawn."""
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
        for refused, sentence in _refusals(self):
            if refused:
                raise UsageError(sentence)

    def process(self) -> Process:
        """x_t = α x_0 + σ z of this run."""
        schedule: Schedule = self.schedule.build() if isinstance(self.schedule, Chain) else self.schedule
        return Process(schedule, self.noise)


Refusals = list[tuple[bool, str]]
"""(Whether refused, the sentence)."""


def _refusals(config: Config) -> Refusals:
    """Every value or combination of values that cannot be trained."""
    return _refused_counts(config) + _refused_numbers(config) + _refused_combinations(config)


def _unknown(flag: str, name: str, names: Iterable[str]) -> tuple[bool, str]:
    known = list(names)
    near = did_you_mean(name, known)
    return name.replace(
        "_", "-"
    ).lower() not in known, f"{flag} {name} does not exist{near}; choose {', '.join(known)}."


def _refused_counts(config: Config) -> Refusals:
    training, optimizer = config.training, config.optimizer
    return [
        (training.steps < 1, f"--training.steps is {training.steps}; give at least 1."),
        (training.batch_size < 1, f"--training.batch-size is {training.batch_size}; give at least 1."),
        (training.steps_per_dispatch < 1, "--training.steps-per-dispatch must be at least 1."),
        (training.log_every < 1, f"--training.log-every is {training.log_every}; give at least 1."),
        (
            training.checkpoint_every < 1,
            f"--training.checkpoint-every is {training.checkpoint_every}; give at least 1.",
        ),
        (training.keep_best < 0, f"--training.keep-best is {training.keep_best}; give 0 or more."),
        (training.seed < 0, f"--training.seed is {training.seed}; give 0 or more."),
        (
            min(training.validate_every, training.sample_every) < 0,
            "--training.validate-every and --training.sample-every must be 0 (off) or more.",
        ),
        (config.sampling.steps < 1, f"--sampling.steps is {config.sampling.steps}; give at least 1."),
        _unknown("--sampling.sampler", config.sampling.sampler, SAMPLERS),
        _unknown("--sampling.grid", config.sampling.grid, ("auto", *GRIDS)),
        (training.keep_last < 1, f"--training.keep-last is {training.keep_last}; a run needs at least one to resume."),
        (optimizer.accumulate < 1, f"--optimizer.accumulate is {optimizer.accumulate}; give at least 1."),
        (
            training.batch_size % max(optimizer.accumulate, 1) != 0,
            f"--training.batch-size {training.batch_size} is not a multiple of --optimizer.accumulate "
            f"{optimizer.accumulate}; choose one that divides the other.",
        ),
    ]


def _refused_numbers(config: Config) -> Refusals:
    optimizer = config.optimizer
    return [
        (
            not 0 < optimizer.learning_rate < math.inf,
            f"--optimizer.learning-rate is {optimizer.learning_rate}; give a positive number.",
        ),
        (
            not (0 <= optimizer.b1 < 1 and 0 <= optimizer.b2 < 1),
            f"--optimizer.b1 {optimizer.b1} and --optimizer.b2 {optimizer.b2} must be in [0, 1).",
        ),
        (
            not (optimizer.clip_norm >= 0 and optimizer.weight_decay >= 0),
            "--optimizer.clip-norm and --optimizer.weight-decay must be 0 (off) or more.",
        ),
        (optimizer.warmup_steps < 0, f"--optimizer.warmup-steps is {optimizer.warmup_steps}; give 0 or more."),
        (
            not config.ema.decays or not all(0 <= decay < 1 for decay in config.ema.decays),
            f"--ema.decays is {config.ema.decays}; give one or more decays in [0, 1), such as 0.999.",
        ),
        (
            not 0 <= config.label_dropout <= 1,
            f"--label-dropout is {config.label_dropout}; it is a fraction between 0 and 1.",
        ),
    ]


def _refused_combinations(config: Config) -> Refusals:
    discrete = isinstance(config.schedule, Chain)
    return [
        (
            config.learned_variance and not discrete,
            f"--learned-variance goes with --schedule chain, and the schedule is {type(config.schedule).__name__}.",
        ),
        (config.learned_variance and isinstance(config.noise, StudentT), "--learned-variance needs --noise gaussian."),
        (
            config.learned_variance and config.preconditioning.kind == "edm",
            "--learned-variance goes with a plain prediction; add --preconditioning.kind eps.",
        ),
        (
            discrete and config.preconditioning.kind == "velocity",
            "--preconditioning.kind velocity needs a derivative in t, and a chain has none; use eps, x0 or v.",
        ),
        (
            discrete and isinstance(config.weighting, (VelocityWeighting, LikelihoodWeighting)),
            f"--weighting {type(config.weighting).__name__} needs a derivative in t, and a chain has none; use snr.",
        ),
        (
            isinstance(config.noise, StudentT)
            and (config.preconditioning.kind == "score" or isinstance(config.weighting, LikelihoodWeighting)),
            "--noise student_t has no score and no likelihood weighting; use another prediction and weighting.",
        ),
        (
            config.preconditioning.kind in ("eps", "score") and isinstance(config.schedule, (RectifiedFlow, Cosine)),
            f"--preconditioning.kind {config.preconditioning.kind} does not determine the image at the prior of "
            f"{type(config.schedule).__name__}, where there is none in x_t; use velocity, v or x0.",
        ),
        (
            config.preconditioning.kind == "edm" and isinstance(config.schedule, (RectifiedFlow, Cosine)),
            f"--preconditioning.kind edm is told ln(σ/α), which is infinite at the prior of "
            f"{type(config.schedule).__name__}; use velocity, v or x0.",
        ),
    ]
