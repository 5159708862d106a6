"""Measures along a training: the held-out loss by noise level, and a quick Fréchet distance."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.process import Process
from diffusion.pytree import pytree
from diffusion.score_matching.times import TimeDistribution, UniformTime
from experiments import streams
from experiments.config.nodes import Denoising, ImportanceConfig
from experiments.config.tree import Config
from experiments.errors import DataError, DivergedError, UsageError, warn
from experiments.evaluation import store
from experiments.evaluation.distances import Estimate, frechet_at
from experiments.evaluation.features import FeatureSpace, feature_space, source_features
from experiments.runs.model import Model
from experiments.sampling.drawing import draw
from experiments.sampling.labels import choose_classes
from experiments.sampling.solver import build_own
from experiments.training.data import RunData
from experiments.training.measures import Measure
from experiments.training.model import network_of
from experiments.training.objective import make_objective
from experiments.training.progress import Step
from experiments.training.state import Params, seed_key

_BATCH = 64


def measures_of(config: Config, data: RunData) -> Sequence[Measure]:
    """The measures that a configuration asks for. Raises UsageError for those that its data have nothing for."""
    wanted, found = config.measure, []
    if wanted.levels_every:
        found.append(Measure(wanted.levels_every, HeldOutLevels(config, data)))
    if wanted.frechet_every:
        found.append(Measure(wanted.frechet_every, QuickFrechet(config, data)))
    return found


@pytree
class PartOfTimes(TimeDistribution):
    """A law of times between two of its quantiles: t(low + (high − low) u), with the weights that the law has there."""

    law: TimeDistribution
    low: Float[Array, ""]
    high: Float[Array, ""]

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The quantile of the law, at u stretched over the part."""
        return self.law.quantile(process, self._stretched(u))

    def correction(self, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """That of the law."""
        return self.law.correction(self._stretched(u))

    def slope(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """dt/du of the law: so the mean over equal parts of an integral over t is the whole integral, as of a mean."""
        return self.law.slope(process, self._stretched(u))

    def _stretched(self, u: Float[Array, " b"]) -> Float[Array, " b"]:
        return self.low + (self.high - self.low) * u


class HeldOutLevels:
    """The held-out loss in equal parts of the times that are drawn: a callable of a step.

    With K levels, part k has the times t(u) for u between k/K and (k + 1)/K, so that the mean of the K losses is an
    estimate of the held-out loss itself. Each is named after its range of σ/α. The times and the noise are the same at
    every step. In a run of several processes it is measured on the share of process 0.
    """

    def __init__(self, config: Config, data: RunData) -> None:
        """Raises UsageError where nothing is held out, and for a generator, which draws its levels by itself."""
        if not isinstance(config.objective, Denoising):
            raise UsageError("--measure.levels-every goes with --objective denoising; leave it out.")
        if not data.held_out:
            raise UsageError("--measure.levels-every needs held-out data; give --data.held-out 0.1, say.")
        self._config, self._data, count = config, data, config.measure.levels
        self._law = UniformTime() if isinstance(config.times, ImportanceConfig) else config.times
        self._edges = np.arange(count + 1) / count
        self._network = network_of(config, data.facts)
        self._loss = jax.jit(self._mean)

    @functools.cached_property
    def names(self) -> list[str]:
        """The name of each level, by the range of its σ/α."""
        process, inner = self._config.process(), np.clip(self._edges, 1e-6, 1 - 1e-6)
        times = self._law.quantile(process, jnp.asarray(inner, jnp.float32))
        levels = np.exp(-0.5 * np.asarray(process.schedule.log_snr(times), np.float64))
        return [f"held_out_loss/sigma_{a:.3g}-{b:.3g}" for a, b in itertools.pairwise(levels)]

    def __call__(self, step: Step) -> dict[str, float]:
        """The losses of the first average."""
        root = seed_key(self._config.training.seed, streams.VALIDATION)
        batches = [(jax.random.fold_in(root, i), batch) for i, batch in enumerate(self._data.held_out)]
        losses = {}
        for name, low, high in zip(self.names, self._edges, self._edges[1:], strict=False):
            part = [float(self._loss(step.ema[0], key, batch, low, high)) for key, batch in batches]
            losses[name] = sum(part) / len(part)
        return losses

    def _mean(self, params: Params, key: Array, batch: Any, low: Array, high: Array) -> Array:
        config = dataclasses.replace(self._config, times=PartOfTimes(self._law, low, high))  # pyright: ignore
        objective = make_objective(config, self._network, self._data.facts.num_classes, dropout=False)
        return jnp.mean(objective(params, key, batch, jnp.ones(1), False)[0])


class QuickFrechet:
    """The Fréchet distance of a few hundred samples to as many held-out images: a callable of a step.

    The samples are those of the first average by the run's own sampler, of seeds 0 on. The features are those of
    `scorefield evaluate`, kept in the same folder. Distances of equally many samples alone can be compared, and this is
    no FID; the standard error is the bootstrap's.
    """

    def __init__(self, config: Config, data: RunData) -> None:
        """Raises UsageError for data that are no images, of which none is held out, or that nobody can read again."""
        if len(data.facts.event_shape) != 3:
            raise UsageError("--measure.frechet-every is for images, and these are points; leave it out.")
        if data.parts is None or data.parts[1] is None or len(data.parts[1]) < 2:
            raise UsageError("--measure.frechet-every needs held-out images; give --data.held-out 0.1, say.")
        self._parts, self._seeds = (data.parts[0], data.parts[1]), range(config.measure.frechet_samples)
        self._model = Model(config, data.facts, network_of(config, data.facts), None)
        self._solver = build_own(config)

    @functools.cached_property
    def _held_out(self) -> tuple[FeatureSpace, Any]:
        cache = store.default_folder()
        space = feature_space(*self._parts, cache=cache, notice=warn)
        return space, source_features(space, self._parts[1], cache=cache, notice=warn)

    def estimate(self, params: Params) -> Estimate:
        """The distance with these parameters. Raises DivergedError for samples that are not finite."""
        space, held_out = self._held_out
        model = dataclasses.replace(self._model, params=params)
        classes = choose_classes(model)
        labels = None if classes is None else classes.of(self._seeds)
        batches = draw(model, self._solver, self._seeds, batch=min(_BATCH, len(self._seeds)), label=labels)
        return frechet_at(space.streamed((drawn.images for drawn in batches), len(self._seeds)), held_out)

    def __call__(self, step: Step) -> dict[str, float]:
        """frechet, its standard error, and of how many samples; nothing, and a line, for samples that diverge."""
        try:
            found = self.estimate(step.ema[0])
        except (DivergedError, DataError) as error:
            warn(f"no Fréchet distance at step {step.step}: {error}")
            return {}
        return {"frechet": found.value, "frechet_standard_error": found.standard_error, "frechet_samples": found.n}
