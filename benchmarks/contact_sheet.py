"""A row of samples for each class of a run, for the README: python benchmarks/contact_sheet.py --run RUN --out FILE.

Row N is what `scorefield sample --class N` draws of the next twelve seeds, from seed 0 on; none are picked. Options
that are not known here, such as --guidance 2, are handed on to that command. Every pixel is enlarged by the same whole
number, and the PNG holds its provenance. It trains nothing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

import numpy as np

from experiments import cli
from experiments.pictures import files

COLUMNS = 12


def row(
    run: pathlib.Path, label: int, folder: pathlib.Path, options: list[str]
) -> tuple[np.ndarray, dict[str, object]]:
    """The images of one class, (COLUMNS, height, width, channels), and where they come from."""
    first = COLUMNS * label
    told = ["--run", str(run), "--class", str(label), "--seeds", f"{first}-{first + COLUMNS - 1}", *options]
    status = cli.main(["sample", *told, "--batch", str(COLUMNS), "--format", "npz", "--outdir", str(folder)])
    if status:
        raise SystemExit(status)
    return np.load(folder / "samples.npz")["images"], json.loads((folder / "samples.json").read_text())


def main() -> None:
    """Draw all classes, one below the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder of a conditional run")
    parser.add_argument("--classes", type=int, default=10, help="how many classes are drawn, from 0 on")
    parser.add_argument("--scale", type=int, default=2, help="pixels of the picture for a pixel of an image")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/fashion.png"))
    told, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(told.run, label, pathlib.Path(folder) / str(label), options) for label in range(told.classes)]
    images = np.concatenate([images for images, _ in rows])
    provenance = {key: value for key, value in rows[0][1].items() if key not in ("arrays", "sha256")}
    sheet = files.contact_sheet(images, columns=COLUMNS, pad=4, scale=told.scale)
    classes = list(range(told.classes))
    files.save_png(told.out, sheet, {**provenance, "class": classes, "seeds": f"0-{len(images) - 1}"})


if __name__ == "__main__":
    main()
