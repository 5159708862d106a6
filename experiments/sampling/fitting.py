"""Fits the time grid of one sampler and one number of steps to a trained model."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import streams
from experiments.errors import UsageError
from experiments.runs.load import training_part
from experiments.runs.model import Model, make_denoiser
from experiments.runs.provenance import versions
from experiments.sampling.choice import SamplerChoice
from experiments.sampling.solver import build
from samplers.grid_fit import optimised_grid
from samplers.sample import Sampler


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How carefully a grid is fitted."""

    images: int = 32
    """Number of samples that the grid is fitted to."""
    reference_steps: int = 60
    """Number of steps of the fine solution."""
    rounds: int = 12
    """Largest number of rounds of the fit from each of three fixed grids."""
    seed: int = 0
    """Seed of the noise that is fitted to, which no seed of `scorefield sample` shares."""

    def check(self) -> None:
        """Raise UsageError for numbers that no grid can be fitted with."""
        for flag, value in (("--images", self.images), ("--reference-steps", self.reference_steps)):
            if value < 2:
                raise UsageError(f"{flag} is {value}; give at least 2.")
        if self.rounds < 0:
            raise UsageError(f"--rounds is {self.rounds}; give 0 for the best fixed grid, or more.")


def fit_grid(model: Model, choice: SamplerChoice, options: FitOptions) -> dict[str, Any]:
    """The grid of `choice.steps` steps that is fitted to the sampler's images of the model, as JSON values.

    It minimises the mean square of the distance of pixels from those of a fine solution of the probability-flow ODE
    (`samplers.grid_fit.optimised_grid`); a model with classes is asked for each of them in turn, without guidance. The
    result is for `experiments.runs.fitted_grids.save` to keep: the times, errors before and after, and provenance.
    Raises UsageError for a sampler that follows no flow.
    """
    options.check()
    start, name = time.perf_counter(), choice.name
    if isinstance(choice.options, Sampler) and choice.options.takes_pair:
        raise UsageError(f"--sampler {name} follows no flow that a grid could be fitted to; fit one for ddim.")
    choice = dataclasses.replace(choice, grid="auto")
    solver = build(choice, model, training_part(model), given_class=model.num_classes > 0)
    labels = jnp.asarray(np.resize(model.trained_classes, options.images), jnp.int32) if model.num_classes else None
    try:
        fitted = optimised_grid(
            jax.random.fold_in(jax.random.key(options.seed), streams.GRID_FIT),
            model.process,
            make_denoiser(model, labels),
            solver.sampler,
            choice.steps,
            (options.images, *model.event_shape),
            reference_steps=options.reference_steps,
            rounds=options.rounds,
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    return {
        "times": [float(t) for t in np.asarray(fitted.grid)],
        "sampler": name,
        "options": solver.provenance["options"],
        "steps": choice.steps,
        "error": fitted.error,
        "error_of_best_fixed": fitted.error_before,
        "best_fixed": fitted.before,
        "images": options.images,
        "reference_steps": options.reference_steps,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "parameters": model.ema,
        "checkpoint_sha256": model.digest,
        **versions(),
    }
