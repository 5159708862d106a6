"""ln p(x) by the instantaneous change of variables along the probability-flow ODE.

    ln p_s(x_s) = ln p_T(x_T) + ∫_s^T ∇·u(x_t, t) dt,   dx/dt = u

(Chen et al. 2018, arXiv:1806.07366, theorem 1; Song et al. 2021, arXiv:2011.13456, eq. 39), for the velocity of
`diffusion.dynamics` and any noise. It is the density of the law that this ODE carries to p_T; for a network that is not
quite the law that the reverse SDE samples, nor is it a bound. Three things make it differ from ln p_0 of the data:

- **t_start.** What is returned is ln p at the time s where the solver's span starts, evaluated at the x given. With
  s = 0 this is ln p_0. With s > 0, the default of `Adaptive`, it is the density of α_s x_0 + σ_s z; read as the
  density of the data it is off by about ½ σ_s² Δp/p for Gaussian noise, where α_s = 1. A network should not be
  evaluated below the smallest time it was trained at; a known law can be, and s = 0 is as exact as any other time.
- **The prior** in place of p_T. For N(0, 1) data it costs VP (β_max = 20) nothing; for data of standard deviation
  s about ½ (s² − 1) α_T² (d − |x|²/s²) nats, and under EDM ½ (s/σ_max)² (d − |x|²/s²). RectifiedFlow and Cosine,
  which end at pure noise, have no such error. Where p_T is known, give it as `terminal`.
- **The solver and the probes**: `rtol`, or the grid; and `standard_error`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from diffusion.likelihood.divergence import Divergence, Exact, draw_probes, summarise
from diffusion.likelihood.flow import Batch, prepare, run
from diffusion.likelihood.solvers import Path, Solver
from diffusion.prediction import Denoiser
from diffusion.process import Process, prior_log_prob
from diffusion.pytree import short_repr


class Likelihood(NamedTuple):
    """What `log_likelihood` returns, for each x."""

    log_prob: Float[Array, " b"]
    """ln p(x) in nats; `bits_per_dim(-log_prob, d, bin_width)` of `diffusion.ddpm.decoders` has it in bits."""
    standard_error: Float[Array, " b"]
    """The standard error of `log_prob` over the probes, in nats: 0 when exact, NaN for one probe. It leaves out the
    solver's error."""
    latent: Float[Array, "b *event"]
    """x_T, the state at the end of the span."""
    nfe: Int[Array, " b"]
    """Evaluations of the denoiser, each with as many Jacobian-vector products as the divergence needs."""
    converged: Bool[Array, " b"]
    """Whether the end of the span was reached and the result is finite; `log_prob` and `latent` are NaN if not."""

    __repr__ = short_repr


def log_likelihood(
    process: Process,
    denoise: Denoiser,
    x: Batch,
    *,
    solver: Solver | None = None,
    method: Divergence | None = None,
    key: Key[Array, ""] | None = None,
    ids: ArrayLike | None = None,
    terminal: Callable[[Array, Any], Array] | None = None,
) -> Likelihood:
    """ln p_s(x) in nats, s the start of the solver's span: ln p_T(x_T) + ∫ ∇·u dt (Song et al. 2021, eq. 39).

    x is (b, *event). `solver` is Adaptive() and `method` Exact() unless given, which suits d up to a few hundred.
    `terminal` is (x, t) -> ln p_t(x) (b,) at the end of the span, `prior_log_prob` unless given. Estimates of the
    divergence need a `key`; their probes are kept along the path (Grathwohl et al. 2019, arXiv:1810.01367), and
    element i depends on (key, ids[i]) alone, ids being 0..b − 1 unless given. Compiled once for each shape; give
    functions as `jax.tree_util.Partial`, since a fresh lambda is compiled afresh.

    Raises TypeError for the discrete chain, or an estimate without a key; ValueError for a span or ids that do not fit.
    """
    method = Exact() if method is None else method
    process, denoise, solver, x = prepare(process, denoise, solver, x)
    probes = draw_probes(method, x, key, ids)
    latent, integrals, path = run(process, denoise, solver, x, method, probes, False)
    terminal = Partial(_prior_log_prob, process) if terminal is None else terminal
    at_the_end = terminal(latent, jnp.asarray(solver.span(process)[1], x.dtype))
    return _conclude(method, at_the_end, latent, integrals, path)


_prior_log_prob = jax.jit(prior_log_prob)


@jax.jit
def _conclude(method: Divergence, at_the_end: Array, latent: Array, integrals: Array, path: Path) -> Likelihood:
    integral = summarise(method, integrals)
    log_prob = at_the_end + integral.value
    converged = path.finished & jnp.isfinite(log_prob)
    return Likelihood(log_prob, integral.standard_error, latent, path.nfe, converged)
