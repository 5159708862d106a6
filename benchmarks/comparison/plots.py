"""The work-precision diagram: a panel for each problem, a line for each library's best at each number of calls."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks.comparison.accuracy import OURS, Row, best, libraries

COLOURS = ("#c1272d", "#0b62a4", "#3a7d34", "#8a5a9e", "#b8860b")
GREY = "#8c8c8c"


def plot(rows: Sequence[Row], file: pathlib.Path) -> None:
    """Draw the best errors of `rows` into a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.problem for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(1.2 + 4.6 * len(names), 5.0), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        _panel(panel, [row for row in rows if row.problem == name])
        panel.set_title(f"{name} mixture", loc="left", fontsize=12)
        panel.set_xlabel("denoiser calls, at most")
    panels[0][0].set_ylabel("root-mean-square error at σ = 0")
    figure.suptitle("The best sampler and grid of each library for a number of calls", x=0.01, ha="left", fontsize=13)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _panel(panel: Any, rows: Sequence[Row]) -> None:
    budgets = sorted({row.budget for row in rows})
    lines = [
        (library, COLOURS[i % len(COLOURS)], [best(rows, budget=budget, origin=library) for budget in budgets])
        for i, library in enumerate((OURS, *libraries(rows)))
    ]
    everyone = [best(rows, budget=n, sampler=("dpmpp-2m", "dpmpp_2m"), grid="karras") for n in budgets]
    lines.append(("2M, karras", GREY, everyone))
    ends = []
    for label, colour, found in lines:
        points = [(row.budget, row.error) for row in found if row is not None]
        if points:
            own = label == OURS
            style: dict[str, Any] = {"linewidth": 2.4 if own else 1.5, "zorder": 3 if own else 2}
            style |= {"linestyle": "--"} if colour == GREY else {"marker": "o", "markersize": 5 if own else 4}
            panel.plot(*zip(*points, strict=True), color=colour, **style)
            ends.append((label, colour, *points[-1]))
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(budgets, [str(n) for n in budgets])
    panel.minorticks_off()
    panel.set_xlim(budgets[0] * 0.9, budgets[-1] * 1.1)
    panel.grid(True, color="#e4e4e4", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    _label_ends(panel, ends)


def _label_ends(panel: Any, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """The names of the lines beside their ends, pushed apart until none covers another."""
    low, high = (math.log(value) for value in panel.get_ylim())
    gap = 0.045 * (high - low)
    places = sorted((math.log(y), label, colour, x) for label, colour, x, y in ends)
    heights = [place[0] for place in places]
    for _ in range(100):
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 0:
                heights[i], heights[i + 1] = heights[i] - overlap / 2, heights[i + 1] + overlap / 2
    for height, (_, label, colour, x) in zip(heights, places, strict=True):
        weight = "bold" if label == OURS else "normal"
        panel.annotate(
            label,
            (x, math.exp(height)),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight=weight,
            fontsize=10,
            annotation_clip=False,
        )
