"""From one picture to another through the latents of a model's flow."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64

from diffusion.keys import sample_keys
from diffusion.likelihood import Adaptive, decode, encode, slerp
from diffusion.prediction import Denoiser
from diffusion.process import Process, prior_sample
from diffusion.pytree import short_repr
from experiments import streams
from experiments.config.nodes import Generator
from experiments.data.scaling import to_model, to_pixels
from experiments.data.source import Pixels
from experiments.errors import DivergedError, UsageError
from experiments.runs.model import Model
from experiments.sampling.editing import half_range
from experiments.sampling.guidance import UNGUIDED, Guidance
from samplers import streams as sampler_streams
from samplers.ddim import DDIM
from samplers.grids import uniform_time
from samplers.inversion import invert
from samplers.sample import sample

CHAIN_STEPS = 250
"""Steps of DDIM along a discrete chain, each way."""


class Interpolated(NamedTuple):
    """The way between two pictures."""

    images: Pixels
    """(frames, height, width, channels)."""
    latents: Float32[np.ndarray, "frames *event"]
    """The latent of each."""
    round_trip: Float64[np.ndarray, " 2"]
    """The root mean square over pixels, in levels, by which each end comes back otherwise than it went."""
    nfe: tuple[int, int]
    """Network calls for a frame on the way to the latents and back, the most of any."""

    __repr__ = short_repr


def interpolate(
    model: Model,
    ends: Pixels | tuple[int, int],
    frames: int = 9,
    *,
    label: int | None = None,
    guidance: Guidance = UNGUIDED,
    linear: bool = False,
    tolerance: float = 1e-4,
    chain_steps: int = CHAIN_STEPS,
    batch: int = 16,
) -> Interpolated:
    """`frames` pictures from the first of `ends` to the second: two pictures (2, ...), or the seeds of two samples.

    Pictures go to their latents by the probability-flow ODE and seeds are the draws that `sample` begins with; between
    them the latents turn on a great circle (`slerp`), or go straight on (`linear`), and the ODE leads back (Song et al.
    2021, arXiv:2010.02502, section 5.3). It is solved to `tolerance`; on a discrete chain DDIM takes `chain_steps`
    steps each way. The class `label` and its guidance are the same for all. Of seeds the round trip goes from the two
    pictures to their latents and back again.
    Raises UsageError for a run without a flow, DivergedError where the solver does not arrive.
    """
    flow = _Flow(model, label, guidance, tolerance, chain_steps, batch)
    if isinstance(ends, tuple):
        keys = sample_keys(jax.random.key(streams.SAMPLES), np.asarray(ends, np.uint32))
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, sampler_streams.PRIOR)
        between = np.asarray(prior_sample(keys, model.process, (2, *model.event_shape)))
    else:
        between = flow.to_latents(to_model(ends))
    first, last = (jnp.asarray(np.repeat(each[None], frames, axis=0)) for each in between)
    f = jnp.linspace(0.0, 1.0, frames)
    weight = f.reshape(-1, *[1] * (first.ndim - 1))
    latents = np.asarray((1 - weight) * first + weight * last if linear else slerp(first, last, f), np.float32)
    made = flow.to_images(latents)
    if isinstance(ends, tuple):
        given, back = made[[0, -1]], flow.to_images(flow.to_latents(made[[0, -1]]))
    else:
        given, back = to_model(ends), made[[0, -1]]
    off = ((back - given).astype(np.float64) * half_range(model)).reshape(2, -1)
    return Interpolated(to_pixels(made, model.bits), latents, np.sqrt(np.mean(off**2, axis=1)), (flow.up, flow.down))


def require_flow(model: Model) -> None:
    """Raise UsageError for a run of which no flow leads from pictures to latents."""
    if model.config.preconditioning.kind == "residual":
        raise UsageError("this run has no flow to latents, for its denoiser is not told the noise level.")
    if isinstance(model.config.objective, Generator):
        raise UsageError("a generator of one step has no flow to latents; take another run.")


class _Flow:
    """The flow of a model with a class and a guidance, both ways, batch by batch."""

    def __init__(
        self, model: Model, label: int | None, guidance: Guidance, tolerance: float, chain_steps: int, batch: int
    ) -> None:
        require_flow(model)
        guidance.check(model, given_class=label is not None)
        self._model, self._label, self._guidance, self._batch = model, label, guidance.unclipped(), batch
        self._solver, self._chain = Adaptive(tolerance, tolerance), model.process.schedule.discrete
        self._steps, self.up, self.down = chain_steps, 0, 0
        self._grid = uniform_time(model.process, chain_steps) if self._chain else None

    def to_latents(self, images: Float32[np.ndarray, "n *event"]) -> Float32[np.ndarray, "n *event"]:
        """x_T of each."""
        found, self.up = self._each(images, backward=False)
        return found

    def to_images(self, latents: Float32[np.ndarray, "n *event"]) -> Float32[np.ndarray, "n *event"]:
        """x_0 of each."""
        found, self.down = self._each(latents, backward=True)
        return found

    def _each(self, x: np.ndarray, *, backward: bool) -> tuple[np.ndarray, int]:
        batch, parts, most = min(self._batch, len(x)), [], 0
        for start in range(0, len(x), batch):
            rows = np.minimum(np.arange(start, start + batch), len(x) - 1)
            told = None if self._label is None else jnp.full(batch, self._label, jnp.int32)
            denoise = self._guidance.denoiser(self._model, told)
            moved, nfe = self._moved(self._model.process, denoise, jnp.asarray(x[rows]), backward)
            parts.append(np.asarray(moved, np.float32)[: len(x) - start])
            most = max(most, self._guidance.calls(nfe))
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise DivergedError("the flow did not arrive; give a larger --tolerance, or less guidance.")
        return found, most

    def _moved(self, process: Process, denoise: Denoiser, x: Array, backward: bool) -> tuple[Array, int]:
        if self._grid is None:
            path = (decode if backward else encode)(process, denoise, x, solver=self._solver)
            return path.x, int(np.max(np.asarray(path.nfe)))
        if not backward:
            return invert(process, denoise, x, DDIM(), self._grid[:-1]), len(self._grid) - 2
        drawn = sample(jax.random.key(0), process, denoise, DDIM(), self._grid, x.shape, x_init=x)
        return drawn.x, drawn.nfe


def angle(latents: Float32[np.ndarray, "frames *event"]) -> float:
    """The angle between the first latent and the last, in degrees."""
    a, b = (latents[i].astype(np.float64).reshape(-1) for i in (0, -1))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return math.degrees(2 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b))))
