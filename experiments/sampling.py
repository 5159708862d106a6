"""From a trained model to images or points: the denoiser, the grid, the loop over seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from diffusion.prediction import Denoiser, network_denoiser
from diffusion.process import Process
from diffusion.reverse_steps import Learned, learned_denoiser, mean_denoiser
from experiments.config import Config
from experiments.data.scaling import to_uint8
from experiments.errors import DivergedError, UsageError
from samplers.ancestral import Ancestral
from samplers.grids import Grid
from samplers.sample import Sampler, sample

if TYPE_CHECKING:
    from experiments.guided import Wish

# One key for all samples of all runs: sample i is told apart by its seed, its id.
KEY_SEED = 0


@dataclass(frozen=True)
class Model:
    """What is needed to sample: a network, its parameters, its run's configuration."""

    config: Config
    network: Callable[..., Array]
    params: Any
    event_shape: tuple[int, ...]
    num_classes: int = 0

    @property
    def process(self) -> Process:
        """x_t = α x_0 + σ z of the run."""
        return self.config.process()

    @property
    def of_points(self) -> bool:
        """Whether it makes points, not images."""
        return len(self.event_shape) == 1


def make_denoiser(model: Model, labels: Array | None, *, with_variance: bool = False) -> Denoiser:
    """E[x_0 | x_t] of the model for `labels` (b,), or for no class.

    `with_variance` keeps the learned variance beside it, for ancestral sampling and the ELBO.
    Raises UsageError for labels on a model without classes.
    """
    if labels is not None and model.num_classes == 0:
        raise UsageError("--class goes with a conditional model, and this run was trained without --conditional.")
    arguments = (model.network, model.params, model.process, model.config.preconditioning, labels)
    if not model.config.learned_variance:
        return network_denoiser(*arguments)
    denoise = learned_denoiser(*arguments)
    return cast(Denoiser, denoise) if with_variance else mean_denoiser(denoise)


@dataclass(frozen=True)
class Drawn:
    """A batch of samples."""

    seeds: list[int]
    images: UInt8[np.ndarray, "b height width channels"] | Float32[np.ndarray, "b d"]
    """Images; of a model of points the points, as they come."""
    nfe: int
    """Network calls for each; under guidance two for each call of the denoiser."""


class Throughput:
    """Samples a second; without the first batch, in which everything is compiled, as soon as there is another."""

    def __init__(self, batch: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """The clock, in seconds, runs from here. Every batch costs as much as `batch` samples, for it is filled up."""
        self.count = 0
        self._batch, self._clock, self._ends = batch, clock, [clock()]

    def add(self, count: int) -> None:
        """Another batch is done, of which `count` samples are wanted."""
        self.count += count
        self._ends.append(self._clock())

    @property
    def seconds(self) -> float:
        """From the beginning to the last batch."""
        return self._ends[-1] - self._ends[0]

    @property
    def with_compilation(self) -> bool:
        """Whether the rate includes the compilation."""
        return len(self._ends) < 3

    @property
    def rate(self) -> float:
        """Samples a second."""
        if self.with_compilation:
            return self.count / self.seconds if self.count else 0.0
        return self._batch * (len(self._ends) - 2) / (self._ends[-1] - self._ends[1])

    def report(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "seconds": self.seconds,
            "samples_per_second": self.rate,
            "with_compilation": self.with_compilation,
        }

    def __str__(self) -> str:
        return f"{self.rate:.1f} samples/s" + (" with compilation" if self.with_compilation else "")


class Sampling(Protocol):
    """A sampler on a grid."""

    @property
    def sampler(self) -> Sampler:
        """The sampler."""
        ...

    @property
    def grid(self) -> Grid:
        """Its grid."""
        ...


def draw(
    model: Model,
    solver: Sampling,
    seeds: Sequence[int],
    *,
    batch: int,
    label: int | Sequence[int] | None = None,
    wish: Wish,
    brownian_tree: bool = False,
) -> Iterator[Drawn]:
    """Images or points of the seeds, batch by batch; what a seed gives does not depend on the others.

    `label` is one class for all, or one for each seed; `wish` changes the model's answers, by guidance or clipping;
    `brownian_tree` is as in `sample`. Every batch has the same shape, so there is one compilation.
    Raises UsageError for a label that the model does not know.
    """
    process, sampler, batch = model.process, solver.sampler, min(batch, len(seeds))
    labels = None if label is None else np.broadcast_to(np.asarray(label), (len(seeds),))
    if labels is not None and model.num_classes and not (labels.min() >= 0 and labels.max() < model.num_classes):
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise UsageError(f"--class {wrong} does not exist; this model knows the classes 0 to {model.num_classes - 1}.")
    with_variance = isinstance(sampler, Ancestral) and isinstance(sampler.variance, Learned)
    for start in range(0, len(seeds), batch):
        part = list(seeds[start : start + batch])
        padded = np.asarray(part + [part[-1]] * (batch - len(part)))
        now = None if labels is None else jnp.asarray(np.resize(labels[start : start + batch], batch), jnp.int32)
        denoise = wish.denoiser(model, sampler, now, with_variance=with_variance)
        result = sample(
            *(jax.random.key(KEY_SEED), process, denoise, sampler, solver.grid, (batch, *model.event_shape)),
            ids=padded,
            brownian_tree=brownian_tree,
        )
        finite = np.isfinite(np.asarray(result.x)).reshape(batch, -1).all(axis=1)
        if not np.all(finite):
            wrong = padded[int(np.argmin(finite))]
            raise DivergedError(f"the sample of seed {wrong} is not finite; use more steps, or less guidance.")
        calls = wish.calls(sampler, result.nfe)
        made = np.asarray(result.x, np.float32) if model.of_points else np.asarray(to_uint8(result.x))
        yield Drawn(part, made[: len(part)], calls)


def parse_seeds(text: str) -> list[int]:
    """The integers of "0-63", "3", or "1,5,10-12".

    Raises UsageError for anything else, and for a seed given twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        numbers = [low, high] if dash else [low]
        if not all(number.isascii() and number.isdecimal() for number in numbers) or int(numbers[-1]) < int(low):
            raise UsageError(f"--seeds {text!r} is not a list of seeds; write 0-63, or 1,5,10-12.")
        if int(numbers[-1]) >= 2**31:
            raise UsageError(f"--seeds {text!r} holds a seed of 2^31 or more; choose smaller ones.")
        seeds.extend(range(int(low), int(high or low) + 1))
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"--seeds {text!r} names a seed twice; every image has a seed of its own.")
    return seeds
