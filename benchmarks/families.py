"""Samples of several runs side by side, for docs/families.md: python benchmarks/families.py --runs RUN ... --out FILE.

Each run by its own sampler, of seeds 0 to 39; every image is magnified by the same whole number.
"""

from __future__ import annotations

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments.runs.load import load_model
from experiments.sampling import solver
from experiments.sampling.drawing import draw

ROWS, COLUMNS = 8, 5


def mosaic(run: pathlib.Path) -> np.ndarray:
    """The images of one run as one array (height, width) with a line between them."""
    model = load_model(run)
    own = solver.build_own(model.config)
    images = next(draw(model, own, range(ROWS * COLUMNS), batch=ROWS * COLUMNS)).images[..., 0]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=96)
    height, width = padded.shape[1:]
    return padded.reshape(ROWS, COLUMNS, height, width).swapaxes(1, 2).reshape(ROWS * height, COLUMNS * width)


def main() -> None:
    """Draw the runs in a row, each under its folder's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, nargs="+", required=True, help="folders of runs")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/families.png"))
    told = parser.parse_args()
    figure, panels = plt.subplots(1, len(told.runs), figsize=(2.6 * len(told.runs), 4.5), layout="constrained")
    for panel, run in zip(np.atleast_1d(panels), told.runs, strict=True):
        panel.imshow(mosaic(run), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        panel.set_title(run.name, fontsize=11)
        panel.set_axis_off()
    figure.savefig(told.out, dpi=110)


if __name__ == "__main__":
    main()
