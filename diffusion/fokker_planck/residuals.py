"""Does p_t obey the equation? Three forms of one residual, zero for the true law; the fourth, `weak`, needs samples.

    density      ∂_t p + ∇·(f p) − Σ ∂_i ∂_j (D_ij p)
    log-density  ∂_t ℓ + ∇·v + v·∇ℓ,       ℓ = ln p,  v = f − ∇·D − D ∇ℓ
    score        ∂_t s + ∇(∇·v + v·s),     s = ∇ℓ,    v = f − ∇·D − D s       (Lai et al. 2023, arXiv:2210.04296, eq. 8)

The log-density's is the density's divided by p, and stays readable in the tails; its gradient is the score's, which
takes a network's score even where that is not the gradient of anything. Divergences are exact up to 64 dimensions and
estimated beyond, with their standard error: a probe costs a constant number of evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import sum_event
from diffusion.dynamics import Drift, forward_sde, reverse_sde, velocity
from diffusion.fokker_planck.equation import (
    FokkerPlanck,
    LogDensity,
    VectorField,
    of_ode,
    of_sde,
    probability_flux,
    probability_velocity,
)
from diffusion.likelihood.divergence import (
    Divergence,
    DivergenceEstimate,
    Exact,
    Hutchinson,
    draw_probes,
    summarise,
)
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import as_partial, bound, short_repr

EXACT_UP_TO = 64
"""The largest dimension in which divergences are exact unless a method is given."""


def forward_equation(process: Process) -> FokkerPlanck:
    """The Fokker-Planck equation of the forward SDE. Raises TypeError when the noise is not Gaussian."""
    return of_sde(forward_sde(process))


def flow_equation(process: Process, denoise: Denoiser) -> FokkerPlanck:
    """The continuity equation of the probability-flow ODE, for any noise; p_t obeys it as it does the forward SDE's."""
    return of_ode(velocity(process, denoise))


def reverse_equation(process: Process, denoise: Denoiser, level: ArrayLike = 1.0) -> FokkerPlanck:
    """The equation of the reverse SDE with σ̃ = level · g in its own time τ = t_max − t, where p_{t_max − τ} obeys it.

    Raises TypeError when the noise is not Gaussian.
    """
    sde = reverse_sde(process, denoise, jnp.asarray(level))
    drift = bound(_backward_drift, sde.drift, process)
    return FokkerPlanck(drift, bound(_backward_spread, sde.diffusion, process))


def _backward_drift(drift: Drift, process: Process, x: Array, tau: ArrayLike) -> Array:
    return -drift(x, process.t_max - jnp.asarray(tau))


def _backward_spread(diffusion: Callable[[ArrayLike], Array], process: Process, x: Array, tau: ArrayLike) -> Array:
    del x
    return diffusion(process.t_max - jnp.asarray(tau))


def density_residual(
    equation: FokkerPlanck,
    density: Callable[[Array, ArrayLike], Array],
    x: Float[Array, "b *event"],
    t: ArrayLike,
    *,
    method: Divergence | None = None,
    key: Key[Array, ""] | None = None,
) -> DivergenceEstimate:
    """∂_t p + ∇·J at (x, t), J = f p − ∇·(D p): (b,), in units of density per time, and its standard error.

    `density` is (x, t) -> p_t(x), (b,), its row i a function of x[i] alone; t is a scalar or (b,). `method` is how
    divergences are found, Exact() up to 64 dimensions and Hutchinson(8) beyond, which needs a `key`.
    Raises TypeError without that key.
    """
    flux = probability_flux(equation, density)
    change = _time_derivative(density, x, t)
    found = _divergence(lambda y: flux(y, t), x, method, key)
    return DivergenceEstimate(change + found.value, found.standard_error)


def log_density_residual(
    equation: FokkerPlanck,
    log_density: LogDensity,
    x: Float[Array, "b *event"],
    t: ArrayLike,
    *,
    method: Divergence | None = None,
    key: Key[Array, ""] | None = None,
) -> DivergenceEstimate:
    """∂_t ℓ + ∇·v + v·∇ℓ at (x, t): (b,), in nats per time, and its standard error. Arguments as in `density_residual`.

    v·∇ℓ is exact; with a stochastic `method` ∇·v is an estimate.
    Raises TypeError without the key that it needs.
    """
    flow = probability_velocity(equation, gradient(log_density))
    return continuity_residual(flow, log_density, x, t, method=method, key=key)


def continuity_residual(
    flow: Drift,
    log_density: LogDensity,
    x: Float[Array, "b *event"],
    t: ArrayLike,
    *,
    method: Divergence | None = None,
    key: Key[Array, ""] | None = None,
) -> DivergenceEstimate:
    """∂_t ℓ + ∇·u + u·∇ℓ at (x, t): 0 if the ODE dx/dt = u moves exp(ℓ). Any noise; as `log_density_residual`."""
    change = _time_derivative(log_density, x, t)
    slope = gradient(log_density)(x, t)
    found = _divergence(lambda y: flow(y, t), x, method, key)
    return DivergenceEstimate(change + found.value + sum_event(flow(x, t) * slope), found.standard_error)


class ScoreResidual(NamedTuple):
    """What `score_residual` returns."""

    value: Float[Array, "b *event"]
    """The residual, or its unbiased estimate."""
    standard_error: Float[Array, "b *event"]
    """The standard error of the value, 0 when it is exact."""

    __repr__ = short_repr


def score_residual(
    equation: FokkerPlanck,
    score: VectorField,
    x: Float[Array, "b *event"],
    t: ArrayLike,
    *,
    method: Divergence | None = None,
    key: Key[Array, ""] | None = None,
) -> ScoreResidual:
    """∂_t s + ∇(∇·v + v·s) at (x, t), v = f − ∇·D − D s: (b, *event), and its standard error.

    `score` may be a network's: a residual that is not 0 says that it is not the score of any solution of this
    equation. A curl of s shows as well. Other arguments as in `density_residual`. Costs a gradient of a divergence,
    2 to 4 times that.
    Raises TypeError without the key that a stochastic method needs.
    """
    flow = probability_velocity(equation, score)
    method = default_method(x) if method is None else method
    probes = draw_probes(method, x, key, None)

    def potential(y: Array) -> Array:
        transported = sum_event(flow(y, t) * score(y, t))
        return method.trace(jax.linearize(lambda z: flow(z, t), y)[1], probes) + transported

    values, pull = jax.vjp(potential, x)
    slopes = jax.vmap(lambda which: pull(which[:, None] * jnp.ones_like(values))[0])(jnp.eye(len(values)))
    flat = summarise(method, slopes.reshape(len(values), -1))
    change = _time_derivative(score, x, t)
    return ScoreResidual(change + flat.value.reshape(x.shape), flat.standard_error.reshape(x.shape))


def gradient(log_density: LogDensity) -> VectorField:
    """∇ ln p by differentiation: the score of a log-density."""
    return bound(_gradient, as_partial(log_density))


def _gradient(log_density: LogDensity, x: Array, t: ArrayLike) -> Array:
    return jax.grad(lambda y: jnp.sum(log_density(y, t)))(x)


def _time_derivative(function: Callable[[Array, ArrayLike], Array], x: Array, t: ArrayLike) -> Array:
    time = jnp.asarray(t, x.dtype)
    return jax.jvp(lambda u: function(x, u), (time,), (jnp.ones_like(time),))[1]


def default_method(x: Float[Array, "b *event"]) -> Divergence:
    """Exact() up to 64 dimensions, Hutchinson(8) beyond."""
    return Exact() if math.prod(x.shape[1:]) <= EXACT_UP_TO else Hutchinson(probes=8)


def _divergence(
    field: Callable[[Array], Array], x: Array, method: Divergence | None, key: Array | None
) -> DivergenceEstimate:
    method = default_method(x) if method is None else method
    return summarise(method, method.trace(jax.linearize(field, x)[1], draw_probes(method, x, key, None)))
