"""From the choice of a sampler to a solver: the sampler on its grid, checked against the process that it samples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion.betas import ChainSchedule
from diffusion.interpolated import continuous
from diffusion.noises import Gaussian
from diffusion.process import Process
from experiments.config.nodes import FlowMap, Generator
from experiments.config.tree import Config
from experiments.errors import UsageError, warn
from experiments.names import flag_of
from experiments.runs import fitted_grids
from experiments.runs.fitted_grids import options_as_json
from experiments.runs.model import Model
from experiments.sampling.choice import AncestralOptions, BespokeOptions, Options, SamplerChoice
from experiments.sampling.variance import chain_times, optimal_variance, variance_name, variance_without_data
from samplers.ancestral import Ancestral
from samplers.bespoke import Bespoke
from samplers.grids import LIMITS, check_grid
from samplers.registry import GRIDS, default_grid, make_grid
from samplers.sample import Sampler

if TYPE_CHECKING:
    from experiments.data.source import Source

_OF_CHAINS = ("leading", "trailing", "linspace")
"""The grids that are a chain's, and have whole times."""


@dataclass(frozen=True)
class Solver:
    """A sampler on a grid, checked against the process that it samples."""

    name: str
    sampler: Sampler
    grid: np.ndarray
    """Times from the prior's down to the data's."""
    provenance: dict[str, Any]
    """All that was chosen, as JSON values."""
    between: bool = False
    """Whether a chain is asked between its times, by `diffusion.continuous`."""

    def __repr__(self) -> str:
        return f"Solver({self.name}, {len(self.grid) - 1} steps of the grid {self.provenance['grid']})"


def build(
    choice: SamplerChoice,
    model: Model,
    training: Callable[[], Source],
    *,
    given_class: bool,
    guided: bool = False,
) -> Solver:
    """The solver that was chosen, for this model.

    `given_class` and `guided` say what is sampled: an optimal variance is estimated from `training` for just that.
    A line on standard error when a fitted grid was fitted to another checkpoint, or to other parameters.
    Raises UsageError for options that do not go together, or with the run's process.
    """
    options = choice.options
    if isinstance(options, BespokeOptions):
        return _bespoke(choice, model, guided)
    if guided and isinstance(options, Sampler) and options.takes_both_times:
        raise UsageError(f"--guidance leads a denoiser, and --sampler {choice.name} steps by a flow map; leave it out.")
    optimal = isinstance(options, AncestralOptions) and options.variance == "optimal"
    if optimal and guided:
        raise UsageError("--sampler.variance optimal is no variance of a guided model; choose small or large.")

    def best() -> Sampler:
        times = chain_times(model.process, max(choice.steps, 64))
        return Ancestral(optimal_variance(model, times, training(), given_class=given_class))

    make = best if optimal else functools.partial(_sampler, options, model.config)
    return _checked(choice, model.config, make, model)


def build_own(config: Config) -> Solver:
    """A run's own solver. Raises UsageError when it cannot sample the run's process."""
    choice = SamplerChoice.own(config)
    options, name = choice.options, choice.name
    if isinstance(options, Sampler) and options.takes_pair and not (config.conditional and config.label_dropout > 0):
        raise UsageError(
            f"--sampling.sampler {name} guides a model that knows classes and none; "
            "add --conditional and a --label-dropout above 0, or choose another sampler, such as ddim."
        )
    return _checked(choice, config, functools.partial(_sampler, options, config))


def _bespoke(choice: SamplerChoice, model: Model, guided: bool) -> Solver:
    """The solver that was fitted to the run. Raises UsageError where there is none, or for another grid."""
    if choice.grid not in ("auto", "fitted"):
        raise UsageError(f"--sampler bespoke has times of its own; leave --grid {choice.grid} out.")
    choice = dataclasses.replace(choice, grid="fitted")
    kept = _fitted(choice, model)
    if guided:
        warn("the solver was fitted without guidance, and is no nearer to the guided flow than others may be.")
    weights = [np.asarray(kept[key], np.float64) for key in ("times", "states", "answers")]
    return _checked(choice, model.config, lambda: Bespoke(*weights), kept=kept)


def _checked(
    choice: SamplerChoice,
    config: Config,
    make: Callable[[], Sampler],
    model: Model | None = None,
    kept: dict[str, Any] | None = None,
) -> Solver:
    """The solver of a sampler that is made here, where what it refuses becomes a sentence with the flag's name."""
    process, flag, name = config.process(), choice.flag, choice.name
    try:
        sampler = make()
        sampler.check_noise(process)
        if sampler.takes_both_times and not isinstance(config.objective, FlowMap):
            raise ValueError("it steps by a flow map, and this run is a denoiser; train one with --objective flow-map.")
        grid_name = default_grid(process, sampler) if choice.grid == "auto" else choice.grid
        if kept is None:
            kept = _fitted(choice, model) if model is not None and grid_name == "fitted" else {}
        between, grid_name, grid = _times(choice, process, sampler, grid_name, kept)
        if isinstance(config.objective, Generator) and sampler.nfe(len(grid) - 1, True) != 1:
            raise ValueError("this run's generator makes an image in one call; give --sampler euler --steps 1.")
    except TypeError as error:
        if isinstance(process.noise, Gaussian):
            raise UsageError(f"{flag} {name}: {error}") from None
        raise UsageError(
            f"{flag} {name} with these options needs Gaussian noise, and this run's is {type(process.noise).__name__}; "
            f"choose a deterministic one, such as {flag} ddim or {flag} heun."
        ) from None
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"{flag} {name}: {error}") from None
    options = options_as_json(choice.options)
    if isinstance(sampler, Ancestral):  # what "auto" has chosen
        options = {"variance": variance_name(sampler.variance)}
    chosen = {
        "sampler": name,
        "options": options,
        "steps": choice.steps,
        "grid": grid_name,
        **choice.limits,
        **{key: value for key in ("offset", "last") if (value := getattr(choice, key))},
        "first_time": float(grid[0]),
        "last_time_above_0": float(grid[grid > 0][-1]),
    }
    if kept:
        fit = {key: kept.get(key) for key in ("checkpoint_sha256", "parameters", "seed")}
        fit |= {key: kept[key] for key in ("states", "answers") if key in kept}
        chosen["fitted"] = {"times": [float(time) for time in grid], **fit}
    if between:
        chosen["between_times"] = True
    return Solver(name, sampler, grid, chosen, between)


def _times(
    choice: SamplerChoice, process: Process, sampler: Sampler, name: str, kept: dict[str, Any]
) -> tuple[bool, str, np.ndarray]:
    """(Whether a chain is asked between its times, the grid's name, the grid), all checked against the process.

    A chain is, by `diffusion.continuous`, for a sampler that needs a velocity or times between those of the grid, and
    on a grid that was fitted to the flow. Everything else stays on the chain. Raises as the sampler and the grid do.
    """
    if kept:
        grid = np.asarray(kept["times"], np.float64)
        whole = not process.schedule.discrete or bool(np.all(grid == np.rint(grid)))
        if not whole:
            process = continuous(process)
        check_grid(process, grid)
        sampler.check(process, grid)
        return not whole, name, grid
    grid = _grid(choice, process, sampler, name)
    check_grid(process, grid)
    try:
        sampler.check(process, grid)
    except (TypeError, ValueError) as refused:
        if not process.schedule.discrete:
            raise
        reading = continuous(process)
        name = default_grid(reading, sampler) if choice.grid == "auto" else name
        if name not in _OF_CHAINS:
            grid = _grid(choice, reading, sampler, name)
            check_grid(reading, grid)
        try:
            sampler.check(reading, grid)
        except (TypeError, ValueError):
            raise refused from None
        return True, name, grid
    return False, name, grid


def _sampler(options: Options, config: Config) -> Sampler:
    """The sampler of these options, but for an optimal variance."""
    if isinstance(options, Sampler):
        return options
    assert isinstance(options, AncestralOptions)
    name = config.sampling.variance if options.variance == "auto" else options.variance
    variance = variance_without_data(name, config, auto="small", flag="--sampler.variance")
    assert variance is not None
    return Ancestral(variance)


def require_flow(model: Model) -> None:
    """Raise UsageError for a model whose samples no flow leads to."""
    if isinstance(model.config.objective, Generator):
        raise UsageError("this run has no flow to be near to, for it makes an image in one call.")
    if model.config.preconditioning.kind == "residual":
        raise UsageError("this run has no flow to be near to, for its network is not told the noise level.")


def _fitted(choice: SamplerChoice, model: Model) -> dict[str, Any]:
    """The grid that was kept with the run. Raises UsageError for limits, which it does not have."""
    for key in choice.limits:
        raise UsageError(
            f"--{key.replace('_', '-')} does not go with --grid fitted; add --grid karras, or leave it out."
        )
    run = choice.run or model.path
    if run is None:
        raise UsageError("--grid fitted needs a run's folder, and this model has none; choose another grid.")
    kept = fitted_grids.load(run, choice.name, choice.options, choice.steps)
    if (kept.get("checkpoint_sha256"), kept.get("parameters")) != (model.digest, model.ema):
        warn("the grid was fitted to another checkpoint or average of this run; `scorefield grid` fits it anew.")
    return kept


def _grid(choice: SamplerChoice, process: Process, sampler: Sampler, name: str) -> np.ndarray:
    """The grid of this name. Raises UsageError for a limit that it does not have, or that it would need."""
    limits = choice.limits
    for key in limits.keys() - LIMITS.get(name, frozenset()):
        raise UsageError(f"--{flag_of(key)} does not go with the grid {name}; add --grid karras, or leave it out.")
    if name in LIMITS and name != "cosine" and "sigma_max" not in limits and process.schedule.ends_in_noise:
        by_run = choice.flag == "--sampling.sampler"
        remedy = "--sampling.grid uniform-time" if by_run else f"--grid {name} --sigma-max 80, or --grid uniform-time"
        of = "this chain" if isinstance(process.schedule, ChainSchedule) else type(process.schedule).__name__
        raise UsageError(f"the grid {name} has no end, for σ/α is infinite at the prior of {of}; give {remedy}.")
    grid = GRIDS[name](process, choice.steps, **limits) if limits else make_grid(process, sampler, name, choice.steps)
    return _moved(choice, process, grid) if choice.offset or choice.last else grid


def _moved(choice: SamplerChoice, process: Process, grid: np.ndarray) -> np.ndarray:
    """A grid of a chain, its times later by the offset, that ends at the last time and not at the data."""
    if not process.schedule.discrete:
        raise UsageError(
            f"--sampling.offset {choice.offset} and --sampling.last {choice.last} count times of a chain, and the "
            f"schedule is {type(process.schedule).__name__}; leave them out."
        )
    times = grid[:-1] + choice.offset
    if times[0] > float(process.t_max):
        raise UsageError(
            f"--sampling.offset {choice.offset} leads to time {times[0]:g} of a chain of {float(process.t_max):g}; "
            "use fewer steps."
        )
    times = times[times > choice.last]
    if not len(times):
        raise UsageError(f"{choice.steps} step begins at time {choice.last}, where the run ends; give more steps.")
    return np.append(times, float(choice.last))
