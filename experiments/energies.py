"""From a trained run to its energy E = −ψ/σ_0², and what it says of images: how strange, of which of two laws.

ψ/σ_0² is ln p̂ up to a constant, p̂ the law of images under noise of σ_0, if that is the only level that ψ was trained
at. One ψ for many levels is of no such law: what has the least loss is a mean over the levels
(`diffusion.energy.multiscale`), near ∇ ln p̂ where the lowest level outweighs the others.

For one level the mean over noisy copies of an image is the cross-entropy of N(x, σ_0²I) and p̂, and the image itself
lies above where p̂ has its mass. As a score the image itself is better all the same: two digits blended into one score
above a digit with probability 0.89 at σ_0 = 0.1 and 0.82 at 0.3, by 64 noisy copies with 0.86 and 0.72; for other
changes of digits the two agree.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64

from diffusion import keys as keys_lib
from diffusion.energy import anomaly_score, log_density_ratio
from diffusion.energy.residual import Potential
from diffusion.noises import Gaussian
from diffusion.pytree import as_partial
from diffusion.time_distributions import LogUniformSigma
from experiments import solver
from experiments.config import Generator
from experiments.data.scaling import to_model
from experiments.data.source import Events
from experiments.errors import DivergedError, UsageError

if TYPE_CHECKING:
    from experiments.training.model import TrainedModel

# Not the key of samples.
_KEY_SEED = 0x5C0E


@dataclass(frozen=True)
class Energy:
    """A potential ψ, D(y) = y + ∇ψ(y), and the noise levels that it is of."""

    psi: Potential
    """ψ, a Partial with the parameters as leaves."""
    sigma: float
    """σ_0, in the units of the data: of one level e^{ψ/σ_0²} ∝ p * N(0, σ_0²I); of many it is a density of its own."""
    high: float
    """The largest level that ψ was trained at."""
    sigma_data: float
    """Standard deviation of the data, about."""
    event_shape: tuple[int, ...]


def energy_of(trained: TrainedModel, flag: str = "--run") -> Energy:
    """The energy of a run: of a conservative denoiser that is blind to the level, or of a generator's estimator.

    Raises UsageError, naming the run as `flag` gave it, for every other run.
    """
    from diffusion.networks.conservative import Conservative
    from experiments.training.generator import Game, data_potential
    from experiments.training.potential import potential

    config, network, shape = trained.config, trained.network, tuple(trained.facts.event_shape)
    if isinstance(config.objective, Generator) and isinstance(network, Game):
        sigma = config.objective.sigma
        psi = data_potential(network, trained.params, config)
        return Energy(psi, sigma, sigma, config.preconditioning.sigma_data, shape)
    if not (config.conservative and config.preconditioning.kind == "residual"):
        raise UsageError(
            f"{flag} {trained.path} has no energy: its denoiser is no gradient of one scalar for all noise levels; "
            "train with --conservative --preconditioning.kind residual, such as --preset digits-mdsm."
        )
    if not (isinstance(config.times, LogUniformSigma) and isinstance(config.noise, Gaussian)):
        raise UsageError(
            f"{flag} {trained.path} has no smallest level σ_0 of Gaussian noise that its energy is of; "
            "train with --times log-uniform and --noise gaussian, such as --preset digits-mdsm."
        )
    if config.conditional and config.label_dropout == 0:
        raise UsageError(
            f"{flag} {trained.path} has no energy for images whose class is not told, for it was trained with "
            "--label-dropout 0; train with --no-conditional, or with a --label-dropout above 0."
        )
    sigma_data = config.preconditioning.sigma_data
    psi = potential(cast(Conservative, network), trained.params, sigma_data)
    return Energy(psi, float(config.times.low), float(config.times.high), sigma_data, shape)


def origin(told: solver.CheckpointArguments, trained: TrainedModel) -> dict[str, Any]:
    """Which parameters an energy has, as JSON values."""
    return {
        "parameters": told.ema if told.ema == "raw" else f"average {told.ema}",
        "checkpoint": str(trained.path),
        "checkpoint_step": trained.step,
        "checkpoint_sha256": trained.digest,
        **solver.versions(),
    }


def strangeness(energy: Energy, images: Events, *, copies: int, batch: int = 256) -> Float64[np.ndarray, " n"]:
    """−ψ(y)/σ_0² of each image in nats, up to a constant: the mean over `copies` y = x + σ_0 z, or of y = x for 0.

    The noise of an image depends on its pixels alone: equal images have equal scores, in any batch and any data set.
    Raises DivergedError for a score that is not finite.
    """
    return _scored("score", _strangeness, (as_partial(energy.psi), energy.sigma), energy.sigma, images, copies, batch)


def log_ratio(a: Energy, b: Energy, images: Events, *, copies: int, batch: int = 256) -> Float64[np.ndarray, " n"]:
    """ln p̂_a − ln p̂_b of each image in nats, up to a constant; at the same noisy copies as `strangeness`.

    Raises UsageError for two levels or two shapes, DivergedError for a ratio that is not finite.
    """
    require_comparable(a, b)
    arguments = (as_partial(a.psi), as_partial(b.psi), a.sigma)
    return _scored("log-density ratio", _log_ratio, arguments, a.sigma, images, copies, batch)


def require_comparable(a: Energy, b: Energy) -> None:
    """Raise UsageError unless both are densities of the same noisy images."""
    if a.event_shape != b.event_shape:
        ours, theirs = ("×".join(map(str, one.event_shape)) for one in (a, b))
        raise UsageError(f"--against-run is of images of {theirs}, and --run of {ours}; give a run on the same shape.")
    if a.sigma != b.sigma:
        raise UsageError(
            f"--against-run has the noise level {b.sigma:g}, and --run {a.sigma:g}; their densities are of different "
            f"images, so train with --times.low {a.sigma:g} (or --objective.sigma {a.sigma:g})."
        )


def _strangeness(y: Array, psi: Potential, sigma: Array) -> Array:
    return anomaly_score(psi, sigma, y)


def _log_ratio(y: Array, psi_a: Potential, psi_b: Potential, sigma: Array) -> Array:
    return log_density_ratio(psi_a, psi_b, sigma)(y)


@functools.partial(jax.jit, static_argnames=("value", "copies"))
def _mean(
    value: Callable[..., Array], arguments: tuple[Any, ...], sigma: Array, x: Array, marks: Array, copies: int
) -> Array:
    """The mean of `value` over noisy copies (b,); over the image itself for none."""
    if not copies:
        return value(x, *arguments)
    keys = keys_lib.sample_keys(jax.random.key(_KEY_SEED), marks)

    def copy(i: Array) -> Array:
        return value(x + sigma * keys_lib.normal(keys_lib.fold(keys, i), x.shape[1:], x.dtype), *arguments)

    return jnp.mean(jax.lax.map(copy, jnp.arange(copies)), axis=0)


def _scored(
    what: str,
    value: Callable[..., Array],
    arguments: tuple[Any, ...],
    sigma: float,
    images: Events,
    copies: int,
    batch: int,
) -> Float64[np.ndarray, " n"]:
    parts, batch = [], min(batch, len(images))
    for start in range(0, len(images), batch):
        rows = np.minimum(np.arange(start, start + batch), len(images) - 1)  # one shape, one compilation
        marks = np.asarray([zlib.crc32(image.tobytes()) for image in images[rows]], np.uint32).view(np.int32)
        x = jnp.asarray(to_model(images[rows]))
        part = _mean(value, arguments, jnp.asarray(sigma, x.dtype), x, jnp.asarray(marks), copies)
        parts.append(np.asarray(part, np.float64)[: len(images) - start])
    values = np.concatenate(parts)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DivergedError(f"the {what} of image {row} is not finite; train anew with a smaller learning rate.")
    return values
