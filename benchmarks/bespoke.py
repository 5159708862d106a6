"""Solvers whose times and weights are fitted together, beside every fixed solver and every fitted grid, at few calls.

    python -m benchmarks.bespoke [--problems 64-D,784-D] [--calls 5,8,10] [--json FILE]

The problems are those of `benchmarks.comparison`: mixtures of Gaussians, their exact denoisers, and exact answers from
starts that no fit has seen. Each solver is fitted twice: to the law itself, and to a sibling, another law of the same
kind. The error is the root-mean-square distance from the exact solution, and the median that of the middle sample,
which the few that end in another hump do not move.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.comparison import accuracy
from benchmarks.comparison.problems import LAWS, PROCESS, Problem, problem, sibling
from samplers import bespoke_solver, optimised_grid
from samplers.sample import Sampler, run_steps

KEY = jax.random.key(2)
KINDS = ("fixed", "fitted grid", "fitted grid, sibling", "bespoke", "bespoke, sibling")


@dataclass(frozen=True)
class Result:
    """The best of a kind at a number of calls."""

    problem: str
    calls: int
    kind: str
    error: float
    median: float
    name: str


def results(name: str, calls: int, draws: int, rounds: int, batch: int | None = None) -> Iterator[Result]:
    """One result for each of `KINDS`; what is fitted here is fitted to so many `draws` in at most so many `rounds`."""
    where = problem(name, batch)
    rows = [row for row in accuracy.ours(where, [calls]) if np.isfinite(row.error)]
    for kind, elsewhere in (("fixed", False), ("fitted grid, sibling", True)):
        of_kind = [row for row in rows if (row.grid == accuracy.FITTED_GRID) == elsewhere]
        best, median = min(of_kind, key=lambda row: row.error), min(row.median for row in of_kind)
        yield Result(name, calls, kind, best.error, median, f"{best.sampler}, {best.grid}")
    denoise, shape = where.law.denoiser(PROCESS), (draws, *where.law.event_shape)
    tried = []
    for sampler in accuracy.FITTED:
        try:
            fitted = optimised_grid(KEY, PROCESS, denoise, sampler, calls, shape, rounds=rounds)
        except ValueError:  # fewer steps than its order
            continue
        tried.append(_result(where, calls, "fitted grid", sampler, fitted.grid))
    yield min(tried, key=lambda each: each.error)
    for kind, law in (("bespoke", where.law), ("bespoke, sibling", sibling(name))):
        found = bespoke_solver(KEY, PROCESS, law.denoiser(PROCESS), calls, shape, rounds=rounds)
        yield _result(where, calls, kind, found.sampler, np.asarray(found.sampler.times))


def _result(where: Problem, calls: int, kind: str, sampler: Sampler, grid: np.ndarray) -> Result:
    denoise = jax.tree_util.Partial(where.law.denoiser(PROCESS))
    end = run_steps(PROCESS, denoise, sampler, jnp.asarray(grid), jnp.asarray(where.start))
    each = np.sqrt(np.mean((np.asarray(end) - where.exact) ** 2, axis=1))
    return Result(
        where.name, calls, kind, float(np.sqrt(np.mean(each**2))), float(np.median(each)), type(sampler).__name__
    )


def table(found: list[Result]) -> str:
    """A row for each problem and number of calls, errors and in brackets medians; the last two columns are ratios."""
    columns = ["problem", "calls", *KINDS, "bespoke / best other", "bespoke, sibling / fixed"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, calls in dict.fromkeys((each.problem, each.calls) for each in found):
        row = {each.kind: each for each in found if (each.problem, each.calls) == (name, calls)}
        cells = [f"{row[kind].error:.1e} ({row[kind].median:.1e})" for kind in KINDS]
        others = min(row["fixed"].error, row["fitted grid"].error)
        ratios = [row["bespoke"].error / others, row["bespoke, sibling"].error / row["fixed"].error]
        lines.append("| " + " | ".join([name, str(calls), *cells, *(f"{ratio:.2f}" for ratio in ratios)]) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Solvers fitted as a whole, beside fixed ones and fitted grids.")
    parser.add_argument("--problems", default="64-D,784-D", help="names among 2-D, 64-D and 784-D")
    parser.add_argument("--calls", default="5,8,10", help="numbers of network calls")
    parser.add_argument("--draws", type=int, default=256, help="draws that are fitted to")
    parser.add_argument("--rounds", type=int, default=8, help="largest number of rounds of each fit")
    parser.add_argument("--batch", type=int, help="starts that are measured [as many as benchmarks.comparison]")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="keep the results")
    given = parser.parse_args(arguments)
    names = given.problems.split(",")
    for name in names:
        if name not in LAWS:
            parser.error(f"--problems has {name}; there are {', '.join(LAWS)}.")
    found: list[Result] = []
    with jax.enable_x64(True):
        for name in names:
            for calls in map(int, given.calls.split(",")):
                found += results(name, calls, given.draws, given.rounds, given.batch)
                print(table([each for each in found if (each.problem, each.calls) == (name, calls)]).splitlines()[-1])
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
