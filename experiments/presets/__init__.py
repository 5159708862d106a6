"""Frozen configurations by name, one module each; its docstring is the command, the time and the result."""

from __future__ import annotations

import importlib
import pkgutil

from experiments.config.tree import Config
from experiments.errors import UsageError, did_you_mean


def names() -> list[str]:
    """The presets there are, without importing any of them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Config:
    """The configuration of a preset.

    Raises UsageError for an unknown name.
    """
    if name not in names():
        near = did_you_mean(name, names())
        raise UsageError(f"--preset {name} does not exist{near}; there are {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").CONFIG


def describe(name: str) -> str:
    """The docstring of a preset's module."""
    return (importlib.import_module(f"{__name__}.{name.replace('-', '_')}").__doc__ or "").strip()


# Their names in `scorefield`.
preset, presets = load, names
