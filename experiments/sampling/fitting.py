"""Fits the time grid of one sampler and one number of steps, or a whole solver, to a trained model."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import streams
from experiments.errors import UsageError
from experiments.runs.fitted_grids import options_as_json
from experiments.runs.load import training_part
from experiments.runs.model import Model, make_denoiser
from experiments.runs.provenance import versions
from experiments.sampling.choice import BespokeOptions, SamplerChoice
from experiments.sampling.solver import build, require_flow
from samplers.bespoke_fit import BespokeSolver, bespoke_solver
from samplers.grid_fit import OptimisedGrid, optimised_grid
from samplers.sample import Sampler


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How carefully times, or times and weights, are fitted."""

    images: int | None = None
    """Number of samples that are fitted to; for bespoke as many again choose. [32; for bespoke to 256 by their size]"""
    reference_steps: int | None = None
    """Number of steps of the fine solution. [60; for bespoke 100]"""
    rounds: int | None = None
    """Largest number of rounds of the fit from each of three fixed grids. [12; for bespoke 8]"""
    seed: int = 0
    """Seed of the noise that is fitted to, which no seed of `scorefield sample` shares."""

    def check(self) -> None:
        """Raise UsageError for numbers that nothing can be fitted with."""
        for flag, value, least in (("--images", self.images, 2), ("--reference-steps", self.reference_steps, 4)):
            if value is not None and value < least:
                raise UsageError(f"{flag} is {value}; give at least {least}.")
        streams.require_seed(self.seed)
        if self.rounds is not None and self.rounds < 0:
            raise UsageError(f"--rounds is {self.rounds}; give 0 for the best fixed grid, or more.")

    def filled(self, numbers: int, bespoke: bool) -> tuple[int, int, int]:
        """(images, reference steps, rounds) without blanks, for images of so many `numbers`."""
        usual = (int(np.clip(2**16 // numbers, 32, 256)), 100, 8) if bespoke else (32, 60, 12)
        given = (self.images, self.reference_steps, self.rounds)
        images, steps, rounds = (b if a is None else a for a, b in zip(given, usual, strict=True))
        return images, steps, rounds


def fit_grid(model: Model, choice: SamplerChoice, options: FitOptions) -> dict[str, Any]:
    """The grid of `choice.steps` steps that is fitted to the sampler's images of the model, as JSON values.

    It minimises the mean square of the distance of pixels from those of a fine solution of the probability-flow ODE
    (`samplers.optimised_grid`); for bespoke, weights and times are fitted together (`samplers.bespoke_solver`), and the
    error is that of samples which the fit has not seen. A model with classes is asked for each of them in turn, without
    guidance. The result is for `experiments.runs.fitted_grids.save` to keep: the times, errors before and after, and
    provenance. Raises UsageError for a sampler that follows no flow.
    """
    options.check()
    require_flow(model)
    start, name, bespoke = time.perf_counter(), choice.name, isinstance(choice.options, BespokeOptions)
    images, reference_steps, rounds = options.filled(math.prod(model.event_shape), bespoke)
    labels = jnp.asarray(np.resize(model.trained_classes, images), jnp.int32) if model.num_classes else None
    key = jax.random.fold_in(jax.random.key(options.seed), streams.GRID_FIT)
    flow = (key, model.flow.process, make_denoiser(model.flow, labels))
    shape = (images, *model.event_shape)
    try:
        if isinstance(choice.options, BespokeOptions):
            found = _bespoke(
                bespoke_solver(
                    *flow,
                    choice.steps,
                    shape,
                    reference_steps=reference_steps,
                    rounds=rounds,
                    answers=choice.options.answers,
                )
            )
        else:
            sampler = _sampler(model, choice)
            found = _grid(
                optimised_grid(*flow, sampler, choice.steps, shape, reference_steps=reference_steps, rounds=rounds)
            )
    except (ValueError, TypeError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    return {
        **found,
        "sampler": name,
        "options": options_as_json(choice.options),
        "steps": choice.steps,
        "images": images,
        "reference_steps": reference_steps,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "parameters": model.ema,
        "checkpoint_sha256": model.digest,
        **versions(),
    }


def _sampler(model: Model, choice: SamplerChoice) -> Sampler:
    """The sampler whose grid is to be fitted. Raises UsageError for one that follows no flow."""
    if isinstance(choice.options, Sampler) and (choice.options.takes_pair or choice.options.takes_both_times):
        raise UsageError(f"--sampler {choice.name} follows no flow that a grid could be fitted to; fit one for ddim.")
    choice = dataclasses.replace(choice, grid="auto", offset=0, last=0)
    return build(choice, model, training_part(model), given_class=model.num_classes > 0).sampler


def _grid(fitted: OptimisedGrid) -> dict[str, Any]:
    return {
        "times": np.asarray(fitted.grid).tolist(),
        "error": fitted.error,
        "error_of_best_fixed": fitted.error_before,
        "best_fixed": fitted.before,
    }


def _bespoke(fitted: BespokeSolver) -> dict[str, Any]:
    return {
        **{key: np.asarray(getattr(fitted.sampler, key)).tolist() for key in ("times", "states", "answers")},
        "error": fitted.error,
        "error_of_fit": fitted.error_of_fit,
        "error_of_best_fixed": fitted.error_before,
        "best_fixed": fitted.before,
    }
