"""How near averages that are made after training come to those that were kept with their width from the start.

    python benchmarks/averages.py --steps 640 --snapshots 20

A short training on the digits, digits-ddpm with a perceptron or its own U-Net, keeps snapshots of two widths, and in
the loop's body the averages of the widths that are asked for are updated in every step. The distance is
‖made − kept‖/‖kept‖ over all parameters; beside it stands that of the raw parameters, how far they move at all.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scorefield
from experiments.runs.averages import make_averages
from experiments.runs.load import choose, load_model
from experiments.training.ema import toward
from experiments.training.power import exponent, newcomer

WIDTHS = (0.03, 0.05, 0.075, 0.10, 0.15, 0.20, 0.25)


def norm(tree: Any) -> float:
    """The root of the sum of all squares, in float64."""
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree))))


def distance(a: Any, b: Any) -> float:
    """‖a − b‖/‖b‖."""
    return norm(jax.tree.map(lambda x, y: np.asarray(x, np.float64) - y, a, b)) / norm(b)


def measure(network: str, steps: int, snapshots: int, precision: Any, folder: Path) -> list[tuple[float, float, float]]:
    """(Width, distance of the average made, distance of the raw parameters) for each width that can be made."""
    config = scorefield.preset("digits-ddpm")
    if network == "mlp":
        config = dataclasses.replace(config, network=scorefield.MLPConfig(hidden=128, layers=2, embedding=32))
    config = dataclasses.replace(
        config,
        ema=dataclasses.replace(config.ema, snapshot_every=steps // snapshots, snapshot_precision=precision),
        training=dataclasses.replace(config.training, steps=steps, validate_every=0, sample_every=0),
    )

    @jax.jit
    def updated(averages: Any, params: Any, count: Any) -> Any:
        return {width: toward(of, params, newcomer(count, exponent(width))) for width, of in averages.items()}

    averages: Any = None
    with scorefield.training(config, folder) as training:
        for step in training:
            averages = averages or dict.fromkeys(WIDTHS, step.params)
            averages = updated(averages, step.params, step.step)
    raw, rows = load_model(folder, None).params, []
    for width in WIDTHS:
        try:
            made = make_averages(choose(folder, False, print), [width], print)[0]
        except scorefield.UsageError as error:
            print(error)
            continue
        near, far = (distance(params, averages[width]) for params in (load_model(folder, width).params, raw))
        rows.append((width, near, far))
        print(f"{width:5.3f}  profile {made.distance:8.3%}  average {near:8.3%}  raw {far:7.2%}")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("mlp", "unet"), default="mlp")
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--snapshots", type=int, default=20)
    parser.add_argument("--precision", choices=("float16", "float32"), default="float16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments.network, arguments.steps, arguments.snapshots, arguments.precision, Path(folder) / "run")


if __name__ == "__main__":
    main()
