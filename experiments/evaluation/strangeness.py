"""How strange images are to an energy, and which of two energies they are likelier under."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64

from diffusion import keys as keys_lib
from diffusion.energy import anomaly_score, log_density_ratio
from diffusion.energy.residual import Potential
from diffusion.pytree import as_partial
from experiments import streams
from experiments.data.scaling import to_model
from experiments.data.source import Events
from experiments.errors import DivergedError, UsageError
from experiments.runs.energy import Energy


def strangeness(energy: Energy, images: Events, *, copies: int, batch: int = 256) -> Float64[np.ndarray, " n"]:
    """−ψ(y)/σ_0² of each image in nats, up to a constant: the mean over `copies` y = x + σ_0 z, or of y = x for 0.

    The noise of an image depends on its pixels alone: equal images have equal scores in any batch of any data set.
    Raises DivergedError for a score that is not finite.
    """
    return _scored("score", _strangeness, (as_partial(energy.psi), energy.sigma), energy.sigma, images, copies, batch)


def log_ratio(a: Energy, b: Energy, images: Events, *, copies: int, batch: int = 256) -> Float64[np.ndarray, " n"]:
    """ln p̂_a − ln p̂_b of each image in nats, up to a constant, at the same noisy copies as in `strangeness`.

    Raises UsageError for energies of different noise levels or shapes, DivergedError for a ratio that is not finite.
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
    """The mean of `value` over `copies` noisy copies of each image (b,), or its value at the image itself for 0."""
    if not copies:
        return value(x, *arguments)
    keys = keys_lib.sample_keys(jax.random.key(streams.STRANGENESS), marks)

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
