"""A model of points against the law of its data, and its samples against held-out points."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from diffusion.distances import energy_test, sliced_wasserstein_test
from diffusion.oracles import GaussianMixture
from experiments import streams
from experiments.data.source import Source
from experiments.evaluation.plane.density import (
    ModelDensity,
    Points,
    energy_density,
    exact_log_prob,
    has_flow,
    model_log_prob,
)
from experiments.progress import BATCHES, tracked
from experiments.runs.model import Model
from experiments.sampling.drawing import Sampling, draw, gather
from experiments.sampling.throughput import Throughput

_PERMUTATIONS = 199
_PROJECTIONS = 32
_MEAN = {"value": math.nan, "standard_error": math.nan}


def distances(
    model: Model,
    solver: Sampling,
    training: Source,
    held_out: Source,
    *,
    samples: int,
    seed: int,
    batch: int,
) -> dict[str, Any]:
    """Energy distance and sliced W₂ to held-out points with their p-values, as JSON values.

    Three rows, at one common n: "samples", of the seeds from `seed` on; "training data", which perfect samples would
    match; and "Gaussian", with the training data's mean and covariance but not their shape. A p-value is an upper bound
    on the probability of a distance this large when the laws are the same.
    """
    batches = draw(model, solver, range(seed, seed + samples), batch=batch)
    drawn = gather(tracked(batches, BATCHES, -(-samples // batch)), Throughput(min(batch, samples)))
    n = min(samples, len(training), len(held_out))
    rng = np.random.default_rng(seed)

    def some(points: np.ndarray) -> Points:
        return points[np.sort(rng.permutation(len(points))[:n])]

    real = some(held_out.points)
    known = training.points.astype(np.float64)
    blob = rng.multivariate_normal(known.mean(0), np.cov(known, rowvar=False), n).astype(np.float32)
    sets = {"samples": some(drawn.images), "training data": some(training.points)}
    return {
        "points_compared": n,
        **drawn.report(),
        "against_held_out": {name: _row(points, real) for name, points in {**sets, "Gaussian": blob}.items()},
    }


def _row(points: Points, real: Points) -> dict[str, Any]:
    key = jax.random.key(streams.PERMUTATIONS)
    energy = energy_test(key, points, real, permutations=_PERMUTATIONS)
    sliced = sliced_wasserstein_test(key, points, real, projections=_PROJECTIONS, permutations=_PERMUTATIONS)
    return {
        name: {"value": float(test.statistic), "p_value": float(test.p_value)}
        for name, test in (("energy_distance", energy), ("sliced_w2", sliced))
    }


def likelihood(
    model: Model, law: GaussianMixture, held_out: Source, *, points: int, seed: int
) -> dict[str, Any] | None:
    """The likelihood of held-out points under the model's density q and the exact law p, in nats, as JSON values.

    `nll` is −E ln q, `entropy` −E ln p, and `kl` their difference E ln p/q, an estimate of KL(p‖q), whose standard
    error is that of the pointwise differences. q is the law at the end of the model's probability flow, and p that of
    the data; points that the flow could not be followed from are counted in `lost` and left out. For an energy
    q = e^{ψ/σ²}/Z, p is the law of the data * N(0, σ²I), and the points are held-out ones with such noise: `blur` is σ.
    None if there is neither a flow nor an energy.
    """
    energy = energy_density(model)
    if energy is None and not has_flow(model):
        return None
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(held_out))[:points])
    x, blur, one_level = held_out.images[rows], 0.0, True
    if energy is None:
        found = model_log_prob(model, x)
    else:
        blur, one_level = energy.sigma, energy.one_level
        x = (x + blur * rng.standard_normal(x.shape)).astype(np.float32)
        found = ModelDensity(energy.log_prob(x), np.ones(len(x), bool))
    log_p, log_q = exact_log_prob(law, x, blur)[found.followed], found.log_prob[found.followed]
    means = {"nll": -log_q, "entropy": -log_p, "kl": log_p - log_q}
    return {
        "by": "flow" if energy is None else "energy",
        "blur": blur,
        "one_level": one_level,
        "points": len(rows),
        "lost": int(np.sum(~found.followed)),
        **{name: _mean(values) for name, values in means.items()},
    }


def _mean(values: np.ndarray) -> dict[str, float]:
    if len(values) < 2:
        return _MEAN
    return {"value": float(values.mean()), "standard_error": float(values.std(ddof=1) / math.sqrt(len(values)))}


def table(report: dict[str, Any]) -> list[str]:
    """Lines for a person."""
    return [
        *(_distance_lines(report) if "against_held_out" in report else []),
        *_likelihood_lines(report["likelihood"]),
    ]


def _distance_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"against {report['points_compared']} held-out points",
        f"{'':14}{'energy distance':>16}{'p':>8}{'sliced W2':>12}{'p':>8}",
    ]
    for name, row in report["against_held_out"].items():
        energy, sliced = row["energy_distance"], row["sliced_w2"]
        lines.append(
            f"{name:14}{energy['value']:>16.5f}{energy['p_value']:>8.3f}{sliced['value']:>12.4f}{sliced['p_value']:>8.3f}"
        )
    return [*lines, ""]


def _likelihood_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["no likelihood: this model is not told the noise level, and so has no flow, and it is no energy"]
    nll, entropy, kl = (
        f"{found[name]['value']:.4f} ± {found[name]['standard_error']:.4f} nats" for name in ("nll", "entropy", "kl")
    )
    lost = [f"  without {found['lost']} points that the flow could not be followed from"] if found["lost"] else []
    if found["by"] == "flow":
        return [
            f"negative log-likelihood {nll} by the probability flow, of {found['points']} held-out points",
            f"  entropy of their law {entropy}, by the same points",
            f"  KL(data‖model) {kl}",
            *lost,
        ]
    noise = f"N(0, {found['blur']:g}² I)"
    many = [] if found["one_level"] else ["  it was trained at many noise levels: its energy is near that law, not it"]
    return [
        f"negative log-likelihood {nll} by the energy, exp(ψ/σ²)/Z, of {found['points']} held-out points plus {noise}",
        f"  entropy of their law, data * {noise}, {entropy}, by the same points",
        f"  KL(data * {noise}‖model) {kl}",
        *many,
    ]
