"""Bits per dimension of held-out images, from the ELBO of a discrete chain."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder, bits_per_dim
from diffusion.ddpm.elbo import elbo_estimate
from diffusion.ddpm.reverse_steps import Learned
from diffusion.noises import Gaussian
from diffusion.prediction import Denoiser
from experiments import streams
from experiments.config.nodes import Generator
from experiments.data.scaling import to_model
from experiments.data.source import Source
from experiments.errors import UsageError
from experiments.progress import tracked
from experiments.runs.model import Model, make_denoiser
from experiments.sampling.variance import VarianceName, chain_times, reverse_variance, some_rows, variance_name


class BitsPerDim(NamedTuple):
    """An upper bound of the negative log-likelihood of images of 8 or 16 bits, in bits per dimension."""

    bits: float
    """The bound: the sum of its three terms below."""
    standard_error: float
    """The standard error of the bound, over images and Monte-Carlo draws."""
    prior: float
    """The term of the prior."""
    steps: float
    """The terms of the chain's steps, summed."""
    reconstruction: float
    """The term of the decoder."""
    images: int
    """The number of images."""
    chain_steps: int
    """The number of steps of the chain."""
    variance: VarianceName
    """The name of the reverse variance."""
    given_class: bool
    """Whether the likelihood is that of an image given its class."""


def require_elbo(model: Model) -> None:
    """Raise UsageError for a model that has no ELBO: a generator of one step, or one whose noise is not Gaussian."""
    if isinstance(model.config.objective, Generator):
        raise UsageError("a generator of one step has no chain, and so no ELBO; add --no-bits-per-dim.")
    if not isinstance(model.config.noise, Gaussian):
        raise UsageError("the ELBO needs Gaussian noise, and this run's is Student-t; add --no-bits-per-dim.")


def held_out_bits_per_dim(
    model: Model,
    held_out: Source,
    training: Source,
    *,
    variance: VarianceName = "auto",
    chain_steps: int = 1000,
    draws: int = 16,
    batch: int = 64,
    limit: int = 1000,
) -> BitsPerDim:
    """−ELBO of up to `limit` held-out images in bits per dimension, estimated from `draws` steps of the chain for each.

    A fixed seed draws the images. The chain is the run's own if it is discrete, else `chain_steps` steps of its
    process. A conditional model is told the class of each image, so that the bound is on −log p(image | class).
    `variance` is as in `reverse_variance`, the optimal one estimated from `training`.
    Raises UsageError as `require_elbo` does, and for the learned variance of a run that has none.
    """
    require_elbo(model)
    process = model.process
    times = chain_times(process, chain_steps)
    chosen = reverse_variance(variance, model, times, training)
    conditional, decoder = model.num_classes > 0, DiscretisedDecoder(levels=2**model.bits)
    rows = some_rows(len(held_out), limit)
    labels = None if held_out.labels is None else held_out.labels[rows]
    dims, batch = math.prod(held_out.event_shape), min(batch, len(rows))

    @jax.jit
    def terms(denoise: Denoiser, x_0: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        chain = GeneratorChain(process, denoise, jnp.asarray(times, jnp.float32), chosen, decoder)
        elbo = elbo_estimate(jax.random.key(streams.ELBO), chain, x_0, draws=draws, ids=ids)
        return elbo.prior, jnp.sum(elbo.steps, axis=1), elbo.reconstruction

    parts = []
    for start in tracked(range(0, len(rows), batch), "bits per dimension"):
        places = np.minimum(np.arange(start, start + batch), len(rows) - 1)
        known = jnp.asarray(labels[places]) if conditional and labels is not None else None
        denoise = make_denoiser(model, known, with_variance=isinstance(chosen, Learned))
        part = terms(denoise, jnp.asarray(to_model(held_out.images[rows[places]])), jnp.asarray(rows[places]))
        parts.append(np.stack([np.asarray(p, np.float64) for p in part], axis=1)[: len(rows) - start])
    nats = np.concatenate(parts)
    bits = np.asarray(bits_per_dim(jnp.asarray(nats), dims), np.float64)
    total = bits.sum(1)
    error = float(total.std(ddof=1) / math.sqrt(len(total))) if len(total) > 1 else math.nan
    prior, steps, reconstruction = (float(part) for part in bits.mean(0))
    return BitsPerDim(
        bits=float(total.mean()),
        standard_error=error,
        prior=prior,
        steps=steps,
        reconstruction=reconstruction,
        images=len(total),
        chain_steps=len(times) - 1,
        variance=variance_name(chosen),
        given_class=conditional,
    )
