"""Modules that have moved, still importable under their old names."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

Homes = Sequence[str]
"""The modules in which the names of an old one are found now, in the order in which they are searched."""


def forward(table: Mapping[str, Homes]) -> None:
    """Make each old name of `table` importable: the module itself where it has one home, else a view of all of them."""
    sys.meta_path.append(_Finder(dict(table)))


def spec(name: str, homes: Homes) -> importlib.machinery.ModuleSpec | None:
    """How the import system makes the module of an old name."""
    return importlib.util.spec_from_loader(name, _Loader(homes), is_package=True)


def names_from(module: str, homes: Homes) -> Callable[[str], Any]:
    """A module's `__getattr__` that looks for a name in `homes`; for a package named as a module was before."""

    def find(name: str) -> Any:
        if not name.startswith("__"):
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


class _Finder(importlib.abc.MetaPathFinder):
    """Finds old names alone, and only when nothing else does."""

    def __init__(self, table: dict[str, Homes]) -> None:
        self.table = table

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return spec(name, self.table[name]) if name in self.table else None


class _Loader(importlib.abc.Loader):
    def __init__(self, homes: Homes) -> None:
        self.homes = homes

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if len(self.homes) == 1:  # one module under two names: its classes and its state are the same
            sys.modules[module.__name__] = importlib.import_module(self.homes[0])
        else:
            module.__dict__["__getattr__"] = names_from(module.__name__, self.homes)
