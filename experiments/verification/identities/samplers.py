"""Row 38: every deterministic sampler at its order. (Weak and strong orders of the others are in the tests' table.)"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import Process
from diffusion import keys as keys_lib
from diffusion.oracles import flow_map_1d
from experiments.verification.laws import PROCESSES, line
from experiments.verification.registry import Measured, Setting, identity, largest, worst_of
from experiments.verification.report.plots import Curves
from samplers.grids import host_float64
from samplers.registry import SAMPLERS
from samplers.sample import Sampler

# Whose coefficients are those of even steps in ρ, and whose asymptote is reached late.
_EVEN_IN_RHO = ("ipndm",)
_FINER = {"ipndm": 8, "deis": 2}


def _grid(process: Process, steps: int, even_in_rho: bool = False) -> np.ndarray:
    with host_float64():
        spaced = np.linspace if even_in_rho else np.geomspace
        half = jnp.log(jnp.asarray(spaced(5.0, 0.05, steps + 1)))
        return np.asarray(process.schedule.time_from_log_snr(-2 * half))


def _ends(process: Process, sampler: Sampler, x: Array, counts: tuple[int, ...], even_in_rho: bool) -> list[np.ndarray]:
    """x at the end of each grid: `sample`'s own steps in a loop that is compiled once for all lengths."""
    denoise = line().denoiser(process)
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(x.shape[0]))

    @jax.jit
    def run(grid: Array, steps: Array) -> Array:
        def body(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            moved, carry = state
            return sampler.step(keys_lib.fold(keys, i + 1), moved, carry, grid[i], grid[i + 1], process, denoise)

        return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]

    grids = [np.pad(_grid(process, n, even_in_rho), (0, max(counts) - n), mode="edge") for n in counts]
    return [np.asarray(run(jnp.asarray(grid), jnp.asarray(n))) for grid, n in zip(grids, counts, strict=True)]


@identity(
    row="38",
    name="sampler-orders",
    topic="samplers",
    title="Every solver at its order",
    latex=r"|x^{(N)} - x| = O(N^{-p})",
    compared="the slope of the error of every deterministic sampler in its defaults with its stated order: "
    "how far below it the worst one is, on EDM",
    oracle="the flow of two Gaussians on the line, which is the map between their quantiles",
    source="the papers of the samplers: see scorefield samplers",
    tolerance=0.15,
    why="on 40 to 160 steps the asymptote is reached to a tenth; the README's table has the finer grids",
    functions=("samplers.sample.sample", "samplers.registry.SAMPLERS"),
    amplification=1.5e7,
    test="tests/samplers/test_order.py",
)
def _orders(setting: Setting) -> Measured:
    process, law = PROCESSES["EDM"][0], line()
    counts = (40, 80, 160) if setting.precision == "float64" else (8, 16, 32)
    start, end = _grid(process, 1)
    x = law.sample_marginal(setting.key(1), process, 16, start)
    exact = np.asarray(flow_map_1d(law, process, x, start, end))
    lines, shortfall = {}, {}
    for name, entry in SAMPLERS.items():
        sampler = entry.default()
        if sampler.stochastic or sampler.takes_pair:
            continue
        steps = tuple(_FINER.get(name, 1) * n for n in counts)
        ends = _ends(process, sampler, x, steps, name in _EVEN_IN_RHO)
        errors = [float(np.sqrt(np.mean((end - exact) ** 2))) for end in ends]
        slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        lines[name], shortfall[name] = errors, sampler.stated_order - slope
    worst = worst_of(shortfall)
    shown = dict(list(lines.items())[::2])
    return Measured(largest(worst.error, 0.0), worst.detail, Curves(counts, shown, "steps", "error", True, True))
