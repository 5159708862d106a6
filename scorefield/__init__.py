"""Diffusion and score models in JAX: the one door to the packages `diffusion`, `samplers` and `experiments`.

    import scorefield

    run = scorefield.load("runs/digits-ddpm")
    images = run.sample(seeds=range(64), sampler="dpmpp-2m", steps=20)

    for step in scorefield.training(scorefield.preset("digits-ddpm"), "runs/mine"):
        if step.step % 100 == 0:
            print(step.step, step.loss)

`dir(scorefield)` lists every name; `__init__.pyi` says where each is at home. A name's home is imported when the name
is first used, so that the import itself is quick and touches no device.
"""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

from scorefield.shadows import shadowed

if _shadowed := shadowed(Path(__file__).parent.parent):
    # Python imports the package before `__main__.py`, with this in the place of the program's name.
    if sys.argv[:1] == ["-m"] and ["-m", "scorefield"] in ([*pair] for pair in itertools.pairwise(sys.orig_argv)):
        print(f"scorefield: error: {_shadowed}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(_shadowed)


@functools.cache
def _homes() -> dict[str, tuple[str, str]]:
    """(Module, name in it) of each name."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":  # for `from scorefield import *`
        return sorted(_homes())
    if name not in _homes():
        # With `name` and `obj` Python itself suggests the nearest name.
        raise AttributeError(f"module 'scorefield' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    from scorefield.flags import compile_as_the_command

    compile_as_the_command()
    module, original = _homes()[name]
    try:
        home = importlib.import_module(module)
        if module.startswith("experiments.interface"):  # a run is loaded by what this imports: say now if it is missing
            importlib.import_module("experiments.training.checkpoint")
        # Of `register`, a module, the home is a package that need not have imported it.
        value = getattr(home, original) if hasattr(home, original) else importlib.import_module(f"{module}.{original}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "diffusion", "samplers", "experiments"):
            raise
        raise ImportError(
            f"scorefield.{name} needs the package {missing}; install it by: pip install 'scorefield[train]'."
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})
