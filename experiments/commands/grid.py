"""`scorefield grid`: the time grid that suits a trained model best, fitted once and kept with the run."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.commands.arguments import RunArguments, read_arguments
from experiments.errors import UsageError
from experiments.runs import fitted_grids
from experiments.runs.load import load_run, run_data
from experiments.runs.model import Model, make_denoiser
from experiments.runs.provenance import versions
from experiments.sampling import solver
from samplers.grid_fit import optimised_grid
from samplers.registry import SAMPLERS

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
    """The arguments of `scorefield grid`."""

    images: int = 32
    """Samples that the grid is fitted to."""
    reference_steps: int = 60
    """Steps of the fine solution."""
    rounds: int = 12
    """Rounds of the fit from each of three fixed grids, at most."""
    seed: int = 0
    """Seed of the noise that is fitted to; no seed of `scorefield sample` has the same."""


def run(argv: list[str]) -> int:
    """Fit a grid; returns the exit status."""
    arguments, name = read_arguments(GridArguments, argv, "scorefield grid", DESCRIPTION)
    for flag, value in (("--images", arguments.images), ("--reference-steps", arguments.reference_steps)):
        if value < 2:
            raise UsageError(f"{flag} is {value}; give at least 2.")
    if arguments.rounds < 0:
        raise UsageError(f"--rounds is {arguments.rounds}; give 0 for the best fixed grid, or more.")
    if SAMPLERS[name].default().takes_pair:
        raise UsageError(f"--sampler {name} follows no flow that a grid could be fitted to; fit one for ddim.")
    if arguments.grid is not None or any(
        limit is not None for limit in (arguments.sigma_min, arguments.sigma_max, arguments.rho)
    ):
        raise UsageError("--grid and its limits are what is to be found; leave them out.")
    model = load_run(arguments)
    start = time.perf_counter()
    kept = _fit(arguments, name, model)
    kept["seconds"] = round(time.perf_counter() - start, 1)
    kept |= {"parameters": model.ema, "checkpoint_sha256": model.digest, **versions()}
    path = fitted_grids.save(arguments.run, kept)
    if arguments.json:
        print(json.dumps({**kept, "file": str(path)}))
    else:
        print(
            f"{name}, {kept['steps']} steps: {kept['error']:.4f} from the exact flow; the best fixed grid, "
            f"{kept['best_fixed']}: {kept['error_of_best_fixed']:.4f}\n{path}"
        )
    return 0


def _fit(arguments: GridArguments, name: str, model: Model) -> dict[str, Any]:
    choice = dataclasses.replace(arguments.choice(name, model.config), grid="auto")
    chosen = solver.build(choice, model, lambda: run_data(model)[0], given_class=model.num_classes > 0)
    labels = jnp.arange(arguments.images) % model.num_classes if model.num_classes else None
    # Not the key of `scorefield sample`: the grid is judged by images that it has not seen.
    key = jax.random.fold_in(jax.random.key(arguments.seed), 0x6F16)
    try:
        fitted = optimised_grid(
            key,
            model.process,
            make_denoiser(model, labels),
            chosen.sampler,
            choice.steps,
            (arguments.images, *model.event_shape),
            reference_steps=arguments.reference_steps,
            rounds=arguments.rounds,
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    return {
        "times": [float(time) for time in np.asarray(fitted.grid)],
        "sampler": name,
        "options": chosen.provenance["options"],
        "steps": choice.steps,
        "error": fitted.error,
        "error_of_best_fixed": fitted.error_before,
        "best_fixed": fitted.before,
        "images": arguments.images,
        "reference_steps": arguments.reference_steps,
        "seed": arguments.seed,
    }
