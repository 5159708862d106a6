"""The parts of a configuration that are not nouns of the core, as frozen dataclasses.

A constructor takes every value, so that a configuration can be put together in any order. `refusals` lists the values
that a part cannot have, and `checks.check` asks every part for them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from experiments.config.chain import Chain as Chain
from experiments.errors import Refusals
from experiments.names import unknown
from samplers.registry import GRIDS, SAMPLERS

LAST_SEED = 2**32 - 1
"""The largest seed that a new run may have: a larger one has the first weights and the noise of one of these."""
WIDEST = 12**-0.5
"""The largest relative width of a power-function average, 0.2887: that of the plain mean of all parameters so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceConfig:
    """Times drawn in proportion to the root-mean-square loss, learned while training."""

    bins: int = 64
    """Number of equal bins into which the range of times is divided."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising:
    """The network is a denoiser, trained by denoising score matching."""

    reference: int = 0
    """Number of reference images for a stable target: the mean of x_0 given x_t over these and the noised image, in the
    place of the noised image alone; 0 is off."""

    def refusals(self) -> Refusals:
        """A negative number of images."""
        return [(self.reference < 0, f"--objective.reference is {self.reference}; give 0 (off) or a number of images.")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """The network makes an image in one call; two density estimators, trained alongside, tell how its images differ."""

    sigma: float = 0.5
    """Smallest noise level at which its images are compared with the data."""
    sigma_max: float = 3.0
    """Largest noise level at which they are compared, coarse before fine; equal to the smallest for a single level."""
    every: int = 2
    """Steps of the estimators for each step of the generator."""
    learning_rate: float = 2e-4
    """Peak learning rate of the generator, below the estimators' so that they can keep up with it."""

    def refusals(self) -> Refusals:
        """Values that no generator can be trained with, whatever its schedule."""
        return [
            (self.every < 1, f"--objective.every is {self.every}; give at least 1."),
            (
                not 0 < self.learning_rate < math.inf,
                f"--objective.learning-rate is {self.learning_rate}; give a positive number.",
            ),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMap:
    """The network is a flow map, G(x, t, s): a denoiser where the times meet, and samples in one or a few calls."""

    loss: Literal["meanflow", "shortcut", "consistency"] = "meanflow"
    """What makes it one: MeanFlow's identity, the mean of two half steps, or (from t to the data alone) the consistency
    of where a path ends, in continuous time."""
    together: float = 0.5
    """Part of a batch with s = t, for which the loss is a denoiser's."""
    to_data: float = 0.25
    """Part of the others with s = 0; for the rest s is drawn like t, and is the smaller of the two."""
    power: float = 0.5
    """p of the weight 1/(loss + 0.001)^p, by which large losses count less; 0 is the plain mean."""
    tangent: float = 0.1
    """c of the tangent g/(|g| + c), at most 1, by which consistency moves; 0 is the tangent itself."""

    def refusals(self) -> Refusals:
        """Numbers that are no parts, and powers that would turn the loss around."""
        return [
            (
                not 0 <= self.together < 1,
                f"--objective.together is {self.together:g}; give a part of the batch from 0 to below 1.",
            ),
            (not 0 <= self.to_data <= 1, f"--objective.to-data is {self.to_data:g}; give a part from 0 to 1."),
            (not 0 <= self.power <= 1, f"--objective.power is {self.power:g}; give 0 (the plain mean) to 1."),
            (not 0 <= self.tangent < math.inf, f"--objective.tangent is {self.tangent:g}; give 0 or more."),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimiser by its name, with warm-up and decay, on gradients clipped by their global norm."""

    name: Literal["adamw", "muon", "schedule-free"] = "adamw"
    """AdamW; Muon for the matrices of the hidden layers, with AdamW for all else; or schedule-free AdamW, which
    averages instead of a decay."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 200
    """Steps of linear warm-up from 0."""
    decay: Literal["constant", "cosine", "linear", "inverse-sqrt"] = "constant"
    """Course of the learning rate after the warm-up: cosine and linear reach 0 at the last step, inverse-sqrt is
    1/√(n/reference) from step n = reference on."""
    reference_steps: int = 1000
    """Steps after which an inverse-sqrt decay begins."""
    cooldown_steps: int = 0
    """Last steps, in which the learning rate falls to 0 whatever its decay; 0 turns the cool-down off."""
    cooldown: Literal["linear", "1-sqrt"] = "linear"
    """Shape of the cool-down: 1 − s or 1 − √s, s the part of it that is over."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    b1: float = 0.9
    """Adam's β₁; of schedule-free, how far the gradient's point is towards the average."""
    b2: float = 0.99
    """Adam's β₂."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon's matrices; `learning_rate` is that of all else."""
    muon_momentum: float = 0.95
    """Muon's momentum, Nesterov's."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    accumulate: int = 1
    """Micro-batches whose gradients are averaged for one update; it must divide each device's share of the batch."""

    @property
    def falls_to_the_end(self) -> bool:
        """Whether the learning rate depends on the number of steps of the training."""
        return self.decay in ("cosine", "linear") or self.cooldown_steps > 0

    def refusals(self) -> Refusals:
        """Values that no optimiser has, and values that would have no effect."""
        return [
            (self.accumulate < 1, f"--optimizer.accumulate is {self.accumulate}; give at least 1."),
            (
                not 0 < self.learning_rate < math.inf,
                f"--optimizer.learning-rate is {self.learning_rate}; give a positive number.",
            ),
            (
                not (0 <= self.b1 < 1 and 0 <= self.b2 < 1),
                f"--optimizer.b1 {self.b1} and --optimizer.b2 {self.b2} must be in [0, 1).",
            ),
            (
                not (self.clip_norm >= 0 and self.weight_decay >= 0),
                "--optimizer.clip-norm and --optimizer.weight-decay must be 0 (off) or more.",
            ),
            (self.warmup_steps < 0, f"--optimizer.warmup-steps is {self.warmup_steps}; give 0 or more."),
            *self._refused_courses(),
            *self._refused_by_name(),
        ]

    def _refused_courses(self) -> Refusals:
        return [
            (self.reference_steps < 1, f"--optimizer.reference-steps is {self.reference_steps}; give at least 1."),
            (
                self.decay != "inverse-sqrt" and self.reference_steps != type(self).reference_steps,
                f"--optimizer.reference-steps {self.reference_steps} goes with --optimizer.decay inverse-sqrt, and the "
                f"decay is {self.decay}; leave it out.",
            ),
            (self.cooldown_steps < 0, f"--optimizer.cooldown-steps is {self.cooldown_steps}; give 0 (off) or more."),
            (
                self.cooldown_steps == 0 and self.cooldown != type(self).cooldown,
                f"--optimizer.cooldown {self.cooldown} does nothing by itself; add --optimizer.cooldown-steps.",
            ),
        ]

    def _refused_by_name(self) -> Refusals:
        free, muon = self.name == "schedule-free", self.name == "muon"
        named = [(field, getattr(self, field)) for field in ("muon_learning_rate", "muon_momentum")]
        return [
            *(
                (
                    not muon and value != getattr(type(self), field),
                    f"--optimizer.{field.replace('_', '-')} {value} goes with --optimizer.name muon, and the name is "
                    f"{self.name}; leave it out.",
                )
                for field, value in named
            ),
            (
                not 0 < self.muon_learning_rate < math.inf,
                f"--optimizer.muon-learning-rate is {self.muon_learning_rate}; give a positive number.",
            ),
            (
                not 0 <= self.muon_momentum < 1,
                f"--optimizer.muon-momentum is {self.muon_momentum}; give a number in [0, 1).",
            ),
            (
                free and (self.decay != "constant" or self.cooldown_steps > 0),
                "--optimizer.name schedule-free averages instead of a decay; give --optimizer.decay constant and "
                "--optimizer.cooldown-steps 0.",
            ),
            (
                free and self.b1 == 0,
                "--optimizer.b1 is 0, with which schedule-free cannot tell its average; give 0.9, say.",
            ),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Averages of the parameters: exponential ones, one for each decay, and then power-function ones."""

    decays: tuple[float, ...] = (0.999,)
    """Decay of each average; samples are drawn with the first."""
    warmup: bool = True
    """Plain averaging at the start: the decay at update n is min(decay, (1 + n)/(10 + n))."""
    sigma_rel: tuple[float, ...] = ()
    """Relative width of each power-function average, kept beside the others. [0.05, 0.10 with snapshots, else none]"""
    snapshot_every: int = 0
    """Steps between snapshots of these averages, from which `scorefield ema` makes those of other widths; 0 is off."""
    snapshot_precision: Literal["float16", "float32"] = "float16"
    """Type of the numbers in a snapshot."""

    @property
    def widths(self) -> tuple[float, ...]:
        """The relative widths of the power-function averages that are kept."""
        return self.sigma_rel or ((0.05, 0.10) if self.snapshot_every > 0 else ())

    def refusals(self) -> Refusals:
        """Decays and widths that no average has, and values that would have no effect."""
        return [
            (
                not self.decays or not all(0 <= decay < 1 for decay in self.decays),
                f"--ema.decays is {self.decays}; give one or more decays in [0, 1), such as 0.999.",
            ),
            (
                not all(0 < width <= WIDEST for width in self.sigma_rel)
                or len({*self.sigma_rel}) < len(self.sigma_rel),
                f"--ema.sigma-rel is {self.sigma_rel}; give different widths above 0 and up to {WIDEST:.4f}, such as "
                "0.05,0.10.",
            ),
            (self.snapshot_every < 0, f"--ema.snapshot-every is {self.snapshot_every}; give 0 (off) or more."),
            (
                self.snapshot_every == 0 and self.snapshot_precision != type(self).snapshot_precision,
                f"--ema.snapshot-precision {self.snapshot_precision} does nothing without snapshots; add "
                "--ema.snapshot-every.",
            ),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, batch size and bookkeeping."""

    steps: int = 10_000
    """Number of parameter updates."""
    batch_size: int = 128
    """Images in a batch, across all devices and hosts."""
    seed: int = 0
    """Seed of the run; step n depends on (seed, n) alone."""
    steps_per_dispatch: int = 1
    """Updates in one call to the device; more than 1 speeds up small models on accelerators, and slows down CPUs."""
    log_every: int = 50
    """Steps between lines of metrics."""
    validate_every: int = 1000
    """Steps between measurements of the held-out loss; 0 turns them off."""
    stop_after: int = 0
    """Measurements without a lower held-out loss after which the run ends early; each lowest one is then a checkpoint,
    which --best takes. 0 never ends it."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_last: int = 3
    """Number of newest checkpoints to keep."""
    keep_best: int = 1
    """Number of checkpoints with the lowest held-out loss to keep as well."""
    sample_every: int = 0
    """Steps between pictures of samples; 0 turns them off."""
    tensorboard: bool = False
    """Write TensorBoard event files too (needs the `tensorboard` extra)."""

    def refusals(self) -> Refusals:
        """Counts that no training has."""
        return [
            (self.steps < 1, f"--training.steps is {self.steps}; give at least 1."),
            (self.batch_size < 1, f"--training.batch-size is {self.batch_size}; give at least 1."),
            (self.steps_per_dispatch < 1, "--training.steps-per-dispatch must be at least 1."),
            (self.log_every < 1, f"--training.log-every is {self.log_every}; give at least 1."),
            (self.checkpoint_every < 1, f"--training.checkpoint-every is {self.checkpoint_every}; give at least 1."),
            (self.keep_best < 0, f"--training.keep-best is {self.keep_best}; give 0 or more."),
            (not 0 <= self.seed < 2**63, f"--training.seed is {self.seed}; give 0 to {LAST_SEED}."),
            (
                min(self.validate_every, self.sample_every) < 0,
                "--training.validate-every and --training.sample-every must be 0 (off) or more.",
            ),
            (self.stop_after < 0, f"--training.stop-after is {self.stop_after}; give 0 (off) or more."),
            (
                self.stop_after > 0 and min(self.validate_every, self.keep_best) < 1,
                f"--training.stop-after {self.stop_after} goes by the held-out loss and keeps the best checkpoint; "
                "give --training.validate-every and --training.keep-best of 1 or more.",
            ),
            (self.keep_last < 1, f"--training.keep-last is {self.keep_last}; a run needs at least one to resume."),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How this run is sampled by default."""

    sampler: str = "heun"
    """Name of the sampler; `scorefield samplers` lists them."""
    steps: int = 18
    """Number of steps of the grid."""
    grid: str = "auto"
    """Name of the time grid; auto is the usual one for the sampler and the process."""
    offset: int = 0
    """Times of the chain by which that grid is moved towards the prior."""
    last: int = 0
    """Time of the chain at which that grid ends; 0 is that of the data."""
    variance: Literal["auto", "small", "large"] = "auto"
    """Variance of ancestral steps: auto is the learned one where there is one, else small (β̃)."""
    clip: Literal["no", "range", "dynamic"] = "no"
    """Whether the model's answers are kept within the range of images: pixel by pixel (range) or image by image
    (dynamic)."""
    clip_range: float = 1.0
    """c of the range [−c, c]."""
    percentile: float = 99.5
    """Percentile of the pixels that dynamic clipping divides by."""

    def refusals(self) -> Refusals:
        """Names that do not exist, and numbers of steps that no grid has."""
        return [
            (self.steps < 1, f"--sampling.steps is {self.steps}; give at least 1."),
            unknown("--sampling.sampler", self.sampler, SAMPLERS),
            unknown("--sampling.grid", self.grid, ("auto", *GRIDS)),
            (self.offset < 0, f"--sampling.offset is {self.offset}; give 0 or more."),
            (self.last not in (0, 1), f"--sampling.last is {self.last}; give 0, the data, or 1, the first noise."),
            (
                not 0 < self.clip_range < math.inf,
                f"--sampling.clip-range is {self.clip_range}; give a positive number, such as 1.",
            ),
            (
                not 0 <= self.percentile <= 100,
                f"--sampling.percentile is {self.percentile:g}; give a number of percent, such as 99.5.",
            ),
        ]
