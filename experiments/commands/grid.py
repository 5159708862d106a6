"""`scorefield grid`: the time grid that suits a trained model best, fitted once and kept with the run."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.commands.arguments import RunArguments, read_arguments
from experiments.errors import UsageError
from experiments.runs import fitted_grids
from experiments.runs.load import load_run, model_of, run_data
from experiments.runs.model import make_denoiser
from experiments.runs.provenance import versions
from experiments.sampling import solver
from samplers.grid_fit import optimised_grid
from samplers.registry import SAMPLERS

if TYPE_CHECKING:
    from experiments.runs.load import TrainedModel

DESCRIPTION = """\
Fit the time grid of a sampler and a number of steps to a trained model, and keep it with the run.

  scorefield grid --run runs/digits-ddpm --sampler dpmpp-2m --steps 10
  scorefield sample --run runs/digits-ddpm --sampler dpmpp-2m --steps 10 --grid fitted

It minimises the mean square of the distance, pixel by pixel in [-1, 1], between what the sampler makes in so few steps
and what a fine solution of the probability-flow ODE makes of the same noise. A model with classes is asked for each of
them in turn, unguided.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridArguments(RunArguments):
    """What `scorefield grid` is told."""

    images: int = 32
    """Samples that the grid is fitted to."""
    reference_steps: int = 60
    """Steps of the fine solution."""
    rounds: int = 12
    """Rounds of the fit from each of three fixed grids, at most."""
    seed: int = 0
    """Seed of the noise that is fitted to; no seed of `scorefield sample` has the same."""


def run(arguments: list[str]) -> int:
    """Fit a grid; returns the exit status."""
    told, name = read_arguments(GridArguments, arguments, "scorefield grid", DESCRIPTION)
    for flag, value in (("--images", told.images), ("--reference-steps", told.reference_steps)):
        if value < 2:
            raise UsageError(f"{flag} is {value}; give at least 2.")
    if told.rounds < 0:
        raise UsageError(f"--rounds is {told.rounds}; give 0 for the best fixed grid, or more.")
    if SAMPLERS[name].default().takes_pair:
        raise UsageError(f"--sampler {name} follows no flow that a grid could be fitted to; fit one for ddim.")
    if told.grid is not None or any(limit is not None for limit in (told.sigma_min, told.sigma_max, told.rho)):
        raise UsageError("--grid and its limits are what is to be found; leave them out.")
    trained = load_run(told)
    start = time.perf_counter()
    kept = _fit(told, name, trained)
    kept["seconds"] = round(time.perf_counter() - start, 1)
    kept |= {"parameters": told.ema, "checkpoint_sha256": trained.digest, **versions()}
    path = fitted_grids.save(told.run, kept)
    if told.json:
        print(json.dumps({**kept, "file": str(path)}))
    else:
        print(
            f"{name}, {kept['steps']} steps: {kept['error']:.4f} from the exact flow; the best fixed grid, "
            f"{kept['best_fixed']}: {kept['error_of_best_fixed']:.4f}\n{path}"
        )
    return 0


def _fit(told: GridArguments, name: str, trained: TrainedModel) -> dict[str, Any]:
    model = model_of(trained)
    chosen = solver.build(
        *(told, name, model, lambda: run_data(trained)[0]), given_class=model.num_classes > 0, grid="auto"
    )
    labels = jnp.arange(told.images) % model.num_classes if model.num_classes else None
    # Not the key of `scorefield sample`: the grid is judged by images that it has not seen.
    key = jax.random.fold_in(jax.random.key(told.seed), 0x6F16)
    try:
        fitted = optimised_grid(
            *(key, model.process, make_denoiser(model, labels), chosen.sampler, chosen.provenance["steps"]),
            (told.images, *model.event_shape),
            reference_steps=told.reference_steps,
            rounds=told.rounds,
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    return {
        "times": [float(time) for time in np.asarray(fitted.grid)],
        "sampler": name,
        "options": chosen.provenance["options"],
        "steps": chosen.provenance["steps"],
        "error": fitted.error,
        "error_of_best_fixed": fitted.error_before,
        "best_fixed": fitted.before,
        "images": told.images,
        "reference_steps": told.reference_steps,
        "seed": told.seed,
    }
