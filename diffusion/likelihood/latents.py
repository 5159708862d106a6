"""Latents: where the probability-flow ODE takes x, the way back, and the way between two of them.

Deterministic, and the same for every solver up to its error (Song et al. 2021, arXiv:2011.13456, section 4.3).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from diffusion.arrays import expand, sum_event
from diffusion.likelihood.flow import Batch, prepare, run
from diffusion.likelihood.solvers import Solver
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import short_repr


class Transported(NamedTuple):
    """The ends of the paths that start at each x."""

    x: Float[Array, "b *event"]
    """The state at the end of the span, NaN where the solver did not arrive."""
    nfe: Int[Array, " b"]
    """Evaluations of the denoiser."""
    converged: Bool[Array, " b"]
    """Whether the end of the span was reached."""

    __repr__ = short_repr


def encode(process: Process, denoise: Denoiser, x: Batch, *, solver: Solver | None = None) -> Transported:
    """x_s -> x_T, (b, *event), from the start of the solver's span to its end: `Likelihood.latent` alone.

    `solver` is Adaptive() unless given. Raises TypeError for the discrete chain, ValueError for a span that does not
    fit.
    """
    return _transport(process, denoise, x, solver, False)


def decode(process: Process, denoise: Denoiser, latent: Batch, *, solver: Solver | None = None) -> Transported:
    """x_T -> x_s, (b, *event), from the end of the solver's span to its start: `encode`'s inverse, up to its error.

    `solver` is Adaptive() unless given. Raises TypeError for the discrete chain, ValueError for a span that does not
    fit.
    """
    return _transport(process, denoise, latent, solver, True)


def _transport(process: Process, denoise: Denoiser, x: Batch, solver: Solver | None, backward: bool) -> Transported:
    process, denoise, solver, x = prepare(process, denoise, solver, x)
    moved, _, path = run(process, denoise, solver, x, None, None, backward)
    return Transported(moved, path.nfe, path.finished & jnp.all(jnp.isfinite(moved.reshape(x.shape[0], -1)), axis=1))


def slerp(
    first: Float[Array, "b *event"], second: Float[Array, "..."], fraction: ArrayLike
) -> Float[Array, "b *event"]:
    """From `first` to `second`: the direction turns along the great circle, the norm changes linearly.

        |x| = (1 − f)|a| + f|b|,   x/|x| = (sin((1 − f)ω) a/|a| + sin(fω) b/|b|)/sin ω,   cos ω = a·b/(|a||b|)

    for each element, f = `fraction` a scalar or (b,) (Shoemake 1985). Unlike the straight line it keeps the norm that
    latents have; the usual formula, which does not divide by the norms, agrees where they are equal. Opposite or zero
    vectors have no great circle: they are joined by the straight line.
    Raises ValueError when the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"first has shape {first.shape} and second {second.shape}; they must agree.")
    f = expand(jnp.asarray(fraction, first.dtype), first)
    norms = [expand(jnp.sqrt(sum_event(v**2)), v) for v in (first, second)]
    a, b = (v / jnp.where(norm > 0, norm, 1.0) for v, norm in zip((first, second), norms, strict=True))
    # Kahan's form: the arc cosine loses half the digits of small angles.
    gap, whole = (expand(jnp.sqrt(sum_event(v**2)), a) for v in (b - a, b + a))
    omega = 2 * jnp.arctan2(gap, whole)
    # sin(fω)/sin ω by sinc, whose limit at ω = 0 is f.
    sine = jnp.sinc(omega / jnp.pi)
    turns = whole > 4 * jnp.finfo(a.dtype).eps
    safe = jnp.where(turns, sine, 1.0)
    arc = ((1 - f) * jnp.sinc((1 - f) * omega / jnp.pi) * a + f * jnp.sinc(f * omega / jnp.pi) * b) / safe
    curved = ((1 - f) * norms[0] + f * norms[1]) * arc
    return jnp.where(turns & (norms[0] > 0) & (norms[1] > 0), curved, (1 - f) * first + f * second)
