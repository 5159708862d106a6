"""A trained run as an object: sampled, measured and asked for likelihoods without a command line."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from diffusion.likelihood import Divergence
from diffusion.likelihood import Solver as FlowSolver
from diffusion.prediction import Denoiser
from diffusion.process import Process
from experiments.config.tree import Config
from experiments.data.source import Events, Source
from experiments.errors import UsageError, warn
from experiments.evaluation.report import evaluate, with_null
from experiments.interface import flow
from experiments.interface.arguments import (
    Labels,
    check_distinct,
    checked_guidance,
    checked_seeds,
    evaluation_options,
    label_of_each,
    whole,
)
from experiments.interface.chosen import SamplerLike, choice_of, in_a_sentence
from experiments.interface.editing import Edits
from experiments.memory import remedied
from experiments.runs.classes import class_numbers
from experiments.runs.counted import with_counts
from experiments.runs.load import load_model, run_data
from experiments.runs.model import Model
from experiments.sampling.drawing import draw, gather
from experiments.sampling.editing import Task, edit
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import require_no_class
from experiments.sampling.solver import Solver, build
from experiments.sampling.throughput import Throughput


def load(place: Path | str, *, average: int | float | None = 0, best: bool = False, data: str | None = None) -> Run:
    """The trained run in the folder `place`, or of the one checkpoint whose folder it is.

    Of a run it is the newest checkpoint that can be trusted, with a line on standard error for each that is passed
    over, or with `best` the one of the lowest held-out loss. `average` is the number of the averaged parameters, None
    for the raw ones, or a float, the relative width of an average that was kept while training or made by
    `scorefield ema`; `data` is the URI of the run's data, where they have moved. Raises CheckpointError when there is
    no such folder, no checkpoint or it is damaged, UsageError for an average that it has not.
    """
    if not isinstance(place, str | os.PathLike) or not os.fspath(place):
        raise UsageError(f"the place of a run is {place!r}; give the folder that `scorefield train` wrote.")
    numbered = hasattr(average, "__index__") and not isinstance(average, bool)
    if not (average is None or numbered or isinstance(average, float)):
        raise UsageError(
            f"average is {average!r}; give its number, counted from 0, its relative width, or None for the raw "
            "parameters."
        )
    model = load_model(Path(place), average, use_best=best, warn=warn)
    folder = model.path
    assert folder is not None
    model = dataclasses.replace(model, data=data, params=jax.device_put(model.params))  # once, not with every call
    return Run(model, folder.parent.parent if folder.parent.name == "checkpoints" else folder)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(Edits):
    """A trained model and what can be done with it; images are (n, height, width, channels), points (n, d)."""

    model: Model
    """The network, its parameters and where they come from."""
    path: Path
    """Folder of the run, or of the checkpoint where that was copied out of its run."""

    @property
    def config(self) -> Config:
        """The configuration that it was trained by."""
        return self.model.config

    @property
    def process(self) -> Process:
        """x_t = α x_0 + σ z."""
        return self.model.process

    def continuous(self) -> Run:
        """The run, a discrete chain in it read between its times as well, so that its process has derivatives.

        By `diffusion.continuous`; its denoiser asks the network at fractional times. A run without a chain as it is.
        """
        return dataclasses.replace(self, model=self.model.flow)

    @functools.cached_property
    def counted(self) -> Model:
        """The model, with the training images of each class where the run is from before they were noted."""
        return with_counts(self.model)

    @property
    def step(self) -> int | None:
        """The number of updates behind the parameters."""
        return self.model.step

    def data(self) -> tuple[Source, Source | None]:
        """The run's data as they are now: (training, held out).

        Raises DataError when they are not those that it was trained on.
        """
        return run_data(self.model)

    def denoiser(self, labels: Labels | None = None, guidance: float | Guidance | None = None) -> Denoiser:
        """E[x_0 | x_t] as a function (x, t) of x (b, *event), in the units of the network: pixels are u/127.5 − 1.

        `labels` (b,) are the classes of the batch, by number or by name, None for no class; `guidance` is a strength, 1
        for the model itself, or a `Guidance`. It goes with every sampler, loss and likelihood of the core.
        Raises UsageError for labels of a run without classes, and for guidance that does not go with the run.
        """
        guide = checked_guidance(guidance)
        if labels is None:
            require_no_class(self.model, "labels")
        known = None if labels is None else jnp.asarray(class_numbers(self.model, labels, "labels"))
        if known is not None and known.ndim != 1:
            raise UsageError(f"labels has shape {known.shape}; give one class for each element of the batch.")
        guide.check(self.model, given_class=known is not None)
        return guide.denoiser(self.model, known)

    def solver(
        self,
        sampler: SamplerLike = None,
        steps: int | None = None,
        *,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        given_class: bool = False,
        guided: bool = False,
    ) -> Solver:
        """A sampler on its grid of times, checked against this run's process, as `sample` uses it.

        Raises UsageError for what does not go together, or not with the run.
        """
        choice = choice_of(self.config, self.path, sampler, steps, grid, limits)
        return build(choice, self.model, lambda: self.data()[0], given_class=given_class, guided=guided)

    @remedied("give a smaller batch, or fewer seeds")
    def sample(
        self,
        seeds: Sequence[int] = range(64),
        sampler: SamplerLike = None,
        steps: int | None = None,
        *,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        label: Labels | None = None,
        guidance: float | Guidance | None = None,
        brownian_tree: bool = False,
        batch: int = 64,
    ) -> Events:
        """The images of these seeds, uint8 (n, height, width, channels), or points float32 (n, d): as the command's.

        Images of 16 bits are uint16.

        `sampler` is a name of `scorefield samplers`, or a sampler of one's own choice of options, such as
        `DPMSolverMultistep(order=3)`; with it go `steps`, the `grid` by name, and its `limits` sigma_min, sigma_max
        and rho. What is not given is the run's own with its own sampler, else 20 steps of the usual grid. `label` is
        one class for all seeds or a list of one for each, by number or by name, or a text as after --class, such as
        "random" or "none"; unless given, the classes come in turn. `guidance` is a strength or a `Guidance`;
        `brownian_tree` is as in `samplers.sample`. A seed's image depends on no other seed, nor on `batch`, the number
        drawn at a time; a seed is given once, or once for each class.
        Raises UsageError for what does not go together, or not with the run, DivergedError for what is not finite.
        """
        seeds, guide, batch = checked_seeds(seeds), checked_guidance(guidance), whole("batch", batch)
        labels = label_of_each(self.counted, label, seeds)
        check_distinct(seeds, labels)
        solver = self.solver(
            sampler,
            steps,
            grid=grid,
            limits=limits,
            given_class=labels is not None,
            guided=guide.strength is not None,
        )
        with in_a_sentence(solver):
            batches = draw(
                self.model,
                solver,
                seeds,
                batch=batch,
                label=labels,
                guidance=guide,
                brownian_tree=brownian_tree,
            )
            return gather(batches, Throughput(min(batch, len(seeds)))).images

    def _answers(
        self,
        task: Task,
        seeds: Sequence[int],
        label: Labels | None,
        guidance: float | Guidance | None,
        batch: int,
        solve: Mapping[str, Any],
    ) -> Events:
        if label is None:  # the image has a class, and it is not for the seed to say which
            require_no_class(self.model, "label")
        labels = None if label is None else label_of_each(self.counted, label, seeds)
        guide, batch = checked_guidance(guidance), whole("batch", batch)
        solver = self.solver(**solve, given_class=labels is not None, guided=guide.strength is not None)
        with in_a_sentence(solver):
            parts = edit(self.model, solver, task, seeds, pairs=True, labels=labels, guidance=guide, batch=batch)
            return np.concatenate([part.images for part in parts])

    @remedied("give a smaller batch, or fewer samples")
    def evaluate(
        self,
        sampler: SamplerLike = None,
        steps: int | None = None,
        *,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The report on this run against its held-out data that `scorefield evaluate --json` prints, as a dictionary.

        `options` are those of `EvaluationOptions`, the flags of the command: samples, batch, seed, distances,
        bits_per_dim, elbo_images, elbo_draws, variance, cache. The sampler is given as to `sample`. Numbers that are
        not defined are None. Raises UsageError for an option that there is none of and for what cannot be measured of
        this run, DataError when its data are not there, DivergedError for a sample that is not finite.
        """
        choice = choice_of(self.config, self.path, sampler, steps, grid, limits)
        return {"run": str(self.path), **with_null(evaluate(self.model, choice, evaluation_options(options)))}

    @remedied("give a smaller batch, or fewer images")
    def log_likelihood(
        self,
        images: Events,
        *,
        labels: Labels | None = None,
        seed: int = 0,
        method: Divergence | None = None,
        solver: FlowSolver | None = None,
        batch: int = 64,
    ) -> Float64[np.ndarray, " n"]:
        """ln p of each image or point in nats, by the probability flow (Song et al. 2021, arXiv:2011.13456, eq. 39).

        Of uint8 and uint16 images it is a bound on average of the logarithm of their probability, a mass: they are
        dequantised by uniform noise of one level's width, image i by (`seed`, i) (Theis et al. 2016,
        arXiv:1511.01844), and bits/dim are −value/(d ln 2). Of floats, points or images in the units of the network, it
        is a density's, and no noise is added. Both are of the law that the flow carries from the prior to the least
        time that the network was trained at. `labels` (n,) are classes, by number or by name. `method` finds the
        divergence: exactly up to 256 dimensions, beyond by Hutchinson's estimate with probes of `seed`; `solver` is
        Adaptive(). NaN where it did not arrive.
        A chain is read between its times, as `continuous` says.
        Raises UsageError for a run without an ODE: of a network that is not told the noise level.
        """
        return flow.log_likelihood(self.model, images, labels, seed=seed, method=method, solver=solver, batch=batch)

    @remedied("give a smaller batch, or fewer images")
    def latents(
        self,
        images: Events,
        *,
        labels: Labels | None = None,
        solver: FlowSolver | None = None,
        batch: int = 64,
    ) -> Float32[np.ndarray, "n *event"]:
        """x_T (n, *event) of each image or point: where the probability-flow ODE takes it, σ(T) times a normal draw.

        uint8 and uint16 images are scaled as for the network, without noise. NaN where the `solver`, Adaptive() unless
        given, did not arrive. Raises UsageError as `log_likelihood` does.
        """
        return flow.transport(self.model, images, labels, backward=False, solver=solver, batch=batch)

    @remedied("give a smaller batch, or fewer latents")
    def decode(
        self,
        latents: Float32[np.ndarray, "n *event"],
        *,
        labels: Labels | None = None,
        solver: FlowSolver | None = None,
        batch: int = 64,
    ) -> Float32[np.ndarray, "n *event"]:
        """The inverse of `latents`, (n, *event) in the units of the network: `to_uint8` makes images of them.

        Raises UsageError as `log_likelihood` does.
        """
        return flow.transport(self.model, latents, labels, backward=True, solver=solver, batch=batch)

    def __repr__(self) -> str:
        own = self.config.sampling
        return f"Run({self.path}, step {self.step}; sampled by {own.sampler} in {own.steps} steps)\n  {self.model!r}"
