"""What a module of your own calls to give its classes a name on the command line and in `config.json`.

    from scorefield import register

    @register.schedule("my-schedule")
    @pytree
    class MySchedule(Schedule):
        ...

`scorefield train --plugin my_module --schedule my-schedule` then trains with it, and --plugin my_module with any other
command loads the run. A package can name its module as an entry point in the group `scorefield.plugins` instead.

Every class is made without arguments when its name is given, so all its fields need defaults; those become options,
`--schedule.my-field 3`. All decorators raise UsageError for a name that is taken and for what does not fit.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from diffusion.networks.configs import NetworkConfig
from diffusion.noises import Noise
from diffusion.schedules import Schedule
from diffusion.score_matching.times import TimeDistribution
from diffusion.score_matching.weightings import Weighting
from experiments import presets
from experiments.config import choices
from experiments.config.plugins import claim
from experiments.config.tree import Config
from experiments.data.registry import SOURCES, Kind, Reader
from experiments.errors import UsageError
from samplers.registry import SAMPLERS, Entry
from samplers.sample import Sampler

T = TypeVar("T", bound=type)
R = TypeVar("R", bound=Reader)
P = TypeVar("P", bound=Callable[[], Config])


def schedule(name: str) -> Callable[[T], T]:
    """Name a `diffusion.Schedule`, a dataclass made by `diffusion.pytree.pytree`: `--schedule NAME`."""
    return _node("schedule", name, Schedule)


def noise(name: str) -> Callable[[T], T]:
    """Name a `diffusion.Noise`, a dataclass made by `diffusion.pytree.pytree`: `--noise NAME`."""
    return _node("noise", name, Noise)


def network(name: str) -> Callable[[T], T]:
    """Name a `diffusion.networks.NetworkConfig`, a frozen dataclass: `--network NAME`."""
    return _node("network", name, NetworkConfig, is_tree=False)


def weighting(name: str) -> Callable[[T], T]:
    """Name a `diffusion.score_matching.weightings.Weighting`, made by `diffusion.pytree.pytree`: `--weighting NAME`."""
    return _node("weighting", name, Weighting)


def times(name: str) -> Callable[[T], T]:
    """Name a `diffusion.score_matching.times.TimeDistribution`, made by `diffusion.pytree.pytree`: `--times NAME`."""
    return _node("times", name, TimeDistribution)


def sampler(name: str, source: str = "") -> Callable[[T], T]:
    """Name a `samplers.Sampler`, made by `diffusion.pytree.pytree`: `--sampler NAME`; `source` is its paper."""
    module = _caller()

    def register(cls: T) -> T:
        _see_that_it_fits("sampler", cls, Sampler, is_tree=True)
        claim("sampler", name, module, SAMPLERS)
        SAMPLERS[name] = Entry(cls, source or f"the plugin {module}")
        return cls

    return register


def data_source(form: str, summary: str) -> Callable[[R], R]:
    """Name a function (where, DataConfig) -> Source: `--data SCHEME:WHERE`.

    `form` is how its URI is written, such as "mine:DIR", and `summary` what it holds.
    """
    module = _caller()

    def register(read: R) -> R:
        kind = Kind(form, summary, read)
        claim("data source", kind.scheme, module, SOURCES)
        SOURCES[kind.scheme] = kind
        return read

    return register


def preset(name: str) -> Callable[[P], P]:
    """Name a function that makes a `Config`: `--preset NAME`. Its docstring is what `scorefield presets` says of it."""
    module = _caller()

    def register(make: P) -> P:
        claim("preset", name, module, presets.names())
        presets.PLUGINS[name] = make
        return make

    return register


def _node(node: str, name: str, base: type, *, is_tree: bool = True) -> Callable[[T], T]:
    module = _caller(2)

    def register(cls: T) -> T:
        _see_that_it_fits(node, cls, base, is_tree)
        choices.add(node, name, cls, module)
        return cls

    return register


def _caller(depth: int = 1) -> str:
    """The module whose line calls a function of this one."""
    return sys._getframe(depth + 1).f_globals["__name__"]


def _see_that_it_fits(what: str, cls: Any, base: type, is_tree: bool) -> None:
    name = getattr(cls, "__name__", repr(cls))
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UsageError(f"the {what} {name} is not a subclass of {base.__module__}.{base.__name__}; make it one.")
    if "__dataclass_fields__" not in vars(cls):
        remedy = "@diffusion.pytree.pytree" if is_tree else "@dataclasses.dataclass(frozen=True)"
        raise UsageError(f"the {what} {name} is not a dataclass; write {remedy} between it and the line that names it.")
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"the {what} {name} has no default for {field.name}; give one.")
    if is_tree and jax.tree_util.all_leaves([cls()]):
        raise UsageError(f"the {what} {name} is a leaf to JAX; make it by @diffusion.pytree.pytree, not by dataclass.")
