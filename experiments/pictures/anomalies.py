"""The picture of anomaly scores: the most ordinary and the strangest images of each set, with their scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from experiments.data.source import Events
from experiments.pictures.shown import for_grid

COLUMNS = 10


def draw(
    sets: Mapping[str, tuple[Events, Float[np.ndarray, " n"]]], columns: int = COLUMNS
) -> UInt8[np.ndarray, "height width 4"]:
    """Two rows for each set of (images, scores in nats): the lowest scores upwards, and the highest downwards."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9}):
        rows, tile = 2 * len(sets), 1.0
        figure = Figure(figsize=(tile * columns, (tile + 0.45) * rows), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        parts = figure.subfigures(rows, 1, squeeze=False)[:, 0]
        for i, (name, (images, scores)) in enumerate(sets.items()):
            order = np.argsort(scores, kind="stable")
            for part, title, places in (
                (parts[2 * i], f"{name}: the most ordinary", order[:columns]),
                (parts[2 * i + 1], f"{name}: the strangest", order[::-1][:columns]),
            ):
                part.suptitle(title, x=0.01, ha="left", fontweight="bold")
                for panel in (panels := part.subplots(1, columns, squeeze=False)[0]):
                    panel.set_axis_off()
                for panel, place in zip(panels, places, strict=False):
                    image = for_grid(images[place][None])[0]
                    panel.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
                    panel.set_title(f"{scores[place]:+.1f}", pad=3)
        canvas.draw()
        return np.array(canvas.buffer_rgba())
