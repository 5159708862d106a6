"""`scorefield grid`: the time grid that suits a trained model best, fitted once and kept with the run."""

from __future__ import annotations

import dataclasses
import json

from experiments.commands.arguments import RunArguments, read_arguments
from experiments.errors import UsageError
from experiments.progress import reporting, stage
from experiments.runs import fitted_grids
from experiments.runs.load import load_run
from experiments.sampling.fitting import FitOptions, fit_grid

DESCRIPTION = """\
Fit the time grid of a sampler and a number of steps to a trained model, and keep it with the run.

  scorefield grid --run runs/mnist --sampler dpmpp-2m --steps 8
  scorefield sample --run runs/mnist --sampler dpmpp-2m --steps 8 --grid fitted

  scorefield grid --run runs/mnist --sampler bespoke --steps 8
  scorefield sample --run runs/mnist --sampler bespoke --steps 8

It minimises the mean square of the distance, pixel by pixel in [-1, 1], between the images that the sampler makes in
these few steps and those that a fine solution of the probability-flow ODE makes of the same noise. With --sampler
bespoke the weights of every step are fitted as well, to a solver of this run alone; its distance is that of images
which the fit has not seen. A model with classes is asked for each of them in turn, without guidance.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridArguments(FitOptions, RunArguments):
    """The arguments of `scorefield grid`."""


def run(argv: list[str]) -> int:
    """Fit a grid; returns the exit status."""
    arguments, name = read_arguments(GridArguments, argv, "scorefield grid", DESCRIPTION)
    arguments.check()
    limits = (arguments.sigma_min, arguments.sigma_max, arguments.rho)
    if arguments.grid is not None or any(limit is not None for limit in limits):
        raise UsageError("--grid and its limits are what is to be found; leave them out.")
    model = load_run(arguments, arguments.data)
    with reporting(quiet=arguments.json), stage("fitting the grid"):
        kept = fit_grid(model, arguments.choice(name, model.config), arguments)
    path = fitted_grids.save(arguments.run, kept)
    if arguments.json:
        print(json.dumps({**kept, "file": str(path)}))
    else:
        best = "solver" if "states" in kept else "grid"
        print(
            f"{name}, {kept['steps']} steps: {kept['error']:.4f} from the exact flow; the best fixed {best}, "
            f"{kept['best_fixed']}: {kept['error_of_best_fixed']:.4f}\n{path}"
        )
    return 0
