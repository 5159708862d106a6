"""Frozen configurations by name, one module each; its docstring is the command, the time and the result."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable
from dataclasses import replace

from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.errors import UsageError, did_you_mean

PLUGINS: dict[str, Callable[[], Config]] = {}
"""The presets that plugins have registered, by name."""


def names() -> list[str]:
    """The names of all presets, in order; scorefield's own are not imported for that."""
    return sorted([*(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)), *PLUGINS])


def load(name: str, size: int | str | None = None) -> Config:
    """The configuration of a preset, for images of `size` × `size` pixels if that is given, or as 48x64.

    The module of a preset that follows the size has a function `at(size)`, which is given the longer side; of another
    only `data.size` changes.
    Raises UsageError for an unknown name.
    """
    if name in PLUGINS:
        return _of_size(PLUGINS[name](), size)
    if name not in names():
        if os.path.isfile(name) or name.endswith(".json"):
            raise UsageError(f"--preset {name} is no name of a preset; a file is given by --config {name}.")
        if os.path.isfile(file := os.path.join(name, "config.json")):
            raise UsageError(
                f"--preset {name} is a run; go on with it by --run {name}, or begin anew by --config {file}."
            )
        near = did_you_mean(name, names())
        raise UsageError(f"--preset {name} does not exist{near}; there are {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    shape = None if size is None else DataConfig(size=size).shape
    if shape is not None and min(shape) > 0 and hasattr(module, "at"):
        return _of_size(module.at(max(shape)), size)
    return _of_size(module.CONFIG, size)


def _of_size(config: Config, size: int | str | None) -> Config:
    return config if size is None else replace(config, data=replace(config.data, size=size))


def describe(name: str) -> str:
    """The description of a preset: the docstring of its module, or of a plugin's function."""
    home = PLUGINS.get(name) or importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return inspect.getdoc(home) or ""


# Their names in `scorefield`.
preset, presets = load, names
