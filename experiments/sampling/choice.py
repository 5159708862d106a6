"""Which sampler, with which options, on which grid: a choice, before it meets the model that is to be sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config.tree import Config
from experiments.names import canonical, choose
from experiments.sampling.variance import VarianceName
from samplers.registry import SAMPLERS
from samplers.sample import Sampler

_STEPS = 20
"""Steps of a sampler that is not the run's own."""


@dataclass(frozen=True)
class AncestralOptions:
    """Ancestral sampling."""

    variance: VarianceName = "auto"
    """Reverse variance: learned where there is one, else small (β̃); large is β, optimal Analytic-DPM's."""


@dataclass(frozen=True)
class BespokeOptions:
    """A solver that `scorefield grid` has fitted to the run."""

    answers: int = 4
    """How many of the network's answers a step weighs, this one and the ones before."""


BESPOKE = "bespoke"
"""The name of the solver whose times and weights were fitted to the run; it is no sampler before that."""
Options = Sampler | AncestralOptions | BespokeOptions
"""The options of a sampler: the sampler itself, but where that needs the model."""
_OF_THE_MODEL: Mapping[str, Any] = {"ancestral": AncestralOptions, BESPOKE: BespokeOptions}
"""Options of the samplers that need it: a variance that may be estimated, times and weights that were fitted."""


@dataclass(frozen=True, kw_only=True)
class SamplerChoice:
    """A sampler by name, its options, and the grid that it is to walk."""

    name: str
    """The sampler's name, as the catalogue spells it."""
    options: Options
    steps: int
    """The number of steps."""
    grid: str = "auto"
    """The grid's name; auto is the usual one for sampler and process, fitted the one that was fitted to the run."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Limits of the grid that differ from its own: sigma_min, sigma_max, rho."""
    offset: int = 0
    """Times of the chain by which the grid is moved towards the prior."""
    last: int = 0
    """Time of the chain at which the grid ends; 0 is that of the data."""
    run: Path | None = None
    """The folder in which a fitted grid is looked for, of a run or of one of its checkpoints. [the model's own]"""
    flag: str = "--sampler"
    """The flag that an error names, where a person has made the choice."""

    @classmethod
    def own(cls, config: Config) -> SamplerChoice:
        """The choice that the run's configuration makes. Raises UsageError when there is no such sampler."""
        own, flag = config.sampling, "--sampling.sampler"
        name = choose_name(own.sampler, flag)
        return cls(
            name=name,
            options=default_options(name),
            steps=own.steps,
            grid=canonical(own.grid),
            offset=own.offset,
            last=own.last,
            flag=flag,
        )

    @classmethod
    def of(
        cls,
        config: Config,
        name: str | None = None,
        *,
        options: Options | None = None,
        steps: int | None = None,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        run: Path | None = None,
    ) -> SamplerChoice:
        """A choice for a run, its blanks filled in: by the run's own with its own sampler, else 20 steps of grid auto.

        A grid of the run's own name is moved and ends as the run's. Without a name it is the run's own sampler.
        Raises UsageError when there is no such sampler.
        """
        name = choose_name(config.sampling.sampler if name is None else name, "--sampler")
        own = config.sampling if name == canonical(config.sampling.sampler) else None
        grid = canonical(grid or (own.grid if own else "auto"))
        same = grid == canonical(config.sampling.grid)
        return cls(
            name=name,
            options=default_options(name) if options is None else options,
            steps=steps or (own.steps if own else _STEPS),
            grid=grid,
            limits=limits or {},
            offset=config.sampling.offset if same else 0,
            last=config.sampling.last if same else 0,
            run=run,
        )


def choose_name(name: str, flag: str) -> str:
    """The name as the catalogue spells it. Raises UsageError, naming `flag`, when there is no such sampler."""
    choose(flag, name, {**SAMPLERS, BESPOKE: None})
    return canonical(name)


def default_options(name: str) -> Options:
    """The options that the name alone stands for."""
    return _OF_THE_MODEL[name]() if name in _OF_THE_MODEL else SAMPLERS[name].default()


def options_type(name: str) -> Any:
    """What makes the options of this sampler from keyword arguments."""
    return _OF_THE_MODEL[name] if name in _OF_THE_MODEL else SAMPLERS[name].make
