"""How a run is sampled: the options of one sampler and its grid on the command line, and the two built from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Learned, Optimal
from diffusion.noises import Gaussian
from diffusion.process import Process
from experiments.config.tree import Config, Generator
from experiments.errors import UsageError, warn
from experiments.names import canonical, choose
from experiments.runs import fitted_grids
from experiments.runs.fitted_grids import options_as_json
from experiments.runs.model import Model
from experiments.runs.provenance import versions
from samplers.ancestral import Ancestral
from samplers.grids import LIMITS, check_grid
from samplers.registry import GRIDS, SAMPLERS, default_grid, make_grid
from samplers.sample import Sampler

if TYPE_CHECKING:
    from experiments.commands.arguments import RunArguments
    from experiments.data.source import Source
    from experiments.runs.load import TrainedModel

# Steps of a sampler that is not the run's own.
_STEPS = 20


@dataclasses.dataclass(frozen=True)
class AncestralOptions:
    """Ancestral sampling."""

    variance: Literal["auto", "small", "large", "optimal", "learned"] = "auto"
    """Reverse variance: learned where there is one, else small (β̃); large is β, optimal Analytic-DPM's."""


def choose_name(name: str, flag: str = "--sampling.sampler") -> str:
    """The name as the catalogue spells it. Raises UsageError when there is no such sampler."""
    choose(flag, name, SAMPLERS)
    return canonical(name)


@dataclasses.dataclass(frozen=True)
class Solver:
    """A sampler on a grid, checked against the process that it samples."""

    name: str
    sampler: Sampler
    grid: np.ndarray
    provenance: dict[str, Any]
    """All that was chosen, as JSON values."""


def build(
    told: RunArguments,
    name: str,
    model: Model,
    training: Callable[[], Source],
    *,
    given_class: bool,
    guided: bool = False,
    grid: str | None = None,
) -> Solver:
    """The solver that a command was told.

    `given_class` and `guided` say what is sampled: an optimal variance is estimated from `training` for just that.
    Raises UsageError for options that do not go together, or with the run's process.
    """
    own = model.config.sampling
    is_own = name == canonical(own.sampler)
    steps = told.steps or (own.steps if is_own else _STEPS)
    grid = grid or told.grid or (own.grid if is_own else "auto")
    optimal = isinstance(told.sampler, AncestralOptions) and told.sampler.variance == "optimal"
    if optimal and guided:
        raise UsageError("--sampler.variance optimal is no variance of a guided model; choose small or large.")

    def sampler() -> Sampler:
        if not optimal:
            return _sampler(told.sampler, model.config)
        from experiments.sampling.variance import chain_times, optimal_variance

        times = chain_times(model.process, max(steps, 64))
        return Ancestral(optimal_variance(model, times, training(), given_class=given_class))

    limits = {key: getattr(told, key) for key in ("sigma_min", "sigma_max", "rho")}
    given = {key: value for key, value in limits.items() if value is not None}
    fitted = functools.partial(fitted_grids.load, told.run, name) if grid == "fitted" else None
    return _checked("--sampler", name, told.sampler, model.config, sampler, grid, steps, given, fitted)


def build_own(config: Config) -> Solver:
    """A run's own solver. Raises UsageError when it cannot sample the run's process."""
    own = config.sampling
    name = choose_name(own.sampler)
    options = AncestralOptions() if name == "ancestral" else SAMPLERS[name].default()
    if isinstance(options, Sampler) and options.takes_pair and not (config.conditional and config.label_dropout > 0):
        raise UsageError(
            f"--sampling.sampler {name} guides a model that knows classes and none; "
            "add --conditional and a --label-dropout above 0, or choose another sampler, such as ddim."
        )
    sampler = lambda: _sampler(options, config)  # noqa: E731
    return _checked("--sampling.sampler", name, options, config, sampler, canonical(own.grid), own.steps, {})


def provenance(told: RunArguments, trained: TrainedModel, chosen: Solver) -> dict[str, Any]:
    """What determines a sample besides its seed, its class and the guidance, as JSON values.

    A line on standard error when the grid was fitted to another checkpoint, or to other parameters.
    """
    fitted = chosen.provenance.get("fitted")
    if fitted and (fitted["checkpoint_sha256"], fitted["parameters"]) != (trained.digest, told.ema):
        warn("the grid was fitted to another checkpoint or average of this run; `scorefield grid` fits it anew.")
    return {
        **chosen.provenance,
        "parameters": told.ema if told.ema == "raw" else f"average {told.ema}",
        "checkpoint": str(trained.path),
        "checkpoint_step": trained.step,
        "checkpoint_sha256": trained.digest,
        **versions(),
    }


def _checked(
    flag: str,
    name: str,
    options: Any,
    config: Config,
    make: Callable[[], Sampler],
    grid_name: str,
    steps: int,
    limits: dict[str, float],
    fitted: Callable[[Any, int], dict[str, Any]] | None = None,
) -> Solver:
    process = config.process()
    try:
        sampler = make()
        sampler.check_noise(process)
        grid_name = default_grid(process, sampler) if grid_name == "auto" else grid_name
        kept = _fitted(fitted, options, steps, limits) if fitted else {}
        grid = kept["times"] if kept else _grid(flag, process, sampler, grid_name, steps, limits)
        check_grid(process, grid)
        sampler.check(process, grid)
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
    told = options_as_json(options)
    if isinstance(sampler, Ancestral):  # what "auto" has chosen
        told = {"variance": _VARIANCES[type(sampler.variance)]}
    chosen = {
        "sampler": name,
        "options": told,
        "steps": steps,
        "grid": grid_name,
        **limits,
        "first_time": float(grid[0]),
        "last_time_above_0": float(grid[grid > 0][-1]),
    }
    if kept:
        fit = {key: kept.get(key) for key in ("checkpoint_sha256", "parameters", "seed")}
        chosen["fitted"] = {"times": [float(time) for time in grid], **fit}
    return Solver(name, sampler, grid, chosen)


def _fitted(
    load: Callable[[Any, int], dict[str, Any]], options: Any, steps: int, limits: dict[str, float]
) -> dict[str, Any]:
    """What was kept of the grid. Raises UsageError for limits, which it does not have."""
    for key in limits:
        raise UsageError(
            f"--{key.replace('_', '-')} does not go with --grid fitted; add --grid karras, or leave it out."
        )
    return load(options, steps)


_VARIANCES = {FixedSmall: "small", FixedLarge: "large", Learned: "learned", Optimal: "optimal"}


def _sampler(options: Any, config: Config) -> Sampler:
    """The sampler of these options, but for an optimal variance."""
    if not isinstance(options, AncestralOptions):
        return options
    variance, learned = options.variance, config.learned_variance
    if variance == "learned" and not learned:
        raise UsageError("--sampler.variance learned needs a run trained with --learned-variance; choose optimal.")
    if variance == "large":
        return Ancestral(FixedLarge())
    return Ancestral(Learned() if learned and variance != "small" else FixedSmall())


def _grid(flag: str, process: Process, sampler: Sampler, name: str, steps: int, limits: dict[str, float]) -> np.ndarray:
    """The grid of this name. Raises UsageError for a limit that it does not have, or that it would need."""
    for key in limits.keys() - LIMITS.get(name, frozenset()):
        option = "--" + key.replace("_", "-")
        raise UsageError(f"{option} does not go with the grid {name}; add --grid karras, or leave it out.")
    if name in LIMITS and name != "cosine" and "sigma_max" not in limits and process.schedule.ends_in_noise:
        remedy = "--sigma-max 80, or --grid uniform-time" if flag == "--sampler" else "--sampling.grid uniform-time"
        raise UsageError(
            f"the grid {name} has no end, for σ/α is infinite at the prior of {type(process.schedule).__name__}; "
            f"give {remedy}."
        )
    return GRIDS[name](process, steps, **limits) if limits else make_grid(process, sampler, name, steps)
