"""The one abstraction: x_t = α(t) x_0 + σ(t) z.

A process is a schedule and a noise. With Gaussian noise it is Markov, and its steps, forward and backward,
are Gaussian:

    x_t | x_s        ~ N((α_t/α_s) x_s, σ_{t|s}²)                            σ_{t|s}² = σ_t² − (α_t/α_s)² σ_s²
    x_s | x_t, x_0   ~ N((α_{t|s} σ_s²/σ_t²) x_t + (α_s σ_{t|s}²/σ_t²) x_0, σ_s² σ_{t|s}²/σ_t²)

(Ho et al. 2020, eq. 6 and 7; Kingma et al. 2021, arXiv:2107.00630, appendix A.) With s = t − 1 on a discrete
chain these are DDPM's a_t, b_t and β̃_t.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import event_size, expand, safe_sqrt
from diffusion.distributions import Normal
from diffusion.noises import Gaussian, Noise, require_gaussian
from diffusion.pytree import pytree
from diffusion.schedules import VP, Schedule


@pytree
class Process:
    """x_t = α(t) x_0 + σ(t) z with α, σ from `schedule` and z from `noise`."""

    schedule: Schedule = VP()
    """α and σ."""
    noise: Noise = Gaussian()
    """The law of z."""

    def __post_init__(self) -> None:
        for name, part, right in (("schedule", self.schedule, "VP()"), ("noise", self.noise, "Gaussian()")):
            if isinstance(part, (str, type)):
                kind = f"the class {part.__name__}" if isinstance(part, type) else f"the text {part!r:.42}"
                raise TypeError(f"{name} is {kind}; give an object, such as {right}.")
        for part in (self.schedule, self.noise):
            if isinstance(part, (Schedule, Noise)) and jax.tree_util.all_leaves([part]):
                name = type(part).__name__
                raise TypeError(f"{name} is no pytree; put @diffusion.pytree.pytree above `class {name}`.")

    @property
    def t_max(self) -> int | float | Array:
        """The time of the prior."""
        return self.schedule.t_max

    @property
    def t_min(self) -> int | float | Array:
        """The smallest time worth training at."""
        return self.schedule.t_min

    def alpha(self, t: ArrayLike) -> Float[Array, "..."]:
        """α(t)."""
        return self.schedule.alpha(t)

    def sigma(self, t: ArrayLike) -> Float[Array, "..."]:
        """σ(t)."""
        return self.schedule.sigma(t)


def perturb(process: Process, x_0: Float[Array, "b *event"], z: Float[Array, "b *event"], t: ArrayLike) -> Array:
    """x_t = α(t) x_0 + σ(t) z, shape (b, *event)."""
    return expand(process.alpha(t), x_0) * x_0 + expand(process.sigma(t), x_0) * z


def prior_sample(key: Key[Array, "..."], process: Process, shape: tuple[int, ...], t: ArrayLike | None = None) -> Array:
    """x ~ the law that stands for p_t at the start of sampling, t = t_max unless given: `prior_std(t)` times the noise.

    `shape` is (b, *event); `key` is one key, or one for each element of the batch.
    """
    noise = process.noise.sample(key, shape)
    return expand(process.schedule.prior_std(process.t_max if t is None else t), noise) * noise


def prior_log_prob(process: Process, x: Float[Array, "b *event"], t: ArrayLike | None = None) -> Float[Array, " b"]:
    """ln of the density of `prior_sample`'s law, in nats."""
    std = process.schedule.prior_std(process.t_max if t is None else t)
    return process.noise.log_prob(x / expand(std, x)) - event_size(x) * jnp.log(std)


def transition_coefficients(process: Process, s: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
    """(α_{t|s}, σ_{t|s}²) of the step from s up to t > s.

    σ_{t|s}² is computed as σ_t² (1 − e^{λ_t − λ_s}), whose relative error is about the rounding of λ over the
    change of λ: in float32 about 1e-4 for a thousandth of the way.
    Raises TypeError when the noise is not Gaussian: the other processes are not Markov.
    """
    require_gaussian(process.noise, "the transition from s to t")
    schedule = process.schedule
    # Where α_s = 0 nothing of the data is left: both ends are the same noise, and the factor is arbitrary.
    scale = jnp.where(schedule.alpha(s) > 0, jnp.exp(schedule.log_alpha(t) - _finite(schedule.log_alpha(s))), 0.0)
    return scale, schedule.variance(t) * -jnp.expm1(_log_snr_difference(schedule, s, t))


def transition(process: Process, x_s: Float[Array, "b *event"], s: ArrayLike, t: ArrayLike) -> Normal:
    """The encoder's step: the law of x_t given x_s, for t > s.

    Raises TypeError when the noise is not Gaussian.
    """
    scale, variance = transition_coefficients(process, s, t)
    return Normal(expand(scale, x_s) * x_s, expand(safe_sqrt(variance), x_s))


def posterior_coefficients(process: Process, s: ArrayLike, t: ArrayLike) -> tuple[Array, Array, Array]:
    """(c_t, c_0, variance) of x_s | x_t, x_0 ~ N(c_t x_t + c_0 x_0, variance), s < t; finite at σ_s = 0 and α_t = 0.

    Raises TypeError when the noise is not Gaussian.
    """
    schedule = process.schedule
    scale, _ = transition_coefficients(process, s, t)
    kept = -jnp.expm1(_log_snr_difference(schedule, s, t))  # σ_{t|s}²/σ_t²
    shrink = schedule.variance(s) / schedule.variance(t)
    return scale * shrink, schedule.alpha(s) * kept, schedule.variance(s) * kept


def posterior(process: Process, x_t: Array, x_0: Array, s: ArrayLike, t: ArrayLike) -> Normal:
    """The encoder's step in reverse: the law of x_s given x_t and x_0, for s < t.

    Raises TypeError when the noise is not Gaussian.
    """
    c_t, c_0, variance = posterior_coefficients(process, s, t)
    return Normal(expand(c_t, x_t) * x_t + expand(c_0, x_t) * x_0, expand(safe_sqrt(variance), x_t))


def _finite(value: Array) -> Array:
    return jnp.where(jnp.isfinite(value), value, 0.0)


def _log_snr_difference(schedule: Schedule, s: Any, t: Any) -> Array:
    """λ_t − λ_s <= 0; −∞ when s is the data or t is pure noise, 0 when both are pure noise."""
    difference = schedule.log_snr(t) - schedule.log_snr(s)
    return jnp.where(jnp.isnan(difference), 0.0, difference)
