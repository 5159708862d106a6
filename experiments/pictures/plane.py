"""The picture of a model in the plane: the exact density, the model's own, and samples, over the same axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from diffusion.oracles import GaussianMixture
from diffusion.pytree import short_repr
from experiments.errors import UsageError
from experiments.evaluation.plane.density import (
    Points,
    energy_density,
    exact_log_prob,
    has_flow,
    model_log_prob,
    square,
)
from experiments.runs.model import Model

REACH = 1.3
"""The panels show [−REACH, REACH]²."""
CELLS = 128
"""The number of cells of a density along an axis."""
TOLERANCE = 1e-3
"""The ODE solver's tolerance: in a picture a hundredth of a nat cannot be seen."""
_STEPS = 200  # a rough field far from the data is not worth minutes: such cells are grey
_COLOURS, _DOTS, _LOST = "magma", "#ffe6a8", "#4a5a66"


class Picture(NamedTuple):
    """A picture, and its content in numbers."""

    pixels: UInt8[np.ndarray, "height width 4"]
    facts: dict[str, Any]
    """The reach, the mass of each density within it and the samples outside, as JSON values."""

    __repr__ = short_repr


def model_picture(model: Model, law: GaussianMixture | None, points: Points, *, density: bool = True) -> Picture:
    """The law of the data if it is known, the model's density if it has one and `density` asks for it, and samples.

    The model's density is its energy's, or else its flow's, which takes seconds.
    Raises UsageError for points that are not in the plane.
    """
    if model.event_shape != (2,):
        raise UsageError(f"the points have {model.event_shape[0]} coordinates, and a picture 2; add --format npz.")
    panels = _densities(model, law, own=density)
    area = (2 * REACH / CELLS) ** 2
    mass = {title: round(float(np.nansum(values)) * area, 4) for title, values in panels.items()}
    outside = int(np.sum(np.abs(points).max(axis=1) > REACH))
    facts = {"reach": REACH, "mass_within": mass, "samples_outside": outside}
    return Picture(draw({title: values.reshape(CELLS, CELLS) for title, values in panels.items()}, points), facts)


def _densities(model: Model, law: GaussianMixture | None, *, own: bool) -> dict[str, np.ndarray]:
    """The densities that are known, by their titles; beside an energy the law is blurred as the energy is."""
    energy, panels = energy_density(model) if own else None, {}
    if law is not None:
        blurred = "" if energy is None else f" * N(0, {energy.sigma:g}² I)"
        blur = 0.0 if energy is None else energy.sigma
        panels[f"the law of the data{blurred}, exact"] = np.exp(exact_log_prob(law, cells(), blur))
    if energy is not None:
        panels[f"the model's energy, exp(ψ/{energy.sigma:g}²)/Z"] = np.exp(energy.log_prob(cells()))
    elif own and has_flow(model):
        found = model_log_prob(model, cells(), TOLERANCE, _STEPS)
        panels["the model, by its probability flow"] = np.exp(found.log_prob)
    return panels


def cells() -> Points:
    """The centres of the cells, row by row from the bottom, (CELLS², 2)."""
    return square(REACH, CELLS)


def draw(
    densities: Mapping[str, Float[np.ndarray, "rows columns"]], points: Points
) -> UInt8[np.ndarray, "height width 4"]:
    """One panel for each density by its title, in the colours of one scale, and one for the points.

    Row 0 of a density is at the bottom. The scale goes up to the largest value of the first density: larger values of
    another are cut off, and values that are not finite are grey. Points outside the panels are counted in the title.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10}):
        count = len(densities) + 1
        figure = Figure(figsize=(4.0 * count + 0.9, 4.4), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
        colours = matplotlib.colormaps[_COLOURS].with_extremes(bad=_LOST)
        top = max((float(np.nanmax(values)) for values in list(densities.values())[:1]), default=1.0)
        mesh = None
        for panel, (title, values) in zip(panels, densities.items(), strict=False):
            edges = np.linspace(-REACH, REACH, len(values) + 1)
            mesh = panel.pcolormesh(edges, edges, np.ma.masked_invalid(values), cmap=colours, vmin=0, vmax=top)
            panel.set_title(title)
        last = panels[-1]
        last.set_facecolor(colours(0.0))
        last.scatter(points[:, 0], points[:, 1], s=1.6, c=_DOTS, linewidths=0, alpha=0.8)
        outside = int(np.sum(np.abs(points).max(axis=1) > REACH))
        last.set_title(f"{len(points):,} samples of the model" + (f", {outside:,} outside" if outside else ""))
        for panel in panels:
            panel.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xlabel="$x_1$")
            panel.set_xticks([-1, 0, 1])
            panel.set_yticks([-1, 0, 1])
        panels[0].set_ylabel("$x_2$")
        if mesh is not None:
            figure.colorbar(mesh, ax=list(panels), label="density", extend="max", shrink=0.86, pad=0.015)
        canvas.draw()
        return np.array(canvas.buffer_rgba())
