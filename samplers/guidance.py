"""Guidance: functions from denoisers to a denoiser."""

from __future__ import annotations

from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike

from diffusion.arrays import expand
from diffusion.prediction import Denoiser
from samplers.sample import as_partial


def classifier_free_guidance(conditional: Denoiser, unconditional: Denoiser, scale: ArrayLike) -> Denoiser:
    """D = D_∅ + w (D_c − D_∅): w = 0 drops the condition, 1 is the conditional model, more exaggerates it.

    `scale` is w, a scalar or (b,); Ho & Salimans 2022, arXiv:2207.12598, call w − 1 the guidance strength. Each call
    costs two network evaluations. For w other than 0 and 1 the result is not the denoiser of any diffused density.
    """
    return Partial(_guided, as_partial(conditional), as_partial(unconditional), scale)


def _guided(conditional: Denoiser, unconditional: Denoiser, scale: ArrayLike, x: Array, t: ArrayLike) -> Array:
    free = unconditional(x, t)
    return free + expand(scale, x) * (conditional(x, t) - free)
