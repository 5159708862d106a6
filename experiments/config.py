"""The configuration of a run: one tree of frozen dataclasses, written to `config.json` and read back exactly.

The nouns of the core are their own configuration: `schedule=VP(beta_max=10.0)` is both the field and the object.
A node that can be one of several types (schedule, noise, network, weighting, times) is chosen by name on the
command line, `--schedule vp --schedule.beta-max 10`, and carries its type's name in the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_type_hints

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
from experiments.errors import CheckpointError, UsageError, did_you_mean
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


# Every type that may stand at a node of several types, and every nested one, by name.
TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(VP, SubVP, Cosine, VE, EDM, RectifiedFlow, Chain),
        *(Gaussian, StudentT, UNetConfig, DiTConfig, MLPConfig, Preconditioning),
        *(EDMWeighting, SNRWeighting, MinSNRWeighting, UniformWeighting, LikelihoodWeighting, VelocityWeighting),
        *(LogNormalSigma, UniformTime, ImportanceConfig),
        *(DataConfig, OptimizerConfig, EMAConfig, TrainingConfig, SamplingConfig, Config),
    )
}


def to_json(node: Any) -> Any:
    """A configuration as JSON values; each dataclass carries its type's name under "type"."""
    if dataclasses.is_dataclass(node):
        fields = {field.name: to_json(getattr(node, field.name)) for field in dataclasses.fields(node)}
        return {"type": type(node).__name__, **fields}
    if isinstance(node, (tuple, list)):
        return [to_json(item) for item in node]
    return node


def from_json(value: Any, where: str = "configuration") -> Any:
    """The configuration that `to_json` wrote; exact, floats included.

    Raises CheckpointError naming the field when a type or a field is not known to this version.
    """
    if isinstance(value, list):
        return tuple(from_json(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    cls = TYPES.get(value.get("type", ""))
    if cls is None:
        raise CheckpointError(f"{where}: unknown type {value.get('type')!r}; it was written by another version.")
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - known - {"type"})
    if unknown:
        raise CheckpointError(f"{where}: unknown field {unknown[0]!r}; it was written by another version.")
    fields = {name: from_json(item, f"{where}.{name}") for name, item in value.items() if name != "type"}
    for name, wanted in get_type_hints(cls).items():
        if name in fields and not _is_a(fields[name], wanted):
            raise CheckpointError(
                f"{where}.{name} is {fields[name]!r}, which is no {wanted.__name__}; restore the file."
            )
    try:
        return cls(**fields)
    except (TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def _is_a(value: Any, wanted: Any) -> bool:
    """Whether a JSON value may stand for a plain type; of others nothing is known here."""
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted) if wanted in (str, bool) else True


def save_config(config: Config, path: Path) -> None:
    """Write `config` as JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(to_json(config), indent=2) + "\n")
    temporary.replace(path)


def load_config(path: Path) -> Config:
    """Read what `save_config` wrote.

    Raises CheckpointError when the file is missing, is not JSON, or was written by another version.
    """
    try:
        config = from_json(json.loads(path.read_text()), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} does not exist; --run takes the folder that `scorefield train` wrote.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); mend it, or give another folder.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore it or train anew.") from None
    if not isinstance(config, Config):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, not a run's configuration.")
    return config
