"""The four laws of the plane beside what was learned of them: one picture from four runs. It trains nothing.

    python benchmarks/toys.py --runs runs/toy-checkerboard runs/toy-moons runs/toy-spirals runs/toy-gaussians \\
        --out docs/toys.png

A row for each run, in the order given: the exact density, the model's own, and samples, as `scorefield sample` draws
them (`experiments.pictures.plane`), each row with a colour scale of its own. It takes a minute or two, most of it for
the densities by probability flows.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
from PIL import Image

from experiments.data.sources.plane import law_of
from experiments.pictures.plane import model_picture
from experiments.runs.load import load_model
from experiments.sampling import solver
from experiments.sampling.drawing import draw

WIDTH = 1100
"""Pixels: three panels of 300 and a colour bar."""
COLOURS = 96
"""The size of the palette: the picture has few colours, and its file is a third as large with one."""


def row(run: pathlib.Path, samples: int) -> np.ndarray:
    """The picture of one run, of its first average and its own sampler, (height, WIDTH, 3)."""
    model = load_model(run)
    chosen = solver.build_own(model.config)
    points = next(draw(model, chosen, range(samples), batch=samples)).images
    picture = model_picture(model, law_of(model.config.data.source), points)
    print(run, picture.facts)
    image = Image.fromarray(picture.pixels).convert("RGB")
    height = round(image.height * WIDTH / image.width)
    return np.asarray(image.resize((WIDTH, height), Image.Resampling.LANCZOS))


def main() -> None:
    """Draw the rows, stack them, write them with a palette."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, nargs="+", required=True, help="folders of runs, one for each row")
    parser.add_argument("--samples", type=int, default=2000, help="points in the panel of samples")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/toys.png"))
    told = parser.parse_args()
    rows = [row(run, told.samples) for run in told.runs]
    stacked = Image.fromarray(np.concatenate(rows))
    stacked.quantize(COLOURS, dither=Image.Dither.NONE).save(told.out, optimize=True)
    print(f"{told.out}: {told.out.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
