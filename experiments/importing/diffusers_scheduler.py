"""A scheduler's configuration of diffusers as a process, a prediction, a range and a grid of ours.

    schedule = read_scheduler(json.load(open("scheduler/scheduler_config.json")))
    denoise = schedule.denoiser(Partial(network, params))
    sample(key, schedule.process, denoise, DDIM(), schedule.grid(20), shape)

diffusers counts the times of a chain 0, ..., T − 1, the noisiest last; here they are 1, ..., T, and 0 is the data. The
network is told t − 1 and sees x as it is. The network of `ScoreSdeVeScheduler` is told σ, which is the time of `EDM`.

What a configuration leaves out is the default of the scheduler that its `_class_name` names, in diffusers 0.42.1. Keys
of other schedulers change nothing there and change nothing here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Learned, ReverseVariance, learned_denoiser
from diffusion.foreign import foreign_denoiser
from diffusion.prediction import Denoiser, Kind, Preconditioning
from diffusion.process import Process
from diffusion.pytree import as_partial
from diffusion.schedules import EDM
from experiments.config.chain import Chain, Shape
from experiments.errors import CheckpointError, UsageError
from experiments.importing.diffusers_options import SCHEDULERS, check_options, known
from samplers.transforms import clipped, dynamically_thresholded

_DROPS_THE_DATA = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
"""Those that space N + 1 times and leave out the one nearest to the data."""
_BETWEEN = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
"""Those whose evenly spaced times are not rounded."""

KINDS: dict[str, Kind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SHAPES: dict[str, Shape] = {
    "linear": "linear",
    "scaled_linear": "scaled-linear",
    "sigmoid": "sigmoid",
    "squaredcos_cap_v2": "cosine",
}
VARIANCES: dict[str, ReverseVariance] = {
    "fixed_small": FixedSmall(),
    "fixed_small_log": FixedSmall(),
    "fixed_large": FixedLarge(),
    "learned_range": Learned(),
}


def _before(t: Array) -> Array:
    return t - 1


@dataclass(frozen=True)
class _Told:
    """A network of a chain of T times as one that is told c_noise = 1000 t/T."""

    length: int

    def __call__(self, network: Partial, x: Array, c_noise: Array, labels: None) -> Array:
        del labels
        return network(x, c_noise * (self.length / 1000) - 1)


@dataclass(frozen=True)
class ImportedSchedule:
    """What a scheduler's configuration says of a network, and how it would space its steps."""

    name: str
    """The scheduler's class."""
    schedule: Chain | EDM
    """The chain, or for ScoreSdeVeScheduler α = 1 and σ = t."""
    kind: Kind
    """What the network answers."""
    clip: float | None
    """c for x̂_0 in [−c, c]; None where it is left as it is."""
    percentile: float | None
    """The percentile of dynamic thresholding, or None."""
    variance: ReverseVariance
    """The variance of ancestral steps."""
    options: Mapping[str, Any]
    """The configuration with its defaults filled in."""

    @functools.cached_property
    def process(self) -> Process:
        """x_t = α x_0 + σ z."""
        return Process(self.schedule.build() if isinstance(self.schedule, Chain) else self.schedule)

    @property
    def is_chain(self) -> bool:
        """Whether time is the integers 1 to T."""
        return isinstance(self.schedule, Chain)

    @property
    def time(self) -> dict[str, float | bool]:
        """The fields of `UNet2DConfig` with which the network is a network like any other, under `preconditioning`.

        A chain's is told t − 1, with c_noise = 1000 t/T; that of ScoreSdeVeScheduler is told σ, with c_noise = ln(σ/2),
        and what it answers is then σ times the score, as "ve" has it.
        """
        if self.is_chain:
            return {"time_factor": float(self.process.t_max) / 1000, "time_offset": -1.0}
        return {"time_is_log": True, "time_offset": math.log(2.0)}

    @property
    def preconditioning(self) -> tuple[str, float]:
        """The kind and σ_d of that `Preconditioning`: with σ_d = 1 the network of a chain sees x as it is."""
        return (self.kind, 1.0) if self.is_chain else ("ve", 1.0)

    def denoiser(self, network: Callable[[Array, Array], Array], *, limited: bool = True) -> Denoiser:
        """E[x_0 | x_t] of `network(x, time)`, told diffusers' time, and kept in the range unless not `limited`.

        Where the variance is `Learned` it is the pair of that and v. Give a `Partial` of the network and its
        parameters, so that others do not recompile.
        """
        if isinstance(self.variance, Learned):
            told = _Told(int(self.process.t_max))
            denoise: Any = learned_denoiser(told, as_partial(network), self.process, Preconditioning(self.kind, 1.0))
        else:
            time = Partial(_before) if self.is_chain else None
            denoise = foreign_denoiser(self.process, network, self.kind, time=time)
        if limited and self.percentile is not None:
            return dynamically_thresholded(denoise, self.percentile)
        return clipped(denoise, -self.clip, self.clip) if limited and self.clip is not None else denoise

    def grid(self, steps: int) -> np.ndarray:
        """The times of the scheduler's spacing for so many steps, descending, then the time at which it ends.

        The end is 0, or 1 where the configuration has the last step end at the chain's first noise. Raises UsageError,
        by name, for a spacing that a chain does not have, and for more steps than it has times.
        """
        if not self.is_chain:
            low, high = float(self.options["sigma_min"]), float(self.options["sigma_max"])
            return np.append(low * (high / low) ** np.linspace(1, float(self.options["sampling_eps"]), steps), 0.0)
        self._check_spacing(steps)
        length, spacing, offset = (
            int(self.process.t_max),
            self.options["timestep_spacing"],
            self.options["steps_offset"],
        )
        more = int(self.drops_the_data)
        if spacing == "leading":
            times = 1 + (more + np.arange(steps)[::-1]) * (length // (steps + more)) + offset
        elif spacing == "linspace":
            even = np.linspace(0, length - 1, steps + more)[::-1][:steps]
            if self.name in _BETWEEN and np.any(even != np.rint(even)):
                raise UsageError(
                    f"{self.name} with timestep_spacing linspace takes {steps} times that are not whole, and a chain "
                    "has none between; choose a number of steps less one that divides "
                    f"{length - 1}, or a grid of ours."
                )
            times = 1 + np.rint(even)
        else:
            times = np.rint(length - np.arange(steps) * (length / steps))
        if times[0] > length:
            raise UsageError(
                f"steps_offset {offset} leads to time {times[0]:g} of a chain of {length}; use fewer steps."
            )
        end = self.last
        if times[0] <= end:
            raise UsageError(f"{steps} step of {self.name} would begin at time 1, where the run ends; give more steps.")
        return np.append(times[times > end], end).astype(np.float64)

    @property
    def drops_the_data(self) -> bool:
        """Whether the scheduler spaces N + 1 times and leaves out the one nearest to the data."""
        return self.name in _DROPS_THE_DATA

    @property
    def last(self) -> int:
        """The time at which a run ends: 0, the data, or 1, the chain's first noise."""
        short = not self.options.get("set_alpha_to_one", True)
        return int(short or self.options.get("final_sigmas_type") == "sigma_min")

    def _check_spacing(self, steps: int) -> None:
        options, length = self.options, int(self.process.t_max)
        for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
            if options.get(name):
                raise UsageError(f"{name} spaces noise levels between those of the chain; choose a grid of ours.")
        for name in ("sigma_min", "sigma_max"):
            if options.get(name) is not None:
                raise UsageError(
                    f"{name} {options[name]} moves an end of the grid; choose a grid of ours with that end."
                )
        if options.get("lambda_min_clipped", -math.inf) not in (-math.inf, None):
            raise UsageError(
                f"lambda_min_clipped {options['lambda_min_clipped']} has no grid here; choose one of ours."
            )
        if not 1 <= steps <= length - self.drops_the_data:
            raise UsageError(f"{steps} steps do not fit a chain of {length}; choose from 1 to {length - 1}.")


def read_scheduler(config: Mapping[str, Any]) -> ImportedSchedule:
    """What a scheduler_config.json says, for the schedulers of `SCHEDULERS`.

    Raises CheckpointError, by name, for another scheduler, and for an option without a counterpart here.
    """
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        names = ", ".join(one.removesuffix("Scheduler") for one in SCHEDULERS)
        raise CheckpointError(
            f"scheduler_config.json is of {name}, which cannot be imported; known, with Scheduler behind, are {names}."
        )
    options = {key: config.get(key, default) for key, default in SCHEDULERS[name].items()}
    check_options(name, config, options)
    if name == "ScoreSdeVeScheduler":
        return ImportedSchedule(name, _levels(options), "score", None, None, FixedSmall(), options)
    clip, percentile = _limits(options)
    kind = KINDS[known("prediction_type", options["prediction_type"], KINDS)]
    variance = known("variance_type", options.get("variance_type") or "fixed_small", VARIANCES)
    return ImportedSchedule(name, _chain(options), kind, clip, percentile, VARIANCES[variance], options)


def _chain(options: Mapping[str, Any]) -> Chain:
    shape = SHAPES[known("beta_schedule", options["beta_schedule"], SHAPES)]
    steps, table = options["num_train_timesteps"], options["trained_betas"]
    rescaled = bool(options.get("rescale_betas_zero_snr"))
    try:
        if table is not None:
            betas = tuple(float(beta) for beta in table)
            if len(betas) != steps:
                raise ValueError(
                    f"trained_betas has {len(betas)} numbers and num_train_timesteps is {steps}; give as many of one "
                    "as the other says."
                )
            chain = Chain(steps=steps, betas=betas, zero_terminal_snr=rescaled)
        else:
            low, high = float(options["beta_start"]), float(options["beta_end"])
            low, high = (None, None) if shape == "cosine" else (low, high)
            chain = Chain(shape=shape, steps=steps, zero_terminal_snr=rescaled, beta_min=low, beta_max=high)
        chain.build()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"scheduler_config.json: {error}") from error
    return chain


def _levels(options: Mapping[str, Any]) -> EDM:
    try:
        return EDM(float(options["sigma_min"]), float(options["sigma_max"]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"scheduler_config.json: {error}") from error


def _limits(options: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(c of clipping, percentile of thresholding)."""
    if options.get("thresholding"):
        top = float(options["sample_max_value"])
        if top == 1:  # the threshold is at least 1 and at most this
            return 1.0, None
        if math.isfinite(top) or top < 1:
            raise CheckpointError(
                f"thresholding with sample_max_value {top:g} has no counterpart here; use 1, which clips, or Infinity."
            )
        return None, 100 * float(options["dynamic_thresholding_ratio"])
    return (float(options["clip_sample_range"]) if options.get("clip_sample") else None), None
