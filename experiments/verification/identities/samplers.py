"""Row 38: the order of every deterministic sampler; `experiments.verification.orders` has more, on finer grids."""

from __future__ import annotations

import jax

from diffusion.oracles import flow_map_1d
from experiments.verification.laws import PROCESSES, draws, line
from experiments.verification.orders.problems import grid_of, observed_order, padded, root_mean_square, run_on
from experiments.verification.registry import Measured, Setting, Within, identity, largest, worst_of
from experiments.verification.report.plots import Curves
from samplers import sample
from samplers.registry import SAMPLERS, Entry, follows_flow

_EVEN_IN_RHO = ("ipndm",)
"""The samplers whose coefficients are those of even steps in ρ."""
_FINER = {"ipndm": 8, "deis": 2}
"""The factors by which grids are finer for samplers that reach their asymptote late."""


@identity(
    row="38",
    title="Every solver reaches its order",
    latex=r"|x^{(N)} - x| = O(N^{-p})",
    compared="the slope of the error of every deterministic sampler, with its defaults on EDM, with its stated order: "
    "the largest shortfall",
    oracle="the flow of two Gaussians on the line, which is the map between their quantiles",
    source="the papers of the samplers: see scorefield samplers",
    bound=Within(
        0.15,
        "on 40 to 160 steps the asymptote is reached to a tenth; docs/orders.md has the finer grids",
        roundoffs=1.5e7,
    ),
    functions=(sample, Entry.default),
    test="tests/samplers/test_order.py",
)
def _sampler_orders(setting: Setting) -> Measured:
    process, law = PROCESSES["EDM"][0], line()
    counts = (40, 80, 160) if setting.precision == "float64" else (8, 16, 32)
    start, end = grid_of(process, 1)
    x = draws(law, setting.key(1), process, 16, start)
    exact = jax.jit(flow_map_1d)(law, process, x, start, end)
    lines, shortfall = {}, {}
    for name, entry in SAMPLERS.items():
        sampler = entry.default()
        if not follows_flow(sampler):
            continue
        steps, even_in = [_FINER.get(name, 1) * n for n in counts], "rho" if name in _EVEN_IN_RHO else "log-snr"
        run = run_on(process, law.denoiser(process), sampler, x)
        ends = [run(padded(grid_of(process, n, even_in), steps[-1]), n) for n in steps]
        lines[name] = [root_mean_square(end, exact) for end in ends]
        shortfall[name] = sampler.stated_order - observed_order(counts, lines[name])
    worst = worst_of(shortfall)
    shown = dict(list(lines.items())[::2])
    return Measured(largest(worst.error, 0.0), worst.detail, Curves(counts, shown, "steps", "error", True, True))
