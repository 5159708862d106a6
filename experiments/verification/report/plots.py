"""The plots that a check can show besides its number, as data; `draw` turns one into an SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from diffusion.pytree import short_repr

COLOURS = ("#0b62a4", "#c1272d", "#3a7d34", "#8a5a9e", "#b8860b", "#d1608f", "#4d4d4d")
INK, GRID = "#222222", "#e4e4e4"


@dataclass(frozen=True)
class Curves:
    """Lines over one axis."""

    x: Any
    lines: dict[str, Any]
    """The values by label; a label that starts with "exact" is drawn in grey behind the others, without "exact: "."""
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class HeatMap:
    """A number for each (x, y)."""

    x: Any
    y: Any
    values: Any
    """The numbers, (len(y), len(x))."""
    x_label: str
    y_label: str
    value_label: str
    log: bool = False
    """Whether the colours show the logarithm of the absolute value."""

    __repr__ = short_repr


@dataclass(frozen=True)
class FlowLines:
    """Lines of a plane field through a picture of a density."""

    x: Any
    y: Any
    u: Any
    v: Any
    """The vertical component of the field; u and v are (len(y), len(x)) each."""
    density: Any
    x_label: str
    y_label: str

    __repr__ = short_repr


@dataclass(frozen=True)
class Bars:
    """The errors of several cases."""

    values: dict[str, float]
    """The errors by label; the twelve largest are drawn."""
    x_label: str = "measured"
    y_label: str = ""

    __repr__ = short_repr


Plot = Curves | HeatMap | FlowLines | Bars


def settling(parts: Mapping[str, Any], y_label: str) -> Curves:
    """The |mean| over more and more of the draws (n,) of each part, beside one standard error of the first part."""
    first = np.asarray(next(iter(parts.values())))
    counts = np.unique(np.geomspace(min(50, len(first)), len(first), 60).astype(int))
    lines = {"exact: one standard error": first.std() / np.sqrt(counts)}
    for name, values in parts.items():
        lines[name] = np.abs(np.cumsum(values)[counts - 1] / counts)
    return Curves(counts, lines, "draws", y_label, log_x=True, log_y=True)


def against_chance(deviations: Any) -> Curves:
    """Deviations in standard errors, sorted, against the average of as many that are due to chance alone."""
    found = np.sort(np.abs(np.ravel(deviations)))
    places = 0.5 + 0.5 * (np.arange(len(found)) + 0.5) / len(found)
    chance = np.asarray([NormalDist().inv_cdf(float(place)) for place in places])
    lines = {"exact: chance": chance, "measured": found}
    return Curves(chance, lines, "standard errors, by chance", "standard errors, measured")


def draw(plot: Plot) -> str:
    """The plot as the text of an SVG, without the XML header."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style: Any = {"svg.fonttype": "path", "svg.hashsalt": "scorefield", "font.size": 9, "axes.edgecolor": INK}
    with plt.rc_context(style):
        figure, panel = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
        drawers = {Curves: _curves, HeatMap: _heat_map, FlowLines: _flow_lines, Bars: _bars}
        drawers[type(plot)](panel, plot)
        panel.set_xlabel(plot.x_label)
        panel.set_ylabel(plot.y_label)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _curves(panel: Any, plot: Curves) -> None:
    colours = iter(COLOURS * (1 + len(plot.lines) // len(COLOURS)))
    exacts = [label for label in plot.lines if label.startswith("exact")]
    for label, values in plot.lines.items():
        exact = label in exacts
        style: dict[str, Any] = {"color": "#9a9a9a", "linewidth": 4, "zorder": 1} if exact else {"color": next(colours)}
        if len(plot.x) <= 12 and not exact:
            style["marker"] = "o"
        if exact and 1 < len(exacts) == len(plot.lines) / 2:  # each line has an exact partner: one entry serves all
            label = "exact" if label == exacts[0] else "_nolegend_"
        panel.plot(plot.x, np.asarray(values), label=label.removeprefix("exact: "), **style)
    if plot.log_x:
        panel.set_xscale("log")
        if len(plot.x) <= 12:
            panel.set_xticks(plot.x, [f"{x:.2g}" if x < 1 else f"{x:.3g}" for x in plot.x])
            panel.xaxis.minorticks_off()
    if plot.log_y:
        panel.set_yscale("log")
    panel.grid(True, color=GRID, linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    if len(plot.lines) > 1:
        panel.legend(frameon=False, fontsize=8)


def _bars(panel: Any, plot: Bars) -> None:
    largest = sorted(plot.values.items(), key=lambda pair: np.nan_to_num(pair[1], nan=np.inf))[-12:]
    sizes = [min(max(value, 1e-18), 1e6) if value == value else 1e6 for _, value in largest]
    panel.barh([label for label, _ in largest], sizes, color=COLOURS[0], height=0.6)
    if min(sizes) < 1e-3:  # rounding errors; bars of size 1 start at 0 instead
        panel.set_xscale("log")
        panel.set_xlim(min(1e-17, *sizes), 10 * max(sizes))
    panel.tick_params(axis="y", labelsize=7)
    panel.set_axisbelow(True)
    panel.grid(True, axis="x", color=GRID, linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)


def _heat_map(panel: Any, plot: HeatMap) -> None:
    from matplotlib.colors import LogNorm

    values = np.asarray(plot.values, np.float64)
    if plot.log:
        values = np.maximum(np.abs(values), 1e-18)
        norm = LogNorm(values.min(), max(values.max(), 10 * values.min()))
        mesh = panel.pcolormesh(plot.x, plot.y, values, norm=norm, cmap="viridis", rasterized=True)
    else:
        mesh = panel.pcolormesh(plot.x, plot.y, values, cmap="viridis", rasterized=True)
    panel.figure.colorbar(mesh, label=plot.value_label)


def _flow_lines(panel: Any, plot: FlowLines) -> None:
    panel.pcolormesh(plot.x, plot.y, plot.density, cmap="Blues", rasterized=True)
    panel.streamplot(
        np.asarray(plot.x), np.asarray(plot.y), np.asarray(plot.u), np.asarray(plot.v), color=INK, linewidth=0.7
    )
    panel.set_aspect("equal")
