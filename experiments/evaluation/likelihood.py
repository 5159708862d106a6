"""How likely each image is to a model, in nats and bits per dimension, with the standard error of each number."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int

from diffusion import likelihood
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder
from diffusion.ddpm.elbo import elbo_estimate
from diffusion.ddpm.reverse_steps import Learned
from diffusion.likelihood import Adaptive, Divergence, Exact, Hutchinson
from diffusion.noises import Gaussian
from diffusion.pytree import short_repr
from experiments import streams
from experiments.config.nodes import Generator
from experiments.data.scaling import bin_width, to_model
from experiments.data.source import Source
from experiments.errors import UsageError
from experiments.files import replacing
from experiments.progress import tracked
from experiments.runs.model import Model, make_denoiser
from experiments.sampling.variance import chain_times, optimal_variance, variance_without_data

Dequantisation = Literal["uniform", "truncated-normal"]
"""The noise within the bin of a level."""
Measure = Literal["uniform", "truncated-normal", "density", "elbo"]
"""What a number is of: a mass by a dequantisation, the density of a point, or the bound of a discrete chain."""
EXACT = 16
"""Dimensions up to which the divergence is exact unless told otherwise."""
TOLERANCE = 1e-4
"""Of the solver: some 0.02 nats on a U-Net of digits, where the noise within the bins and the probes leave nats."""
_ELBO_STEPS = 16


@dataclass(frozen=True)
class Likelihoods:
    """ln P of each image by each measure, averaged over its draws."""

    rows: Int[np.ndarray, " n"]
    """The number of each image in its source."""
    labels: Int[np.ndarray, " n"] | None
    """The class that the model was told."""
    dims: int
    nats: dict[Measure, Float64[np.ndarray, " n"]]
    errors: dict[Measure, Float64[np.ndarray, " n"]]
    """The standard error of each, over its draws; NaN for a single one that is not exact."""

    __repr__ = short_repr

    def bits(self, measure: Measure) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """(−nats/(d ln 2), its standard error): the less, the likelier."""
        unit = self.dims * math.log(2)
        return -self.nats[measure] / unit, self.errors[measure] / unit

    def summary(self) -> dict[str, dict[str, Any]]:
        """By measure, the mean over images with its standard error, and how many images had no number."""
        said: dict[str, dict[str, Any]] = {}
        for measure, nats in self.nats.items():
            known = np.isfinite(nats)
            means: dict[str, Any] = {"images": int(known.sum()), "failed": int((~known).sum())}
            for name, values in (("nats", nats), ("bits_per_dim", self.bits(measure)[0])):
                some = values[known]
                means[name] = float(some.mean()) if len(some) else math.nan
                means[f"{name}_error"] = float(some.std(ddof=1) / math.sqrt(len(some))) if len(some) > 1 else math.nan
            said[measure] = means
        return said

    def save_csv(self, path: Path) -> None:
        """A line for each image. Raises UsageError when the file cannot be written."""
        columns: dict[str, Any] = {"index": self.rows.tolist()}
        if self.labels is not None:
            columns["class"] = self.labels.tolist()
        for measure in self.nats:
            bits, bits_error = self.bits(measure)
            name = measure.replace("-", "_")
            columns |= {f"{name}_nats": self.nats[measure], f"{name}_nats_error": self.errors[measure]}
            columns |= {f"{name}_bits_per_dim": bits, f"{name}_bits_per_dim_error": bits_error}
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow(["" if value != value else value for value in row])  # no number is an empty cell


def is_table(path: Path) -> bool:
    """Whether this is a file that `Likelihoods.save_csv` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file), [])
    return columns[:1] == ["index"] and any(name.endswith("_nats_error") for name in columns)


def require_likelihood(model: Model) -> None:
    """Raise UsageError for a model that has neither a density by its flow nor an ELBO."""
    if isinstance(model.config.objective, Generator):
        raise UsageError("a generator of one step has no likelihood: no flow leads from its images to their latents.")
    if model.config.preconditioning.kind == "residual":
        raise UsageError(
            "this run has no likelihood, for its denoiser is not told the noise level. It has an energy: "
            "see `scorefield anomaly`."
        )
    if model.process.schedule.discrete and not isinstance(model.config.noise, Gaussian):
        raise UsageError("the ELBO of a chain needs Gaussian noise, and this run's is Student-t; it has no likelihood.")


def likelihoods(
    model: Model,
    source: Source,
    rows: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"] | None,
    *,
    dequantisations: Sequence[Dequantisation] = get_args(Dequantisation),
    draws: int = 4,
    seed: int = 0,
    probes: int | None = None,
    training: Callable[[], Source],
    batch: int = 64,
) -> Likelihoods:
    """ln P of the images `rows` of a source, each averaged over `draws` of the noise and the probes.

    Of a continuous process by the probability flow (Song et al. 2021, arXiv:2011.13456, eq. 39), at the least time that
    the network was trained at: by uniform noise within the bin (Theis et al. 2016, arXiv:1511.01844) and by a truncated
    normal one (Zheng et al. 2023, arXiv:2305.03935), both of which bound ln P on average from below; of points it is a
    density. The divergence is exact up to 16 dimensions or with 0 `probes`, and else estimated by so many, or 2. Of a
    discrete chain it is the ELBO, with 16 of its steps for each draw. `labels` are told to the model.
    Raises UsageError as `require_likelihood`.
    """
    require_likelihood(model)
    if model.process.schedule.discrete:
        measures: Sequence[Measure] = ("elbo",)
        one = _elbo(model, training, seed)
    else:
        measures = ("density",) if model.of_points else tuple(dequantisations)
        one = _by_flow(model, seed, probes)
    nats: dict[Measure, list[np.ndarray]] = {measure: [] for measure in measures}
    exact = model.of_points and _method(model, probes) is None
    for places, told, count in tracked(list(_batches(rows, labels, batch)), "likelihoods"):
        x = jnp.asarray(to_model(source.images[places]))
        for measure in measures:
            parts = [one(measure, x, told, places, k) for k in range(1 if exact else draws)]
            nats[measure].append(np.stack(parts, axis=1)[:count])
    found = {measure: np.concatenate(parts) for measure, parts in nats.items()}
    return Likelihoods(
        rows=rows,
        labels=labels,
        dims=math.prod(model.event_shape),
        nats={measure: found[measure].mean(axis=1) for measure in measures},
        errors={measure: np.zeros(len(rows)) if exact else _error(found[measure]) for measure in measures},
    )


def _error(values: Float64[np.ndarray, "n draws"]) -> Float64[np.ndarray, " n"]:
    count = values.shape[1]
    return values.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.full(len(values), math.nan)


def _batches(
    rows: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"] | None, batch: int
) -> Iterator[tuple[np.ndarray, Array | None, int]]:
    """(The images of a batch, their classes, how many of them are wanted)."""
    batch = min(batch, len(rows))
    for start in range(0, len(rows), batch):
        places = np.minimum(np.arange(start, start + batch), len(rows) - 1)
        told = None if labels is None else jnp.asarray(labels[places], jnp.int32)
        yield rows[places], told, min(batch, len(rows) - start)


def _method(model: Model, probes: int | None) -> Divergence | None:
    """The estimate of the divergence, None where it is exact."""
    if probes is None:
        probes = 0 if math.prod(model.event_shape) <= EXACT else 2
    return Hutchinson(probes) if probes else None


One = Callable[[Measure, Array, Array | None, np.ndarray, int], np.ndarray]
"""(measure, x, classes, ids, the number of the draw) -> ln P of each."""


def _by_flow(model: Model, seed: int, probes: int | None) -> One:
    process, width = model.process, bin_width(model.bits)
    method, solver = _method(model, probes) or Exact(), Adaptive(rtol=TOLERANCE, atol=TOLERANCE)
    near = likelihood.truncated_normal(process, process.t_min, width)

    def one(measure: Measure, x: Array, labels: Array | None, ids: np.ndarray, draw: int) -> np.ndarray:
        noise, probe = (_key(seed, stream, draw) for stream in (streams.DEQUANTISATION, streams.PROBES))
        y, log_q, places = x, jnp.zeros(len(x)), jnp.asarray(ids)
        if measure == "uniform":
            y, log_q = likelihood.dequantise_uniform(noise, x, width, ids=places)
        elif measure == "truncated-normal":
            y, log_q = likelihood.dequantise_variational(noise, x, near, width, ids=places)
        denoise = make_denoiser(model, labels)
        told = likelihood.log_likelihood(process, denoise, y, solver=solver, method=method, key=probe, ids=places)
        return np.asarray(likelihood.discrete_log_prob(told.log_prob, log_q), np.float64)

    return one


def _elbo(model: Model, training: Callable[[], Source], seed: int) -> One:
    times, decoder = chain_times(model.process, 1000), DiscretisedDecoder(levels=2**model.bits)
    # An imported run has no data to estimate the optimal variance from.
    name = "auto" if model.imported is None or model.config.learned_variance else "small"
    variance = variance_without_data(name, model.config, auto="optimal", flag="--variance")
    if variance is None:
        variance = optimal_variance(model, times, training(), given_class=model.num_classes > 0)

    @jax.jit
    def bound(denoise: Any, x: Array, ids: Array, key: Array) -> Array:
        chain = GeneratorChain(model.process, denoise, jnp.asarray(times, jnp.float32), variance, decoder)
        return -elbo_estimate(key, chain, x, draws=_ELBO_STEPS, ids=ids).total

    def one(measure: Measure, x: Array, labels: Array | None, ids: np.ndarray, draw: int) -> np.ndarray:
        denoise = make_denoiser(model, labels, with_variance=isinstance(variance, Learned))
        return np.asarray(bound(denoise, x, jnp.asarray(ids), _key(seed, streams.BOUND, draw)), np.float64)

    return one


def _key(seed: int, stream: int, draw: int) -> Array:
    """That of `Run.log_likelihood` for the first draw, and another for each that follows."""
    key = jax.random.fold_in(jax.random.key(seed), stream)
    return key if draw == 0 else jax.random.fold_in(key, draw)
