"""What sampling costs besides its denoiser calls: overhead in time, memory, and compilation.

The networks are those of the MNIST presets, at a batch of 64. Time is compared with the bare jitted network: the
preconditioning, the solver and the loop are all overhead. Runs are interleaved with the network's in one process, and
the medians of ratios between neighbours are shown, so that a slow drift of the machine cancels.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.comparison.accuracy import steps_for
from diffusion import Process
from diffusion.networks import MLPConfig, build
from diffusion.prediction import Preconditioning, network_denoiser, network_input
from samplers import Interval, Restart, conditional_pair, sample
from samplers.registry import SAMPLERS, make_grid
from samplers.sample import Sampler

BATCH, CALLS, ROUNDS = 64, 10, 7
LENGTHS = (10, 100, 1000)
BAR = 1.03
"""How many times the bare network's calls a sampler may take."""


@dataclass(frozen=True)
class Model:
    """A network as it is sampled."""

    name: str
    process: Process
    denoise: Any
    free: Any
    """The denoiser without a class."""
    bare: Callable[[jax.Array], jax.Array]
    """The jitted network alone, with its weights: x -> its raw output."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Overhead:
    """One sampler's time over that of its network calls."""

    network: str
    sampler: str
    nfe: int
    ratio: float | None
    """The median over rounds, or None where the sampler does not exist for the process."""
    spread: float = 0.0
    """Half the range between the quartiles."""


@dataclass(frozen=True)
class Program:
    """One compiled `sample`."""

    sampler: str
    steps: int
    seconds: float
    """The time to trace, lower and compile, the least of the rounds."""
    megabytes: float | None
    """Temporary memory, besides the arguments and the result; None where the back-end does not say."""


def models(quick: bool = False) -> Iterator[Model]:
    """The networks of the presets mnist-edm-unet and mnist-flow-dit, or a small perceptron when `quick`."""
    from experiments.presets import mnist_edm_unet, mnist_flow_dit

    for name, config in (("mnist-edm-unet", mnist_edm_unet.CONFIG), ("mnist-flow-dit", mnist_flow_dit.CONFIG)):
        shape = (BATCH, 28, 28, 1)
        chosen = MLPConfig(hidden=16, layers=1, embedding=8) if quick else config.network
        process = config.process()
        yield _model(f"{name} as a perceptron" if quick else name, chosen, process, config.preconditioning, shape)


def _model(name: str, config: Any, process: Process, preconditioning: Preconditioning, shape: Any) -> Model:
    network, params = build(config, shape[1:], num_classes=10, key=jax.random.key(0))
    labels = jnp.arange(shape[0]) % 10
    times = jnp.full(shape[0], 0.5)
    run = jax.jit(lambda params, x, c_noise: network(params, x, c_noise, labels))
    c_noise = network_input(preconditioning, process, jnp.zeros(shape), times)[1]
    denoise, free = (network_denoiser(network, params, process, preconditioning, given) for given in (labels, None))
    return Model(name, process, denoise, free, lambda x: run(params, x, c_noise), shape)


def overhead(quick: bool = False) -> list[Overhead]:
    """Every sampler of the registry on every network, at about `CALLS` calls."""
    return [row for model in models(quick) for row in _overhead(model, 2 if quick else ROUNDS)]


def _overhead(model: Model, rounds: int) -> list[Overhead]:
    runs: dict[str, tuple[Callable[[], Any], int]] = {}
    rows = []
    for name, entry in SAMPLERS.items():
        sampler = entry.default()
        try:
            # Restart's own intervals cost more than that.
            grid = make_grid(model.process, sampler, "auto", steps_for(sampler, CALLS) or CALLS)
            sampler = _within(model.process, sampler, grid)
            found = _sampled(model, sampler, grid)  # compiles
        except (TypeError, ValueError) as error:
            print(f"{name} on {model.name}: {error}", file=sys.stderr)
            rows.append(Overhead(model.name, name, 0, None))
            continue
        calls = found.nfe * (2 if sampler.takes_pair else 1)
        runs[name] = (lambda sampler=sampler, grid=grid: _sampled(model, sampler, grid).x), calls
    x = jnp.zeros(model.shape)
    jax.block_until_ready(model.bare(x))
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        before = _bare_call(model, x)
        for name, (run, nfe) in runs.items():
            took, after = _seconds(run), _bare_call(model, x)
            ratios[name].append(took / (nfe * (before + after) / 2))
            before = after
    for name, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        rows.append(Overhead(model.name, name, runs[name][1], middle, (high - low) / 2))
    return rows


def _within(process: Process, sampler: Sampler, grid: Any) -> Sampler:
    """Restart with an interval that begins at the third last level of the grid, any other sampler as it is."""
    if not isinstance(sampler, Restart):
        return sampler
    low = float(process.sigma(grid[-3]) / process.alpha(grid[-3]))
    return Restart(intervals=(Interval(low=low, high=2 * low),))


def _sampled(model: Model, sampler: Sampler, grid: Any) -> Any:
    denoise = _denoiser(model, sampler)
    return sample(jax.random.key(0), model.process, denoise, sampler, grid, model.shape)


def _denoiser(model: Model, sampler: Sampler) -> Any:
    return conditional_pair(model.denoise, model.free) if sampler.takes_pair else model.denoise


def _bare_call(model: Model, x: jax.Array) -> float:
    """Seconds that one call of the network takes, each waiting for the one before."""

    def calls() -> jax.Array:
        y = x
        for _ in range(CALLS):
            y = model.bare(y)
        return y

    return _seconds(calls) / CALLS


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def programs(quick: bool = False, rounds: int = 3, lengths: tuple[int, ...] = LENGTHS) -> list[Program]:
    """`sample` with the first network compiled for grids of each length, from scratch, in turns."""
    model, rounds = next(models(quick)), 1 if quick else rounds
    jax.config.update("jax_enable_compilation_cache", False)
    _compile(model, SAMPLERS["euler"].default(), 10)  # whatever is done once
    rows = []
    for name, entry in SAMPLERS.items():
        sampler = entry.default()
        try:
            found = [[_compile(model, sampler, steps) for steps in lengths] for _ in range(rounds)]
        except (TypeError, ValueError) as error:
            print(f"{name} on {model.name}: {error}", file=sys.stderr)
            continue
        for i, steps in enumerate(lengths):
            seconds = min(turn[i][0] for turn in found)  # what else the machine does can only add to it
            rows.append(Program(name, steps, seconds, found[0][i][1]))
    return rows


def _compile(model: Model, sampler: Sampler, steps: int) -> tuple[float, float | None]:
    """(seconds, megabytes of temporary memory); the grid and the weights are arguments, as they are in `sample`."""
    jax.clear_caches()
    grid = jnp.linspace(float(model.process.t_max), 0.0, steps + 1)
    start = time.perf_counter()
    run = jax.jit(lambda key, denoise, grid: sample(key, model.process, denoise, sampler, grid, model.shape).x)
    compiled = run.lower(jax.random.key(0), _denoiser(model, sampler), grid).compile()
    seconds = time.perf_counter() - start
    used = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    return seconds, None if used is None else used / 1e6


def overhead_table(rows: list[Overhead]) -> str:
    """The ratios, a column for each network."""
    networks = list(dict.fromkeys(row.network for row in rows))
    lines = ["| sampler | " + " | ".join(f"{name}, {_worst(rows, name)}" for name in networks) + " |"]
    lines.append("|---" * (1 + len(networks)) + "|")
    for name in dict.fromkeys(row.sampler for row in rows):
        cells = [next(row for row in rows if row.sampler == name and row.network == network) for network in networks]
        shown = ["none" if c.ratio is None else f"{c.ratio:.3f} ± {c.spread:.3f} ({c.nfe} calls)" for c in cells]
        lines.append("| " + " | ".join([name, *shown]) + " |")
    return "\n".join(lines)


def _worst(rows: list[Overhead], network: str) -> str:
    worst = max(row.ratio for row in rows if row.network == network and row.ratio is not None)
    return f"worst {worst:.3f} ({'within' if worst <= BAR else 'over'} {BAR})"


def memory_table(rows: list[Program]) -> str:
    """Temporary memory for each number of steps."""
    return _lengths_table(rows, "MB", lambda row: row.megabytes, "{:.2f}")


def compile_table(rows: list[Program]) -> str:
    """Seconds of compilation for each number of steps."""
    return _lengths_table(rows, "s", lambda row: row.seconds, "{:.2f}")


def _lengths_table(rows: list[Program], unit: str, value: Callable[[Program], float | None], form: str) -> str:
    lengths = sorted({row.steps for row in rows})
    columns = ["sampler", *(f"{steps} steps, {unit}" for steps in lengths), "last / first"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name in dict.fromkeys(row.sampler for row in rows):
        found = [value(row) for steps in lengths for row in rows if row.sampler == name and row.steps == steps]
        known = [one for one in found if one is not None]
        cells = [form.format(one) for one in known] if len(known) == len(found) else ["unknown"] * len(found)
        ratio = f"{known[-1] / known[0]:.2f}" if len(known) == len(found) and known[0] > 0 else ""
        lines.append("| " + " | ".join([name, *cells, ratio]) + " |")
    return "\n".join(lines)


def report(rows: list[Any]) -> list[dict[str, Any]]:
    """The rows for the JSON."""
    return [asdict(row) for row in rows]
