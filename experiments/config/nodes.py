"""The parts of a configuration that are no nouns of the core, each a frozen dataclass."""

from __future__ import annotations

import dataclasses
from typing import Literal

from diffusion.betas import Betas
from experiments.errors import UsageError


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
class Denoising:
    """The network is a denoiser, trained by denoising score matching."""

    reference: int = 0
    """Images of a stable target: the mean of x_0 given x_t over these and the noised image, not the latter alone; 0 is
    off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """The network makes an image in one call; two density estimators, trained beside it, tell how its law differs."""

    sigma: float = 0.5
    """Smallest noise level at which the laws of the images and of the data are compared."""
    sigma_max: float = 3.0
    """Largest of these levels: alike from afar before alike from near; the same as the smallest for one alone."""
    every: int = 2
    """Steps of the estimators to one of the generator."""
    learning_rate: float = 2e-4
    """Peak learning rate of the generator, below the estimators' so that they can follow it."""


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
