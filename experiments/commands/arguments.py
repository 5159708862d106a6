"""The options of a run and of its sampler, as every command that samples a run reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from experiments.commands.options import parse, take_flag
from experiments.config.file import load_config
from experiments.errors import UsageError
from experiments.runs.load import CheckpointArguments
from experiments.sampling.solver import AncestralOptions, choose_name
from samplers.grids import GridName
from samplers.registry import SAMPLERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArguments(CheckpointArguments):
    """What every command is told that samples a run."""

    sampler: Any
    """Options of the sampler."""
    steps: int | None = None
    """Steps of the grid. [the run's own with its own sampler, else 20]"""
    grid: Literal["auto", "fitted"] | GridName | None = None
    """The time grid; auto is the usual one for sampler and process, fitted the one that `scorefield grid` has found.
    [the run's own with its own sampler, else auto]"""
    sigma_min: float | None = None
    """Smallest σ/α of the karras, uniform-log-snr, uniform-sigma and cosine grids."""
    sigma_max: float | None = None
    """Largest σ/α of these grids."""
    rho: float | None = None
    """Exponent of the karras grid. [7]"""
    json: bool = False
    """Print the result as JSON."""


Told = TypeVar("Told", bound=RunArguments)


def catalogue(columns: int = 6) -> list[list[str]]:
    """The samplers' names, in rows."""
    names = list(SAMPLERS)
    return [names[i : i + columns] for i in range(0, len(names), columns)]


def read_arguments(
    cls: type[Told], arguments: Sequence[str], prog: str, description: str, taken: Sequence[str] = ()
) -> tuple[Told, str]:
    """The arguments of a command, with the options of its sampler, and the sampler's name: the run's own unless told.

    `taken` are flags that the command has read itself. Raises UsageError for anything that cannot be read,
    CheckpointError when the run cannot be.
    """
    name, arguments = take_flag(arguments, "--sampler")
    name = None if name is None else choose_name(name, "--sampler")
    asks_for_help = any(argument in ("-h", "--help") for argument in arguments)
    place, _ = take_flag(arguments, "--run")
    if place is None and not asks_for_help:
        raise UsageError("--run is missing; give the folder that `scorefield train` wrote.")
    if name is None and place is not None:  # a folder of one checkpoint has a config.json too
        name = choose_name(load_config(Path(place) / "config.json").sampling.sampler)
    told = parse(_with_options(cls, name or "heun"), arguments, prog, description, taken=("--sampler", *taken))
    if told.steps is not None and told.steps < 1:
        raise UsageError(f"--steps is {told.steps}; give at least 1.")
    return told, name or "heun"


def _with_options(cls: type[Told], name: str) -> type[Told]:
    """`cls` with the options of one sampler at its node."""
    entry = SAMPLERS[name]
    options, default = (AncestralOptions, AncestralOptions) if name == "ancestral" else (entry.make, entry.default)
    field = dataclasses.field(default_factory=default)
    return dataclasses.make_dataclass(  # type: ignore[return-value]
        cls.__name__,
        [("sampler", Annotated[options, tyro.conf.arg(help=f"Options of {name}.")], field)],
        bases=(cls,),
        frozen=True,
        kw_only=True,
    )
