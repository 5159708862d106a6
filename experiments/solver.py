"""How a run is sampled: the options of one sampler and its grid on the command line, and the two built from them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from diffusion.noises import Gaussian
from diffusion.reverse_steps import FixedLarge, FixedSmall, Learned
from experiments.config import load_config
from experiments.errors import UsageError
from experiments.options import canonical, choose, parse, take_flag
from experiments.sampling import Model
from samplers.ancestral import Ancestral
from samplers.registry import GRIDS, SAMPLERS, default_grid, make_grid
from samplers.sample import Sampler

if TYPE_CHECKING:
    from experiments.training.model import TrainedModel

GridName = Literal["auto", "karras", "uniform-log-snr", "uniform-time", "quadratic"]

# Steps of a sampler that is not the run's own.
_STEPS = 20


@dataclasses.dataclass(frozen=True)
class AncestralOptions:
    """Ancestral sampling."""

    variance: Literal["auto", "small", "large", "optimal", "learned"] = "auto"
    """Reverse variance: learned where there is one, else small (β̃); large is β, optimal Analytic-DPM's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What every command is told that samples a run."""

    run: Path
    """Folder of a run, or of one of its checkpoints."""
    sampler: Any
    """Options of the sampler."""
    steps: int | None = None
    """Steps of the grid. [the run's own with its own sampler, else 20]"""
    grid: GridName | None = None
    """The time grid; auto is the usual one for sampler and process. [the run's own with its own sampler, else auto]"""
    sigma_min: float | None = None
    """Smallest σ/α of the karras and uniform-log-snr grids."""
    sigma_max: float | None = None
    """Largest σ/α of these grids."""
    rho: float | None = None
    """Exponent of the karras grid. [7]"""
    ema: str = "0"
    """Which parameters: the number of an average, counted from 0, or raw."""
    best: bool = False
    """Take the checkpoint of the lowest held-out loss, not the newest."""
    json: bool = False
    """Print the result as JSON."""


Told = TypeVar("Told", bound=RunArguments)


def catalogue(columns: int = 6) -> list[list[str]]:
    """The samplers' names, in rows."""
    names = list(SAMPLERS)
    return [names[i : i + columns] for i in range(0, len(names), columns)]


def read(cls: type[Told], arguments: Sequence[str], prog: str, description: str) -> tuple[Told, str]:
    """The arguments of a command, with the options of its sampler, and the sampler's name: the run's own unless told.

    Raises UsageError for anything that cannot be read, CheckpointError when the run cannot be.
    """
    name, arguments = take_flag(arguments, "--sampler")
    name = None if name is None else choose_name(name, "--sampler")
    if any(argument in ("-h", "--help") for argument in arguments):
        parse(_with_options(cls, name or "heun"), arguments, prog, description)
    place, _ = take_flag(arguments, "--run")
    if place is None:
        raise UsageError("--run is missing; give the folder that `scorefield train` wrote.")
    if name is None:  # a folder of one checkpoint has a config.json too
        name = choose_name(load_config(Path(place) / "config.json").sampling.sampler)
    told = parse(_with_options(cls, name), arguments, prog, description, taken=("--sampler", "--class"))
    if told.steps is not None and told.steps < 1:
        raise UsageError(f"--steps is {told.steps}; give at least 1.")
    return told, name


def load(told: RunArguments) -> TrainedModel:
    """The run's checkpoint that was asked for; a line on standard error for each that is passed over."""
    from experiments.training.model import load_model

    if told.ema != "raw" and not (told.ema.isascii() and told.ema.isdecimal()):
        raise UsageError(f"--ema {told.ema!r} is neither raw nor the number of an average, counted from 0.")
    return load_model(told.run, None if told.ema == "raw" else int(told.ema), use_best=told.best, warn=warn)


def warn(line: str) -> None:
    """Say one line on standard error."""
    print(f"scorefield: {line}", file=sys.stderr)


def model_of(trained: TrainedModel) -> Model:
    """What sampling needs of a loaded run."""
    classes = trained.facts.num_classes if trained.config.conditional else 0
    return Model(trained.config, trained.network, trained.params, trained.facts.event_shape, classes)


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

    @property
    def steps(self) -> int:
        """Steps of the grid."""
        return len(self.grid) - 1


def build(told: RunArguments, name: str, model: Model) -> Solver:
    """The solver that a command was told.

    Raises UsageError for options that do not go together, or with the run's process.
    """
    own = model.config.sampling
    is_own = name == canonical(own.sampler)
    steps = told.steps or (own.steps if is_own else _STEPS)
    told = dataclasses.replace(told, grid=told.grid or (own.grid if is_own else "auto"))
    return _checked(name, told.sampler, model, steps, lambda sampler: _grid(told, model, sampler, steps), told)


def build_own(model: Model) -> Solver:
    """The run's own solver. Raises UsageError when it cannot sample the run's process."""
    own = model.config.sampling
    name = choose_name(own.sampler)
    options = AncestralOptions() if name == "ancestral" else SAMPLERS[name].default()
    grid = lambda sampler: make_grid(model.process, sampler, own.grid, own.steps)  # noqa: E731
    return _checked(name, options, model, own.steps, grid, own)


def _checked(name: str, options: Any, model: Model, steps: int, grid_of: Any, told: Any) -> Solver:
    process = model.process
    try:
        sampler = _sampler(options, model, steps)
        sampler.check_noise(process)
        grid = grid_of(sampler)
        sampler.check(process, grid)
    except TypeError as error:
        if isinstance(process.noise, Gaussian):
            raise UsageError(f"--sampler {name}: {error}") from None
        noise = type(process.noise).__name__
        raise UsageError(
            f"--sampler {name} with these options needs Gaussian noise, and this run's is {noise}; choose a "
            "deterministic one, such as --sampler ddim or --sampler heun."
        ) from None
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    limits = {key: getattr(told, key, None) for key in ("sigma_min", "sigma_max", "rho")}
    chosen = {key: value for key, value in limits.items() if value is not None}
    provenance = {
        "sampler": name,
        "options": {key: _json(value) for key, value in dataclasses.asdict(options).items()},
        "steps": steps,
        "grid": default_grid(process, sampler) if told.grid == "auto" else told.grid,
        **chosen,
    }
    return Solver(name, sampler, grid, provenance)


def _json(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else str(value)


def _with_options(cls: type[Told], name: str) -> type[Told]:
    """`cls` with the options of one sampler at its node."""
    entry = SAMPLERS[name]
    options, default = (AncestralOptions, AncestralOptions) if name == "ancestral" else (entry.make, entry.default)
    field = dataclasses.field(default_factory=default)
    return dataclasses.make_dataclass(  # type: ignore[return-value]
        cls.__name__, [("sampler", options, field)], bases=(cls,), frozen=True, kw_only=True
    )


def _sampler(options: Any, model: Model, steps: int) -> Sampler:
    """The sampler of these options; an optimal variance is estimated from the run's training data."""
    if not isinstance(options, AncestralOptions):
        return options
    variance, learned = options.variance, model.config.learned_variance
    if variance == "learned" and not learned:
        raise UsageError("--sampler.variance learned needs a run trained with --learned-variance; choose optimal.")
    if variance == "optimal":
        from experiments.data import open_source, split
        from experiments.elbo import chain_times, optimal_variance

        training, _ = split(open_source(model.config.data), model.config.data.held_out, model.config.data.seed)
        return Ancestral(optimal_variance(model, chain_times(model.process, max(steps, 64)), training))
    if variance == "large":
        return Ancestral(FixedLarge())
    return Ancestral(Learned() if learned and variance != "small" else FixedSmall())


def _grid(told: RunArguments, model: Model, sampler: Sampler, steps: int) -> np.ndarray:
    """The grid of these options. Raises UsageError for an option that the grid does not have."""
    given = {key: value for key in ("sigma_min", "sigma_max", "rho") if (value := getattr(told, key)) is not None}
    name = told.grid or "auto"
    if not given:
        return make_grid(model.process, sampler, name, steps)
    name = default_grid(model.process, sampler) if name == "auto" else name
    options = {"karras": {"sigma_min", "sigma_max", "rho"}, "uniform-log-snr": {"sigma_min", "sigma_max"}}
    for key in given.keys() - options.get(name, set()):
        flag = "--" + key.replace("_", "-")
        raise UsageError(f"{flag} does not go with the grid {name}; add --grid karras, or leave it out.")
    return GRIDS[name](model.process, steps, **given)
