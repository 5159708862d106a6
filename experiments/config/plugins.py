"""Modules of the user's own that give a run some of its classes, and on whose word one is imported.

A plugin is imported because the person has named it: by `--plugin MODULE`, in the environment variable
SCOREFIELD_PLUGINS (several with commas), or by installing a package with an entry point in the group
`scorefield.plugins`. A config.json may come from someone else: what it names is never reason enough.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from experiments.errors import ScorefieldError, UsageError, reason, warn

GROUP = "scorefield.plugins"
VARIABLE = "SCOREFIELD_PLUGINS"

_named: set[str] = set()
"""The modules that `load` was given."""
_owners: dict[tuple[str, str], str] = {}
"""(kind, name) of what plugins have registered, and the module that has."""


def load(modules: Sequence[str] = ()) -> None:
    """Import these plugins, and those that the environment or an installed package names.

    Raises UsageError for one that is missing or cannot be imported; an installed one that fails is skipped with a line
    on standard error.
    """
    _named.update(modules)
    for module in [*modules, *_in_environment()]:
        _import(module)
    for module in _installed():
        try:
            _import(module)
        except ScorefieldError as error:
            warn(str(error))


def require(module: str, where: str) -> None:
    """See that the plugin that the configuration at `where` names has been imported, or import it if it is trusted.

    Raises UsageError when nothing but the configuration names it, or it cannot be imported.
    """
    if module in _owners.values():
        return
    if module == "__main__":
        raise UsageError(f"{where} needs a class of the script or notebook that trained it; move it into a module.")
    if not any(module == trusted or module.startswith(f"{trusted}.") for trusted in _trusted()):
        raise UsageError(f"{where} needs the plugin {module}; add --plugin {module} if you trust it.")
    _import(module)


def claim(kind: str, name: str, module: str, names: Iterable[str]) -> None:
    """Note that `module` registers `name` among the `names` of its kind; a module may do so anew.

    Raises UsageError for a name that is taken, or cannot be written on a command line.
    """
    if not name.replace("-", "").isalnum() or name != name.lower():
        raise UsageError(f"{module} registers the {kind} {name!r}; use lower-case letters, digits and hyphens.")
    if name in names and _owners.get((kind, name)) != module:
        raise UsageError(f"{module} registers the {kind} {name}, and there is one of that name; choose another.")
    _owners[kind, name] = module


def owner(kind: str, name: str) -> str | None:
    """The plugin that has registered this name; None for scorefield's own."""
    return _owners.get((kind, name))


def _trusted() -> set[str]:
    return {*_named, *_in_environment(), *_installed()}


def _in_environment() -> list[str]:
    return [module for part in os.environ.get(VARIABLE, "").split(",") if (module := part.strip())]


def _installed() -> list[str]:
    return [point.module for point in entry_points(group=GROUP)]


def _import(module: str) -> None:
    """Import a module; from the current folder if its name is found nowhere else."""
    if module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"the plugin {module!r} is not the name of a module; give it as import does, my_module.")
    top, here = module.partition(".")[0], Path.cwd()
    try:
        missing = top not in sys.modules and importlib.util.find_spec(top) is None
        if missing and ((here / f"{top}.py").exists() or (here / top).is_dir()):
            sys.path.append(str(here))
        importlib.import_module(module)
    except ScorefieldError:
        raise
    except Exception as error:  # whatever a user's own lines may raise
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            remedy = "install it, or put its folder on PYTHONPATH"
            raise UsageError(f"the plugin {module} does not exist; {remedy}.") from None
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in frame.filename]
        place = "".join(f" at {frame.filename}:{frame.lineno}" for frame in frames[-1:])
        raise UsageError(
            f"the plugin {module} cannot be imported ({type(error).__name__}{place}: {reason(error)}); mend it."
        ) from error
