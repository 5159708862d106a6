"""A model of points against the law that its data have, and samples of it against held-out points."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from diffusion.distances import energy_test, sliced_wasserstein_test
from diffusion.oracles import GaussianMixture
from experiments.data.source import Source
from experiments.guided import Wish
from experiments.plane.density import Points, exact_log_prob, has_flow, model_log_prob
from experiments.sampling import Model, Sampling, Throughput, draw

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

    Three rows, at one common n: "samples" of the seeds from `seed` on; "training data", where perfect samples would be;
    and "Gaussian", of the training data's mean and covariance, which knows nothing of their shape. A p-value is the
    probability, at most, of a distance as large when the laws are the same.
    """
    throughput, parts = Throughput(min(batch, samples)), []
    for drawn in draw(model, solver, range(seed, seed + samples), batch=batch, wish=Wish()):
        parts.append(drawn)
        throughput.add(len(drawn.seeds))
    n = min(samples, len(training), len(held_out))
    rng = np.random.default_rng(seed)

    def some(points: np.ndarray) -> Points:
        return points[np.sort(rng.permutation(len(points))[:n])]

    real = some(held_out.images)
    known = training.images.astype(np.float64)
    blob = rng.multivariate_normal(known.mean(0), np.cov(known, rowvar=False), n).astype(np.float32)
    sets = {"samples": some(np.concatenate([part.images for part in parts])), "training data": some(training.images)}
    rate = throughput.report()
    return {
        "points_compared": n,
        "nfe": parts[0].nfe,
        **{key: rate[key] for key in ("samples_per_second", "with_compilation")},
        "against_held_out": {name: _row(points, real) for name, points in {**sets, "Gaussian": blob}.items()},
    }


def _row(points: Points, real: Points) -> dict[str, Any]:
    key = jax.random.key(0)
    energy = energy_test(key, points, real, permutations=_PERMUTATIONS)
    sliced = sliced_wasserstein_test(key, points, real, projections=_PROJECTIONS, permutations=_PERMUTATIONS)
    return {
        name: {"value": float(test.statistic), "p_value": float(test.p_value)}
        for name, test in (("energy_distance", energy), ("sliced_w2", sliced))
    }


def likelihood(
    model: Model, law: GaussianMixture, held_out: Source, *, points: int, seed: int
) -> dict[str, Any] | None:
    """What the model's flow and the exact law say of the same held-out points, in nats, as JSON values.

    `nll` is −E ln q of the flow, `entropy` −E ln p of the law, and `kl` their difference E ln p/q, an estimate of
    KL(data‖model), whose standard error is that of the differences point by point. Points that the flow could not be
    followed from are counted in `lost` and left out. None on a discrete chain, which has no flow.
    """
    if not has_flow(model):
        return None
    rows = np.sort(np.random.default_rng(seed).permutation(len(held_out))[:points])
    x = held_out.images[rows]
    exact, found = exact_log_prob(law, x), model_log_prob(model, x)
    log_p, log_q = exact[found.followed], found.log_prob[found.followed]
    means = {"nll": -log_q, "entropy": -log_p, "kl": log_p - log_q}
    return {
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
    lines = [
        f"against {report['points_compared']} held-out points",
        f"{'':14}{'energy distance':>16}{'p':>8}{'sliced W2':>12}{'p':>8}",
    ]
    for name, row in report["against_held_out"].items():
        energy, sliced = row["energy_distance"], row["sliced_w2"]
        lines.append(
            f"{name:14}{energy['value']:>16.5f}{energy['p_value']:>8.3f}{sliced['value']:>12.4f}{sliced['p_value']:>8.3f}"
        )
    told = report["likelihood"]
    if told is None:
        return [*lines, "", "no likelihood: a discrete chain has no flow"]
    shown = {
        name: f"{told[name]['value']:.4f} ± {told[name]['standard_error']:.4f}" for name in ("nll", "entropy", "kl")
    }
    lines += [
        "",
        f"negative log-likelihood {shown['nll']} nats by the probability flow, of {told['points']} held-out points",
        f"  entropy of their law {shown['entropy']} nats, by the same points",
        f"  KL(data‖model) {shown['kl']} nats",
    ]
    return lines + (
        [f"  without {told['lost']} points that the flow could not be followed from"] if told["lost"] else []
    )
