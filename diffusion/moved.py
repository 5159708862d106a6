"""Modules that have moved, still importable under their old names.

An old name costs nothing until it is imported: a table is one more finder on `sys.meta_path`.
"""

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
"""The modules that now hold the names of an old one, in the order in which they are searched."""


def forward(table: Mapping[str, Homes]) -> None:
    """Make each old name of `table` importable.

    With one home it is that very module under a second name, so its classes and its state are the same; with several,
    a module that looks its names up in them.
    """
    # Before the others: they would find the files of a package that is known by an old name, and load them twice.
    sys.meta_path.insert(0, _Finder(dict(table)))


def spec(name: str, homes: Homes) -> importlib.machinery.ModuleSpec | None:
    """How the import system makes the module of an old name."""
    return importlib.util.spec_from_loader(name, _Loader(homes), is_package=True)


def names_from(module: str, homes: Homes) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose names are found in `homes`; also for a package that has a module's old name.

    What it returns raises AttributeError for a name that none of them has.
    """

    def find(name: str) -> Any:
        if not name.startswith("__"):
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the old names, and nothing else."""

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
        if len(self.homes) == 1:  # the import system returns what it finds here afterwards
            sys.modules[module.__name__] = importlib.import_module(self.homes[0])
        else:
            module.__dict__["__getattr__"] = names_from(module.__name__, self.homes)
