"""What the probability-flow ODE of a model says of images, batch by batch; and arguments brought into shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64

from diffusion import likelihood
from diffusion.likelihood import Adaptive, Divergence, Exact, Hutchinson, Solver
from experiments import streams
from experiments.data.scaling import bin_width, to_model
from experiments.data.source import Events
from experiments.errors import UsageError
from experiments.evaluation.plane.density import has_flow
from experiments.interface.arguments import Labels, check_flow, paired, whole
from experiments.runs.classes import class_numbers
from experiments.runs.model import Model, make_denoiser
from experiments.sampling.labels import require_no_class

_PIXELS = (np.dtype(np.uint8), np.dtype(np.uint16))
_EXACT = 256
"""Dimensions up to which the divergence is exact unless told otherwise."""
_FARTHEST = 4.0
"""Absolute value that no image reaches in the units of the network, [-1, 1], however far a model may overshoot."""


def log_likelihood(
    model: Model,
    images: Events,
    labels: Labels | None,
    *,
    seed: int,
    method: Divergence | None,
    solver: Solver | None,
    batch: int,
) -> Float64[np.ndarray, " n"]:
    """ln p in nats, as `Run.log_likelihood` says. Raises UsageError for a model without an ODE."""
    model = _flow_of(model)
    check_flow(method, solver)
    images = _in_units(model, _events(model, images))
    solver = Adaptive() if solver is None else solver
    if method is None:
        method = Exact() if images[0].size <= _EXACT else Hutchinson()
    noise_key, probe_key = (
        jax.random.fold_in(jax.random.key(seed), stream) for stream in (streams.DEQUANTISATION, streams.PROBES)
    )
    found = []
    for rows, count in _rows(len(images), batch):
        x, log_q, ids = jnp.asarray(to_model(images[rows])), 0.0, jnp.asarray(rows)
        if images.dtype in _PIXELS:
            width = bin_width(8 * images.dtype.itemsize)
            x, log_q = likelihood.dequantise_uniform(noise_key, x, width, ids=ids)
        denoise = make_denoiser(model, _labels(model, labels, rows, len(images)))
        told = likelihood.log_likelihood(
            model.process, denoise, x, solver=solver, method=method, key=probe_key, ids=ids
        )
        found.append(np.asarray(told.log_prob - log_q, np.float64)[:count])
    return np.concatenate(found)


def transport(
    model: Model, images: Events, labels: Labels | None, *, backward: bool, solver: Solver | None, batch: int
) -> Float32[np.ndarray, "n *event"]:
    """Where the ODE takes images, or backward latents; NaN where it did not arrive. Raises as `log_likelihood`."""
    model = _flow_of(model)
    check_flow(None, solver)
    images, move = _events(model, images), likelihood.decode if backward else likelihood.encode
    if not backward:  # latents have any range
        images = _in_units(model, images)
    found = []
    for rows, count in _rows(len(images), batch):
        denoise = make_denoiser(model, _labels(model, labels, rows, len(images)))
        moved = move(model.process, denoise, jnp.asarray(to_model(images[rows])), solver=solver)
        found.append(np.asarray(moved.x, np.float32)[:count])
    return np.concatenate(found)


def completions(
    model: Model, images: Events, seeds: Sequence[int] | None
) -> tuple[Float32[np.ndarray, "n *event"], Sequence[int]]:
    """(Images in the units of the network, their seeds): one image alone is repeated for each seed.

    Raises UsageError when there are as many of neither.
    """
    images = np.asarray(images)
    known = _events(model, images[None] if images.shape == model.event_shape else images)
    return paired("images", to_model(known), seeds)


def full_mask(
    model: Model, mask: Bool[np.ndarray, "..."], images: Float32[np.ndarray, "n *event"]
) -> Bool[np.ndarray, "n *event"]:
    """The mask for every image.

    Raises UsageError for one that is not of booleans, or does not fit, and for known values that are in other units.
    """
    mask, shape = np.asarray(mask), images.shape
    if mask.dtype != np.bool_:
        raise UsageError(f"mask is an array of {mask.dtype}; give booleans, True where a pixel is known.")
    if len(shape) == 4 and mask.shape == shape[1:3]:
        mask = mask[..., None]
    try:
        full = np.broadcast_to(mask, shape)
    except ValueError:
        raise UsageError(
            f"mask has shape {mask.shape} and the images {shape}; give (height, width), or the shape of the images."
        ) from None
    _in_units(model, images, full)
    return full


def _flow_of(model: Model) -> Model:
    """The model, a chain read between its times. Raises UsageError for a model without an ODE."""
    if not has_flow(model):
        raise UsageError("this run has no probability-flow ODE, for its denoiser is not told the noise level.")
    return model.flow


def _events(model: Model, images: Events) -> Events:
    """`images` as they are, once they are seen to be of the model's shape, and uint8, uint16 or floats."""
    images = np.asarray(images)
    known = images.dtype in _PIXELS or images.dtype.kind == "f"
    if images.shape[1:] != model.event_shape or len(images) == 0 or not known:
        raise UsageError(
            f"images are {images.dtype} {images.shape}; give uint8 or uint16, or floats in the units of the network, "
            f"of shape (n, {', '.join(map(str, model.event_shape))})."
        )
    return images


def _in_units(model: Model, images: Events, where: Bool[np.ndarray, "n *event"] | bool = True) -> Events:
    """`images` as they are, once floats are seen to be in the units of the network `where` they matter."""
    if model.of_points or images.dtype in _PIXELS or not np.any(where):
        return images
    largest = float(np.max(np.abs(images), where=where, initial=0.0))
    if not largest <= _FARTHEST:
        what = f"reach {largest:.4g} in absolute value" if np.isfinite(largest) else "are not all finite"
        raise UsageError(
            f"images are floats that {what}, and floats are in the units of the network, [-1, 1]; give uint8, or "
            "pixels / 127.5 - 1 of pixels in 0..255."
        )
    return images


def _rows(count: int, batch: int) -> Iterator[tuple[np.ndarray, int]]:
    """(The rows of a batch, how many of them are wanted): one shape for all, and so one compilation."""
    batch = min(whole("batch", batch), count)
    for start in range(0, count, batch):
        wanted = min(batch, count - start)
        yield np.resize(np.arange(start, start + wanted), batch), wanted


def _labels(model: Model, labels: Labels | None, rows: np.ndarray, count: int) -> Array | None:
    """The classes of these rows. Raises UsageError unless there is a known one for each of `count` images."""
    if labels is None:
        require_no_class(model, "labels")
        return None
    known = np.asarray(labels)
    if known.shape != (count,):
        raise UsageError(f"labels has shape {known.shape} for {count} images; give one class for each.")
    return jnp.asarray(class_numbers(model, known, "labels")[rows])
