"""Answers of a model to what is known of pictures: completed, restored, or drawn anew from a noisy copy.

A `Task` says what is known of each of n pictures; `edit` draws an answer for each picture and each seed, which depends
on these two alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int

from diffusion.ddpm.reverse_steps import Learned
from diffusion.prediction import Denoiser, Preconditioning
from diffusion.process import Process
from diffusion.pytree import short_repr
from experiments import streams
from experiments.config.nodes import Generator
from experiments.data.scaling import to_model, to_pixels
from experiments.data.source import Pixels
from experiments.errors import DivergedError, UsageError
from experiments.runs.model import Model
from experiments.sampling.drawing import Sampling, asked_by
from experiments.sampling.guidance import Guidance
from samplers.ancestral import Ancestral
from samplers.grids import Grid
from samplers.inpainting import RePaint, Replacement
from samplers.inverse import Measurement, isotropic_covariance, pseudoinverse_guidance
from samplers.operators import Seen, pooled
from samplers.sample import Sampler, sample
from samplers.sdedit import noised_start

Method = Literal["replacement", "repaint", "pigdm"]
"""How the unknown part of a picture is drawn."""


@dataclass(frozen=True)
class Setting:
    """What a batch is sampled with, before a task has its say."""

    process: Process
    denoise: Denoiser
    sampler: Sampler
    grid: Grid
    ids: Int[np.ndarray, " b"]
    data_variance: float
    """The variance of a pixel of the data, which ΠGDM takes x_0 to have before it sees y."""
    start: Array | None = None
    """x at the first time; None for a draw of the prior."""

    __repr__ = short_repr


class Task:
    """What is known of n pictures."""

    def __len__(self) -> int:
        """The number of pictures."""
        raise NotImplementedError

    def apply(self, setting: Setting, rows: Int[np.ndarray, " b"]) -> Setting:
        """The setting for the pictures `rows`. Raises TypeError and ValueError for what does not go together."""
        raise NotImplementedError

    def finish(
        self, x: Float32[np.ndarray, "b *event"], rows: Int[np.ndarray, " b"]
    ) -> Float32[np.ndarray, "b *event"]:
        """What was drawn for the pictures `rows`, with what is known for certain put back."""
        del rows
        return x

    def residual(
        self, x: Float32[np.ndarray, "b *event"], rows: Int[np.ndarray, " b"]
    ) -> Float64[np.ndarray, " b"] | None:
        """The root mean square of A x − y over what was measured, in the network's units; None where nothing was."""
        del x, rows


@dataclass(frozen=True, repr=False)
class Completion(Task):
    """Inpainting: `images` are known where `known` is True, up to noise of the standard deviation `noise_std`.

    "replacement" and "repaint" put the known part in at each step, "pigdm" leads the denoiser by it. Where it is known
    for certain it is as it was in what is returned.
    """

    images: Float32[np.ndarray, "n height width channels"]
    known: Bool[np.ndarray, "n height width channels"]
    method: Method = "repaint"
    noise_std: float = 0.0
    resamplings: int = 10
    jump: int = 1

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.images)

    def apply(self, setting: Setting, rows: Int[np.ndarray, " b"]) -> Setting:
        """A sampler around the sampler, or a denoiser around the denoiser."""
        known = jnp.asarray(self.known[rows])
        observed = jnp.where(known, self.images[rows], 0.0)
        if self.method == "pigdm":
            return _led(setting, Measurement(Seen(known), observed, self.noise_std))
        if self.method == "replacement":
            return dataclasses.replace(setting, sampler=Replacement(setting.sampler, observed, known))
        around = RePaint(setting.sampler, observed, known, resamplings=self.resamplings, jump=self.jump)
        return dataclasses.replace(setting, sampler=around)

    def finish(
        self, x: Float32[np.ndarray, "b *event"], rows: Int[np.ndarray, " b"]
    ) -> Float32[np.ndarray, "b *event"]:
        """The known part as it was, unless it was seen through noise."""
        return np.where(self.known[rows], self.images[rows], x) if self.noise_std == 0 else x

    def residual(self, x: Float32[np.ndarray, "b *event"], rows: Int[np.ndarray, " b"]) -> Float64[np.ndarray, " b"]:
        """Over the known part."""
        known = self.known[rows]
        off = np.where(known, x - self.images[rows], 0.0).reshape(len(rows), -1)
        return np.sqrt(np.sum(off.astype(np.float64) ** 2, axis=1) / known.reshape(len(rows), -1).sum(axis=1))


@dataclass(frozen=True, repr=False)
class Restoration(Task):
    """y = A x_0 + noise, A = `operator` as `Measurement` takes it: ΠGDM."""

    operator: Any
    observed: Float[np.ndarray, "n *measured"]
    noise_std: float = 0.0

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.observed)

    def _measurement(self, rows: Int[np.ndarray, " b"]) -> Measurement:
        return Measurement(self.operator, jnp.asarray(self.observed[rows], jnp.float32), self.noise_std)

    def apply(self, setting: Setting, rows: Int[np.ndarray, " b"]) -> Setting:
        """The denoiser, led by y."""
        return _led(setting, self._measurement(rows))

    def residual(self, x: Float32[np.ndarray, "b *event"], rows: Int[np.ndarray, " b"]) -> Float64[np.ndarray, " b"]:
        """Over all of y."""
        off = np.asarray(self._measurement(rows).residual(jnp.asarray(x)), np.float64).reshape(len(rows), -1)
        return np.sqrt(np.mean(off**2, axis=1))


@dataclass(frozen=True, repr=False)
class Redrawing(Task):
    """SDEdit: `images` taken the part `strength` of the way to noise, and led back."""

    images: Float32[np.ndarray, "n height width channels"]
    strength: float = 0.6

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.images)

    def apply(self, setting: Setting, rows: Int[np.ndarray, " b"]) -> Setting:
        """A start on the way, and the rest of the grid."""
        key, images = jax.random.key(streams.SAMPLES), jnp.asarray(self.images[rows])
        std = setting.data_variance**0.5
        start = noised_start(key, setting.process, images, setting.grid, self.strength, data_std=std, ids=setting.ids)
        return dataclasses.replace(setting, start=start.x, grid=start.grid)


def _led(setting: Setting, measurement: Measurement) -> Setting:
    """The setting with its denoiser led by a measurement. Raises TypeError for noise that is not Gaussian.

    Of pixels that are measured together it takes for granted that they are alike, as those of pictures are: see
    `samplers.operators.pooled`.
    """
    if setting.sampler.takes_pair:
        raise TypeError("it takes a pair of denoisers, and ΠGDM leads one; choose another sampler, such as ddim")
    if setting.sampler.takes_both_times:
        raise TypeError("it steps by a flow map, and ΠGDM leads a denoiser; choose another sampler, such as ddim")
    alike = max(1.0, pooled(measurement.observe))
    covariance = isotropic_covariance(setting.process, alike * setting.data_variance)
    led = pseudoinverse_guidance(setting.process, setting.denoise, measurement, covariance)
    return dataclasses.replace(setting, denoise=led)


@dataclass(frozen=True)
class Edited:
    """A batch of answers."""

    pictures: Int[np.ndarray, " b"]
    """The number of the picture that each answers."""
    seeds: Int[np.ndarray, " b"]
    """Its seed."""
    images: Pixels
    """(b, height, width, channels)."""
    residual: Float64[np.ndarray, " b"] | None
    """The root mean square of A x − y of the pixels in `images`, in levels; None where nothing is measured."""
    nfe: int
    """Network calls for each answer."""

    __repr__ = short_repr


def edit(
    model: Model,
    solver: Sampling,
    task: Task,
    seeds: Sequence[int],
    *,
    pairs: bool = False,
    labels: Int[np.ndarray, " n"] | None = None,
    guidance: Guidance,
    batch: int = 16,
) -> Iterator[Edited]:
    """Answers of the model for every picture of the task, with every seed, batch by batch.

    With `pairs` picture i has the i-th seed alone. `labels` has a class for each answer, picture by picture. Clipping
    is of what the measurement has led to: clipped before, a pixel at the end of the range could not be led anywhere.
    Raises UsageError for guidance that does not go with the model and for what the process has not, ValueError and
    TypeError for what does not go together, DivergedError for an answer that is not finite.
    """
    rows = np.arange(len(task)) if pairs else np.repeat(np.arange(len(task)), len(seeds))
    ids = np.asarray(seeds, np.int64) if pairs else np.tile(np.asarray(seeds, np.int64), len(task))
    return answer(model, solver, task, rows, ids, labels=labels, guidance=guidance, batch=batch)


def answer(
    model: Model,
    solver: Sampling,
    task: Task,
    rows: Int[np.ndarray, " n"],
    ids: Int[np.ndarray, " n"],
    *,
    labels: Int[np.ndarray, " n"] | None = None,
    guidance: Guidance,
    batch: int = 16,
    starts: Sequence[int] | None = None,
) -> Iterator[Edited]:
    """As `edit`, of answer i to the picture rows[i] with the seed ids[i] and the class labels[i].

    `starts` are the places at which the batches begin that are drawn, of which no other is; all, unless told.
    """
    guidance.check(model, paired=solver.sampler.takes_pair, given_class=labels is not None)
    model = asked_by(model, solver)
    count = len(rows)
    batch = min(batch, count)
    for start in range(0, count, batch) if starts is None else starts:
        places = np.minimum(np.arange(start, start + batch), count - 1)
        told = None if labels is None else jnp.asarray(labels[places], jnp.int32)
        x, nfe = _batch(model, solver, task, rows[places], ids[places], told, guidance)
        wanted = slice(0, min(batch, count - start))
        made = to_pixels(task.finish(x, rows[places]), model.bits)[wanted]
        residual = task.residual(to_model(made), rows[places][wanted])
        levels = None if residual is None else residual * half_range(model)
        yield Edited(rows[places][wanted], ids[places][wanted], made, levels, guidance.calls(nfe))


def half_range(model: Model) -> float:
    """Levels in a unit of the network: 127.5, or 32767.5 of 16 bits."""
    return (2**model.bits - 1) / 2


def data_std(model: Model) -> float:
    """The standard deviation of the data's values, σ_data; 0.5 where that is 1 or more, as no image in [−1, 1] has.

    A chain of diffusers scales its network's input by 1, and says nothing of its images.
    """
    told = float(model.config.preconditioning.sigma_data)
    return told if told < 1 or model.of_points else Preconditioning.sigma_data


def _batch(
    model: Model,
    solver: Sampling,
    task: Task,
    rows: Int[np.ndarray, " b"],
    ids: Int[np.ndarray, " b"],
    labels: Array | None,
    guidance: Guidance,
) -> tuple[Float32[np.ndarray, "b *event"], int]:
    """(The answers, network calls for each)."""
    sampler = solver.sampler
    learned = isinstance(sampler, Ancestral) and isinstance(sampler.variance, Learned)
    paired = sampler.takes_pair
    inner = guidance if paired else guidance.unclipped()
    denoise = inner.denoiser(model, labels, paired=paired, with_variance=learned)
    setting = task.apply(Setting(model.process, denoise, sampler, solver.grid, ids, data_std(model) ** 2), rows)
    result = sample(
        jax.random.key(streams.SAMPLES),
        setting.process,
        setting.denoise if paired else guidance.within_range(model, setting.denoise),
        setting.sampler,
        setting.grid,
        (len(rows), *model.event_shape),
        ids=ids,
        x_init=setting.start,
    )
    x = np.asarray(result.x, np.float32)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        seed = ids[int(np.argmin(finite))]
        raise DivergedError(f"the answer of seed {seed} is not finite; use more steps, or less guidance.")
    return x, result.nfe


def require_images(model: Model) -> tuple[int, int, int]:
    """(height, width, channels) of a model of pictures. Raises UsageError for one of points, or of odd channels."""
    if model.of_points:
        raise UsageError(
            "this run makes points, and what is asked for is of pictures; `scorefield sample` draws points."
        )
    if isinstance(model.config.objective, Generator):
        raise UsageError(
            "this run makes an image in one call, from noise alone; a run with a flow can be asked for this."
        )
    height, width, channels = model.event_shape
    if channels not in (1, 3):
        raise UsageError(
            f"pictures have 1 or 3 channels, and this run's samples {channels}; in Python `inpaint` takes arrays."
        )
    return height, width, channels
