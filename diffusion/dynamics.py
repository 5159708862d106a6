"""Three ways to move a law: the forward SDE, the family of reverse SDEs, the probability-flow ODE.

All share the marginals p_t of x_t = α x_0 + σ z. Drifts are per unit of t; the reverse ones are meant to be
integrated from t_max down to 0.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser, eps_from_x0, x0_alone
from diffusion.process import Process
from diffusion.pytree import bound, pytree

Drift = Callable[[Array, ArrayLike], Array]


@pytree
class SDE:
    """dx = drift(x, t) dt + diffusion(t) dw; `drift` is (b, *event), `diffusion` has the shape of t."""

    drift: Drift
    """The deterministic part, (x, t) -> (b, *event)."""
    diffusion: Callable[[ArrayLike], Array]
    """The factor of dw, t -> the shape of t."""


def forward_sde(process: Process) -> SDE:
    """dx = f(t) x dt + g(t) dw, with f = α'/α and g² = d(σ²)/dt − 2fσ² (Song et al. 2021, eq. 5).

    Raises TypeError when the noise is not Gaussian.
    """
    require_gaussian(process.noise, "the forward SDE")
    return SDE(bound(_forward_drift, process), bound(_diffusion, process))


def _forward_drift(process: Process, x: Array, t: ArrayLike) -> Array:
    return expand(process.schedule.drift(t), x) * x


def _diffusion(process: Process, t: ArrayLike) -> Array:
    return jnp.sqrt(process.schedule.diffusion_squared(t))


def velocity(process: Process, denoise: Denoiser) -> Drift:
    """The probability-flow velocity u(x, t) = α' E[x_0|x] + σ' E[z|x], for any noise.

    With Gaussian noise it equals f x − ½ g² ∇ln p_t (Song et al. 2021, eq. 13), and it stays finite where α = 0
    and f does not.
    """
    return bound(_velocity, process, denoise)


def _velocity(process: Process, denoise: Denoiser, x: Array, t: ArrayLike) -> Array:
    x_0 = x0_alone(denoise(x, t), "the probability-flow velocity")
    return velocity_from_x0(process, x, x_0, t)


def velocity_from_x0(process: Process, x: Float[Array, "b *event"], x_0: Array, t: ArrayLike) -> Array:
    """α' x_0 + σ' (x − α x_0)/σ: the velocity at x_t = x for a denoiser's output x_0."""
    schedule = process.schedule
    eps = eps_from_x0(process, x, x_0, t)
    return expand(schedule.alpha_dot(t), x) * x_0 + expand(schedule.sigma_dot(t), x) * eps


def reverse_sde(process: Process, denoise: Denoiser, level: float | Array = 1.0) -> SDE:
    """The member σ̃ = `level` · g of the family of reverse SDEs that share p_t, run from t_max to 0:

        dx = [f x − ½ (g² + σ̃²) ∇ln p_t] dt + σ̃ dw̄

    `level` 0 is the probability-flow ODE and 1 Anderson's reverse SDE (Song et al. 2021, eq. 6); higher
    levels are noisier still, with the same marginals (Zhang & Chen 2023, arXiv:2204.13902, eq. 7).
    Raises TypeError when the noise is not Gaussian.
    """
    require_gaussian(process.noise, "the reverse SDE")
    return SDE(bound(_reverse_drift, process, denoise, level), bound(_reverse_diffusion, process, level))


def reverse_drift_from_x0(
    process: Process, x: Float[Array, "b *event"], x_0: Array, t: ArrayLike, level: float | Array
) -> Array:
    """f x − ½ (g² + σ̃²) ∇ln p_t at x_t = x for a denoiser's output x_0: the velocity plus ½ σ̃² E[z|x]/σ."""
    extra = 0.5 * _level_times_diffusion(process, level, t) ** 2 / process.sigma(t)
    return velocity_from_x0(process, x, x_0, t) + expand(extra, x) * eps_from_x0(process, x, x_0, t)


def _reverse_drift(process: Process, denoise: Denoiser, level: float | Array, x: Array, t: ArrayLike) -> Array:
    return reverse_drift_from_x0(process, x, x0_alone(denoise(x, t), "the reverse SDE"), t, level)


def _reverse_diffusion(process: Process, level: float | Array, t: ArrayLike) -> Float[Array, "..."]:
    return _level_times_diffusion(process, level, t)


def _level_times_diffusion(process: Process, level: float | Array, t: ArrayLike) -> Array:
    # At level 0 there is no noise, even where g is infinite.
    return jnp.where(jnp.asarray(level) == 0, 0.0, level * _diffusion(process, t))
