"""A sampler as people give it, by name, as an object or not at all, as the choice that the commands make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.interface.arguments import check_sampling, whole
from experiments.sampling.choice import AncestralOptions, Options, SamplerChoice
from experiments.sampling.solver import Solver
from samplers.registry import SAMPLERS

SamplerLike = str | Options | None
"""A sampler by its name in `scorefield samplers`, as an object, or None for the run's own."""


def choice_of(
    config: Config,
    run: Path,
    sampler: SamplerLike,
    steps: int | None,
    grid: str | None,
    limits: Mapping[str, float] | None,
) -> SamplerChoice:
    """The choice of a sampler that is given by name, as an object, or not at all, for a run in the folder `run`.

    Raises UsageError for what is no sampler, grid or number of steps.
    """
    check_sampling(sampler, grid, limits)
    steps = None if steps is None else whole("steps", steps)
    if sampler is None or isinstance(sampler, str):
        return SamplerChoice.of(config, sampler, steps=steps, grid=grid, limits=limits, run=run)
    name = _name_of(sampler)
    if name in SAMPLERS:
        return SamplerChoice.of(config, name, options=sampler, steps=steps, grid=grid, limits=limits, run=run)
    return SamplerChoice(
        name=name, options=sampler, steps=steps or 20, grid=grid or "auto", limits=limits or {}, run=run
    )


def _name_of(sampler: Options) -> str:
    """The catalogue's name of a sampler, of just these options if there is one; without an entry that of its class."""
    if isinstance(sampler, AncestralOptions):
        return "ancestral"
    names = [name for name, entry in SAMPLERS.items() if entry.make is type(sampler)]
    exact = [name for name in names if SAMPLERS[name].default() == sampler]
    return (exact or names or [type(sampler).__name__])[0]


@contextlib.contextmanager
def in_a_sentence(solver: Solver) -> Iterator[None]:
    """Say which sampler it is that refuses."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"sampler {solver.name}: {error}") from None
