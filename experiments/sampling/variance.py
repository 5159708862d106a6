"""Reverse variances by name; the optimal one is estimated from the run's data."""

from __future__ import annotations

from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.ddpm.analytic_variance import estimate_optimal_variance
from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Learned, Optimal, ReverseVariance
from diffusion.process import Process
from experiments import streams
from experiments.config.tree import Config
from experiments.data.scaling import to_model
from experiments.data.source import Source
from experiments.errors import UsageError
from experiments.runs.model import Model, make_denoiser
from samplers.grids import uniform_log_snr, uniform_time

VarianceName = Literal["auto", "small", "large", "optimal", "learned"]
"""The names of reverse variances on the command line; the meaning of auto depends on the use."""

_BY_NAME: dict[str, type[ReverseVariance]] = {
    "small": FixedSmall,
    "large": FixedLarge,
    "learned": Learned,
    "optimal": Optimal,
}


def variance_name(variance: ReverseVariance) -> VarianceName:
    """The name of a reverse variance."""
    return cast(VarianceName, next(name for name, kind in _BY_NAME.items() if isinstance(variance, kind)))


def variance_without_data(
    name: VarianceName, config: Config, *, auto: Literal["small", "optimal"], flag: str
) -> ReverseVariance | None:
    """The reverse variance of this name, or None for the optimal one, which is estimated from data.

    "auto" is the learned variance if the run has learned one, else `auto`.
    Raises UsageError, naming `flag`, for the learned variance of a run that has none.
    """
    if name == "auto":
        name = "learned" if config.learned_variance else auto
    if name == "learned" and not config.learned_variance:
        raise UsageError(f"{flag} learned needs a run trained with --learned-variance; choose optimal.")
    return None if name == "optimal" else _BY_NAME[name]()


def chain_times(process: Process, steps: int) -> np.ndarray:
    """0 = t_0 < ... < t_N: every time of a discrete chain, or `steps` even steps in log-SNR.

    Where the SNR is 0 at the prior, the last step leads there from a noise-to-signal ratio of 1000.
    """
    if process.schedule.discrete:
        return uniform_time(process, int(process.t_max))[::-1].copy()
    if not process.schedule.ends_in_noise:
        return uniform_log_snr(process, steps)[::-1].copy()
    below = uniform_log_snr(process, steps - 1, sigma_max=1000.0)[::-1]
    return np.append(below, float(process.t_max))


def some_rows(count: int, wanted: int) -> np.ndarray:
    """Up to `wanted` of 0..count − 1, in order, drawn by a fixed seed: the first images of a set may share a class."""
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


def optimal_variance(model: Model, times: np.ndarray, training: Source, *, given_class: bool) -> Optimal:
    """Analytic-DPM's variance of the model on a chain with these times, estimated from 256 images of `training`.

    With `given_class` the model is told their classes: a chain that is told the class has a different variance.
    """
    rows = some_rows(len(training), 256)
    known = jnp.asarray(training.labels[rows]) if given_class and training.labels is not None else None
    # Sixty-four times are enough for the whole curve, which is interpolated between them.
    places = np.unique(np.linspace(1, len(times) - 1, 64).round().astype(int))
    estimate = jax.jit(estimate_optimal_variance, static_argnames=("method", "data_range"))(
        jax.random.key(streams.OPTIMAL_VARIANCE),
        model.process,
        make_denoiser(model, known),
        jnp.asarray(to_model(training.images[rows])),
        jnp.asarray(times[places]),
        data_range=(-1.0, 1.0),
    )
    return estimate.variance


def reverse_variance(name: VarianceName, model: Model, times: np.ndarray, training: Source) -> ReverseVariance:
    """The reverse variance of this name; "auto" is the learned variance if there is one, else the optimal one.

    Raises UsageError for the learned variance of a model that has none.
    """
    variance = variance_without_data(name, model.config, auto="optimal", flag="--variance")
    if variance is not None:
        return variance
    return optimal_variance(model, times, training, given_class=model.num_classes > 0)
