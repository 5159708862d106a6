"""The arguments of every command that samples a run: the run, the sampler with its options, the grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from experiments.commands.options import parse, take_flag
from experiments.commands.spelling import flags_of, respelt
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.runs.load import DataArguments
from experiments.sampling.choice import SamplerChoice, choose_name, default_options, options_type
from experiments.training.kept import run_config
from samplers.grids import GridName
from samplers.registry import SAMPLERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArguments(DataArguments):
    """The arguments of every command that samples a run."""

    sampler: Any
    """Options of the sampler."""
    steps: int | None = None
    """Number of steps. [the run's own with its own sampler, else 20]"""
    grid: Literal["auto", "fitted"] | GridName | None = None
    """Time grid; auto is the usual one for the sampler and the process, fitted the one that `scorefield grid` found.
    [the run's own with its own sampler, else auto]"""
    sigma_min: float | None = None
    """Smallest σ/α of a karras, uniform-log-snr, uniform-sigma or cosine grid."""
    sigma_max: float | None = None
    """Largest σ/α of such a grid."""
    rho: float | None = None
    """Exponent of a karras grid. [7]"""
    json: bool = False
    """Print the result as JSON."""

    def choice(self, name: str, config: Config) -> SamplerChoice:
        """The sampler of this name with these options, and the grid, for a run of this configuration."""
        limits = {key: getattr(self, key) for key in ("sigma_min", "sigma_max", "rho")}
        return SamplerChoice.of(
            config,
            name,
            options=self.sampler,
            steps=self.steps,
            grid=self.grid,
            limits={key: value for key, value in limits.items() if value is not None},
            run=self.run,
        )


Arguments = TypeVar("Arguments", bound=RunArguments)


def catalogue(columns: int = 6) -> list[list[str]]:
    """The samplers' names, in rows."""
    names = list(SAMPLERS)
    return [names[i : i + columns] for i in range(0, len(names), columns)]


def read_arguments(
    cls: type[Arguments], argv: Sequence[str], prog: str, description: str, taken: Sequence[str] = ()
) -> tuple[Arguments, str]:
    """(The arguments of a command with the options of its sampler, the sampler's name: the run's own unless given.)

    `taken` names flags that the command has read itself. Raises UsageError for anything that cannot be read,
    CheckpointError when the run cannot be.
    """
    argv = respelt(argv, flags_of(cls))  # --run is read before the rest, whatever it is called
    name, argv = take_flag(argv, "--sampler")
    name = None if name is None else choose_name(name, "--sampler")
    asks_for_help = any(word in ("-h", "--help") for word in argv)
    place, _ = take_flag(argv, "--run")
    if place is None and not asks_for_help:
        raise UsageError("--run is missing; give the folder that `scorefield train` wrote.")
    if name is None and place is not None:  # a folder of one checkpoint has a config.json too
        name = choose_name(run_config(Path(place)).sampling.sampler, "--sampling.sampler")
    name = name or "heun"
    arguments = parse(_with_options(cls, name), argv, prog, description, taken=("--sampler", *taken))
    if arguments.steps is not None and arguments.steps < 1:
        raise UsageError(f"--steps is {arguments.steps}; give at least 1.")
    return arguments, name


def _with_options(cls: type[Arguments], name: str) -> type[Arguments]:
    """`cls` with the options of one sampler at its node."""
    options = Annotated[options_type(name), tyro.conf.arg(help=f"Options of {name}.")]
    field = dataclasses.field(default_factory=lambda: default_options(name))
    return dataclasses.make_dataclass(  # type: ignore[return-value]
        cls.__name__, [("sampler", options, field)], bases=(cls,), frozen=True, kw_only=True
    )
