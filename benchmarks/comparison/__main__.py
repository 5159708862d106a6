"""Measure the samplers: python -m benchmarks.comparison [accuracy|overhead|memory|compile|all] [--json F] [--plot F].

accuracy   the error for a number of denoiser calls, ours and other libraries' (`accuracy`, `others`, `problems`)
overhead   the time of `sample` over that of the bare network's calls (`speed`)
memory     temporary memory of the compiled program at 10, 100 and 1000 steps
compile    time to trace, lower and compile it

Tables are printed in Markdown. `--json` keeps every row behind them, `--plot` draws the accuracies, and `--quick` does
a little of everything, to see that it works. What is needed comes with `pip install '.[train,bench]'`, but for
k-diffusion, which demands an older NumPy than jax does: `pip install --no-deps k-diffusion torchsde torchdiffeq
trampoline`. A library that is missing is reported and left out.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
from importlib import metadata
from typing import Any

PARTS = ("accuracy", "overhead", "memory", "compile")
LIBRARIES = ("scorefield", "jax", "numpy", "torch", "diffusers", "k-diffusion", "azula")


def main() -> None:
    """Run the parts that are asked for, print their tables, and keep their rows."""
    parser = argparse.ArgumentParser(description="Measure the samplers.")
    parser.add_argument("part", nargs="?", default="all", choices=(*PARTS, "all"))
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="keep every row behind the tables")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="draw the work-precision diagram (PNG)")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to see that it works")
    arguments = parser.parse_args()
    chosen = PARTS if arguments.part == "all" else (arguments.part,)
    if arguments.plot and "accuracy" not in chosen:
        parser.error("--plot draws the accuracies; ask for accuracy or all.")
    results: dict[str, Any] = {"versions": _versions(), "quick": arguments.quick}
    if "accuracy" in chosen:
        results["accuracy"] = _accuracy(arguments)
    if "overhead" in chosen:
        from benchmarks.comparison import speed

        rows = speed.overhead(arguments.quick)
        _show("Time over that of the bare network's calls", speed.overhead_table(rows))
        results["overhead"] = speed.report(rows)
    if {"memory", "compile"} & set(chosen):
        from benchmarks.comparison import speed

        programs = speed.programs(arguments.quick, rounds=3 if "compile" in chosen else 1)
        if "memory" in chosen:
            _show("Temporary memory of the compiled sampler", speed.memory_table(programs))
        if "compile" in chosen:
            _show("Time to compile the sampler", speed.compile_table(programs))
        results["programs"] = speed.report(programs)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def _accuracy(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.comparison import accuracy

    rows = accuracy.measure(arguments.quick)
    _show("Root-mean-square error at σ = 0 for a number of denoiser calls", accuracy.table(rows))
    if arguments.plot:
        from benchmarks.comparison.plots import plot

        plot(rows, arguments.plot)
    return accuracy.report(rows)


def _show(title: str, table: str) -> None:
    print(f"\n{title}\n\n{table}", flush=True)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
