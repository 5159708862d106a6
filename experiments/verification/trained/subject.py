"""The model to be checked: a denoiser, its training images and held-out ones, and the noise levels to examine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import keys as keys_lib
from diffusion.noises import Gaussian
from diffusion.oracles import GaussianLaw
from diffusion.prediction import Denoiser
from diffusion.process import Process, perturb
from diffusion.pytree import short_repr
from diffusion.schedules import Schedule
from experiments.data.lazy import LazyImages
from experiments.data.scaling import to_model
from samplers.dpm_solver import DPMSolverMultistep
from samplers.grids import host_float64
from samplers.sample import Sampler

LEVELS = tuple(0.02 * 10 ** (half / 2) for half in range(7))
"""The noise levels σ/α, two to a factor of ten: from 0.02, a few grey levels, to 20, where no image can be seen."""

_FULL_COVARIANCE = 1024

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jit` for derivatives that are evaluated a few times: they compile in half the time and run nearly as fast."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images, of 8 or 16 bits or in the model's units, with their classes if these are known."""

    values: np.ndarray | LazyImages
    """The images, (n, *event)."""
    labels: np.ndarray | None = None

    __repr__ = short_repr

    def __len__(self) -> int:
        """The number of images."""
        return len(self.values)

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """The images of these rows, (m, *event) in float32 and the model's units."""
        part = self.values[rows]
        return to_model(part) if part.dtype.kind == "u" else np.asarray(part, np.float32)

    @functools.cached_property
    def some(self) -> np.ndarray:
        """Up to 20,000 evenly chosen images as rows (m, d) in float64, for means and covariances."""
        most = min(len(self), 20_000, max(2, 2**25 // self.values[0].size))
        rows = np.unique(np.linspace(0, len(self) - 1, most).round().astype(int))
        return self.take(rows).reshape(len(rows), -1).astype(np.float64)


class Level(NamedTuple):
    """A noise level and its time."""

    t: float
    ratio: float
    """The noise level σ/α at t."""


class Known(Protocol):
    """What the checks need to know of a model: of a trained `Model`, or of anything else that has a denoiser."""

    @property
    def process(self) -> Process:
        """The process x_t = α x_0 + σ z."""
        ...

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one image, or of one point."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes that the model knows, or 0."""
        ...


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, its data, and the numbers of images to be examined."""

    model: Known
    denoiser: Callable[[Array | None], Denoiser]
    """A function from the classes (b,) of a batch, or None without classes, to E[x_0 | x_t]."""
    training: Pictures
    held_out: Pictures | None = None
    between: Callable[[Array | None], Denoiser] | None = None
    """The denoiser likewise of a chain that is read between its times, by `diffusion.continuous`."""
    sampler: Sampler = DPMSolverMultistep()
    """The deterministic sampler to be checked."""
    grid: str = "auto"
    bin_width: float = 2 / 255
    """The distance between neighbouring levels of the data."""
    share: Callable[[float, float], float] | None = None
    """A function from two noise levels σ/α to the share of training's draws between them; None if it is unknown."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """The sentences about this run to print when something is out of line, by kind of cause; "" fits every cause."""
    samples: int = 256
    seed: int = 0
    batch: int = 64

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.held_out is not None and not len(self.held_out):
            object.__setattr__(self, "held_out", None)

    @property
    def process(self) -> Process:
        """The model's process."""
        return self.model.process

    @property
    def num_classes(self) -> int:
        """The number of classes that the model knows."""
        return self.model.num_classes

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.model.event_shape

    @property
    def of_points(self) -> bool:
        """Whether these are points, not images."""
        return len(self.event_shape) == 1

    @property
    def dim(self) -> int:
        """The number of coordinates of an image."""
        return math.prod(self.event_shape)

    @property
    def gaussian(self) -> bool:
        """Whether the noise is Gaussian, so that there are scores and SDEs."""
        return isinstance(self.process.noise, Gaussian)

    @property
    def chain(self) -> bool:
        """Whether time is discrete."""
        return self.process.schedule.discrete

    @property
    def labels(self) -> np.ndarray | None:
        """The classes of the training images, for a model that knows classes."""
        return self.training.labels if self.num_classes else None

    @functools.cached_property
    def scale(self) -> float:
        """The standard deviation of a pixel, over all training images and pixels."""
        return float(self.training.some.std())

    @functools.cached_property
    def fit(self) -> GaussianLaw:
        """The Gaussian with the training set's mean and covariance, or a single variance beyond 1,024 dimensions."""
        rows = self.training.some
        mean = rows.mean(0)
        if self.dim > _FULL_COVARIANCE:
            return GaussianLaw.isotropic(mean, float(np.sqrt(rows.var(0).mean())))
        return GaussianLaw.full(mean, np.cov(rows, rowvar=False).reshape(self.dim, self.dim))

    @functools.cached_property
    def levels(self) -> tuple[Level, ...]:
        """The noise levels at which denoisers and scores are examined."""
        return levels_at(self.process, LEVELS)

    def rng(self, purpose: int) -> np.random.Generator:
        """The generator that chooses rows and classes for one purpose."""
        return np.random.default_rng([self.seed, purpose])

    def key(self, purpose: int) -> Array:
        """The key of noise and probes for one purpose."""
        return jax.random.fold_in(jax.random.key(self.seed), purpose)


def ratio_range(process: Process) -> tuple[float, float]:
    """(σ/α at the smallest useful time, σ/α at the prior)."""
    with host_float64():
        low, high = ratios(process, np.asarray([process.t_min, process.t_max], np.float64))
    return float(low), float(high)


def levels_at(process: Process, wanted: tuple[float, ...]) -> tuple[Level, ...]:
    """The levels with these σ/α, or the nearest on a chain, without repetitions or any outside the process."""
    low, high = ratio_range(process)
    with host_float64():
        inside = [value for value in wanted if low * (1 - 1e-6) <= value <= high * (1 + 1e-6)] or [low]
        times = np.asarray(_times(process.schedule, -2 * np.log(inside)))
        times = np.asarray(list(dict.fromkeys(np.clip(times, float(process.t_min), float(process.t_max)).tolist())))
        return tuple(map(Level, times.tolist(), ratios(process, times).tolist()))


def ratios(process: Process, times: np.ndarray) -> np.ndarray:
    """σ/α at the times, in the precision that JAX computes in."""
    return np.exp(-0.5 * np.asarray(_log_snr(process.schedule, times), np.float64))


@jax.jit
def _log_snr(schedule: Schedule, t: Array) -> Array:
    return schedule.log_snr(t)


@jax.jit
def _times(schedule: Schedule, log_snr: Array) -> Array:
    return schedule.time_from_log_snr(log_snr)


class Batch(NamedTuple):
    """Some images and their noised versions, padded by repetitions to the size of the other batches."""

    rows: np.ndarray
    x_0: Array
    z: Array
    x_t: Array
    labels: Array | None
    places: np.ndarray
    """The places of the images among all that are examined, without the padding."""

    __repr__ = short_repr


def batches(
    subject: Subject, part: Pictures, t: float, count: int, purpose: int, size: int | None = None
) -> Iterator[Batch]:
    """Batches of `count` images of `part`, repeated if there are fewer; noise i depends on (seed, i, purpose).

    The repetitions of an image follow each other, so that results can be reshaped to (images, repetitions).
    """
    images, repetitions = spread(part, count)
    rows = np.repeat(subject.rng(0).permutation(len(part))[:images], repetitions)
    size = min(size or subject.batch, len(rows))
    time = jnp.asarray(t, jnp.result_type(float))
    for start in range(0, len(rows), size):
        places = np.arange(start, min(start + size, len(rows)))
        padded = np.resize(places, size)
        chosen = rows[padded]
        x_0 = jnp.asarray(part.take(chosen))
        z, x_t = _with_noise(subject.process, subject.key(purpose), padded, x_0, time)
        labels = None
        if subject.num_classes and part.labels is not None:
            labels = jnp.asarray(part.labels[chosen], jnp.int32)
        yield Batch(chosen, x_0, z, x_t, labels, places)


def spread(part: Pictures, count: int) -> tuple[int, int]:
    """(the number of different images, the repetitions of each) for about `count` draws."""
    images = min(count, len(part))
    return images, max(1, count // images)


@jax.jit
def _with_noise(process: Process, key: Array, ids: Array, x_0: Array, t: Array) -> tuple[Array, Array]:
    """(z, x_t): the noise of the images with these numbers, and the noised images."""
    z = process.noise.sample(keys_lib.sample_keys(key, ids), x_0.shape)
    return z, perturb(process, x_0, z, t)


@jax.jit
def noised(process: Process, x_0: Array, z: Array, t: Array) -> Array:
    """The noised images α x_0 + σ z at t."""
    return perturb(process, x_0, z, t)


@jax.jit
def denoised(denoise: Denoiser, x: Array, t: Array) -> Array:
    """The answer D(x, t), compiled once for each network."""
    return denoise(x, t).astype(x.dtype)
