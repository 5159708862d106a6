"""The work-precision diagram of a trained model: a line for each sampler, on its best grid at each number of calls."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8

from experiments.sampling.work_precision import WorkPrecision

_LINES = 6
"""Samplers that have a colour and a name; the others are thin and grey."""
_COLOURS = ("#c1272d", "#0b62a4", "#3a7d34", "#8a5a9e", "#b8860b", "#2a9d8f")
_GREY = "#bdbdbd"


def draw(found: WorkPrecision) -> UInt8[np.ndarray, "height width 4"]:
    """The root mean square distance from the fine solution against network calls, both logarithmic."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = _lines(found)
    ranked = sorted(lines, key=lambda name: sum(map(math.log, lines[name].values())) / len(lines[name]))
    ranked.sort(key=lambda name: -len(lines[name]))  # those that exist at every number of calls come first
    budgets = sorted({row.budget for row in found.rows})
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(7.2, 4.8), dpi=130, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        panel = figure.subplots()
        for place, name in reversed(list(enumerate(ranked))):
            named = place < _LINES
            style = (
                {"color": _COLOURS[place], "lw": 1.8, "marker": "o", "ms": 4} if named else {"color": _GREY, "lw": 1}
            )
            points = sorted(lines[name].items())
            panel.plot(*zip(*points, strict=True), label=name if named else None, zorder=2 + named, **style)
        if found.uncertainty > 0:
            panel.axhline(found.uncertainty, color="black", lw=0.8, ls=":")
            panel.annotate(
                "the fine solution, beside one of half as many steps",
                (1, found.uncertainty),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 3),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(budgets, [str(budget) for budget in budgets])
        panel.minorticks_off()
        panel.grid(True, color="#e4e4e4", lw=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("network calls for an image, at most")
        panel.set_ylabel(f"RMS distance from the fine solution, {found.unit}")
        panel.set_title("Each sampler on its best grid; the nearest named", loc="left", fontsize=11)
        handles, labels = panel.get_legend_handles_labels()
        panel.legend(handles[::-1], labels[::-1], frameon=False, fontsize=9)
        canvas.draw()
        return np.array(canvas.buffer_rgba())


def _lines(found: WorkPrecision) -> dict[str, dict[int, float]]:
    """Of each sampler the least distance at each number of calls, where there is one that a logarithm has."""
    lines: dict[str, dict[int, float]] = {}
    for row in reversed(found.rows):  # the least comes last, and stays
        if 0 < row.rms < math.inf:
            lines.setdefault(row.sampler, {})[row.budget] = row.rms
    return lines
