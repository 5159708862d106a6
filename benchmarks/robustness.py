"""Is PFGM++ robust at small D? Fréchet distance against an error of the network, and against quantised weights.

    scorefield train --preset digits-pfgmpp --noise.df 1 --outdir runs/df-1
    scorefield train --preset digits-pfgmpp --outdir runs/df-64
    scorefield train --preset digits-pfgmpp --noise.df 2048 --outdir runs/df-2048
    scorefield train --preset digits-pfgmpp --noise gaussian --outdir runs/df-inf
    python benchmarks/robustness.py runs/df-1 runs/df-64 runs/df-2048 runs/df-inf --plot docs/robustness.png

The error is a draw ξ ~ N(0, I) of its own for every sample and step, added α times to the network's raw answer F, which
has unit size: D + α c_out(x, σ) ξ (Xu et al. 2023, arXiv:2302.04265, section 5, add noise to the sample between steps).
Weights are rounded to 2^bits − 1 even levels between −m and m, m the largest of each array. The distance is that of
the samples to as many training images, in the features of the classifier that `scorefield evaluate` uses, with its
bootstrap error.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion.prediction import Denoiser, Preconditioning, network_x0
from diffusion.process import Process
from experiments.data.scaling import to_uint8
from experiments.evaluation.distances import Estimate, frechet_at
from experiments.evaluation.features import feature_space, source_features
from experiments.runs.load import load_model, run_data
from experiments.runs.model import Model, make_denoiser
from experiments.sampling import solver
from samplers.sample import sample

ERRORS = (0.0, 0.5, 1.0, 2.0, 4.0)
BITS = (5, 4, 3)
COLOURS = ("#c1272d", "#b8860b", "#3a7d34", "#0b62a4", "#8a5a9e", "#4d4d4d")


def with_error(denoise: Denoiser, process: Process, preconditioning: Preconditioning, size: float) -> Denoiser:
    """D + α c_out ξ, ξ the same for a sample and a time whenever it is asked."""
    return Partial(_with_error, denoise, process, preconditioning, jnp.asarray(size))


def _with_error(
    denoise: Denoiser, process: Process, preconditioning: Preconditioning, size: Any, x: Any, t: Any
) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(5), jax.lax.bitcast_convert_type(jnp.asarray(t, jnp.float32), jnp.uint32))
    # c_out at this x: under Student-t noise it goes by the noise level that is seen there.
    parts = [network_x0(preconditioning, process, raw, x, t) for raw in (jnp.ones_like(x), jnp.zeros_like(x))]
    return denoise(x, t) + size * (parts[0] - parts[1]) * jax.random.normal(key, x.shape, x.dtype)


def quantised(params: Any, bits: int) -> Any:
    """Every array rounded to multiples of m/(2^(bits−1) − 1), m its largest absolute value."""

    def leaf(value: Any) -> Any:
        step = np.maximum(np.abs(value).max(), 1e-30) / (2 ** (bits - 1) - 1)
        return (np.round(value / step) * step).astype(value.dtype)

    return jax.tree.map(leaf, params)


def measure(run: Path, count: int, cache: Path, sizes: Sequence[float], depths: Sequence[int]) -> dict[str, Any]:
    """The distances of one run's samples."""
    model = load_model(run)
    training, held_out = run_data(model)
    assert held_out is not None
    space = feature_space(training, held_out, cache=cache)
    real = source_features(space, training, cache=cache)
    own, preconditioning = solver.build_own(model.config), model.config.preconditioning

    def distance(change: Callable[[Denoiser], Denoiser], model: Model) -> Estimate:
        denoise = change(make_denoiser(model, None))
        shape = (count, *model.event_shape)
        drawn = sample(jax.random.key(1), model.process, denoise, own.sampler, own.grid, shape).x
        return frechet_at(space(np.asarray(to_uint8(drawn))), real, n=count, resamples=20)

    errors, bits = {}, {}
    for size in sizes:
        add = functools.partial(with_error, process=model.process, preconditioning=preconditioning, size=size)
        errors[size] = distance(add, model)
    for depth in depths:
        bits[depth] = distance(
            lambda denoise: denoise, dataclasses.replace(model, params=quantised(model.params, depth))
        )
    df = getattr(model.config.noise, "df", float("inf"))
    row = {"run": run.name, "df": df, "steps": len(own.grid) - 1, "features": space.name, "samples": count}
    return {**row, "errors": errors, "bits": bits}


def show(rows: list[dict[str, Any]]) -> str:
    """Two tables."""
    lines = []
    for name, title in (("errors", "error α"), ("bits", "bits")):
        points = list(rows[0][name])
        lines += [f"{title:>10} " + "".join(f"{point!s:>16}" for point in points)]
        for row in rows:
            cells = (f"{row[name][point].value:.2f} ± {row[name][point].standard_error:.2f}" for point in points)
            lines += [f"D = {row['df']:<6g} " + "".join(f"{cell:>16}" for cell in cells)]
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Both panels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for panel, (name, label) in zip(
        panels, (("errors", "error α added to the network's answer"), ("bits", "bits of the weights")), strict=True
    ):
        for row, colour in zip(rows, COLOURS, strict=False):
            points = [str(point) for point in row[name]]
            values = [estimate.value for estimate in row[name].values()]
            spread = [estimate.standard_error for estimate in row[name].values()]
            which = "∞ (Gaussian)" if row["df"] == float("inf") else f"{row['df']:g}"
            panel.errorbar(points, values, spread, color=colour, marker="o", capsize=3, label=f"D = {which}")
        panel.set_xlabel(label)
        panel.set_yscale("log")
        panel.grid(True, color="#e4e4e4", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Fréchet distance to training images")
    panels[0].legend(frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trained runs on the same data")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--errors", type=float, nargs="+", default=ERRORS, help="sizes α of the error")
    parser.add_argument("--bits", type=int, nargs="+", default=BITS, help="bits of the weights")
    parser.add_argument("--cache", type=Path, default=None, help="where the feature network is kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        rows.append(measure(run, options.samples, options.cache, options.errors, options.bits))
        print(show(rows[-1:]), flush=True)
    print(show(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
