"""The two chains of DDPM: laws of whole trajectories, to be sampled and scored.

On a grid 0 = t_0 < t_1 < ... < t_N, with x_k short for x_{t_k},

    encoder     q(x_{1:N} | x_0) = q(x_1|x_0) ⋯ q(x_N|x_{N−1})                   nothing to learn
    generator   p(x_{0:N}) = p(x_N) p(x_{N−1}|x_N) ⋯ p(x_1|x_2) p(x_0|x_1)       the last factor is the decoder

(Ho et al. 2020, arXiv:2006.11239, eq. 1 and 2.) Any Gaussian process has such chains, on any grid.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.ddpm.decoders import Decoder, DiscretisedNormal, GaussianDecoder
from diffusion.ddpm.reverse_steps import Denoised, FixedSmall, ReverseVariance, split_denoised, step
from diffusion.distributions import Normal
from diffusion.process import (
    Process,
    posterior_coefficients,
    prior_log_prob,
    prior_sample,
    transition,
    transition_coefficients,
)
from diffusion.pytree import is_concrete, pytree

Times = Float[np.ndarray | Array, " n"] | Int[np.ndarray | Array, " n"]
Trajectory = Float[Array, "n b *event"]


def _require_grid(process: Process, times: Times) -> None:
    """Raise ValueError unless `times` is a grid from 0 up; arrays of JAX are not checked."""
    if not isinstance(times, np.ndarray):
        return
    if times.ndim != 1 or times.size < 2 or times[0] != 0 or not np.all(np.diff(times) > 0):
        raise ValueError(f"times = {times} is not a grid; give at least two ascending times, the first of them 0.")
    schedule = getattr(process, "schedule", None)
    if getattr(schedule, "discrete", False) and not np.all(times == np.rint(times)):
        raise ValueError(f"times = {times} are not integers, and the discrete chain has no others; round them.")
    t_max = getattr(schedule, "t_max", None)
    if is_concrete(t_max) and times[-1] > t_max * (1 + 1e-6):  # type: ignore[operator]
        raise ValueError(f"times end at {times[-1]:g}, beyond the schedule's last time {t_max:g}; end there.")


@pytree
class EncoderChain:
    """q(x_{1:N} | x_0), the noising chain on the grid `times` = (0, t_1, ..., t_N) of a Gaussian process.

    Raises ValueError for a numpy grid that does not ascend from 0 within the schedule.
    """

    process: Process
    """The Gaussian process whose marginals the chain has."""
    times: Times
    """The grid 0 = t_0 < t_1 < ... < t_N."""

    def __post_init__(self) -> None:
        _require_grid(self.process, self.times)

    @property
    def steps(self) -> int:
        """N."""
        return self.times.shape[0] - 1

    def sample(self, key: Key[Array, "..."], x_0: Float[Array, "b *event"]) -> Trajectory:
        """A trajectory (N + 1, b, *event) for each x_0, which is its first element."""
        keys, times = keys_lib.as_keys(key, x_0.shape[0]), jnp.asarray(self.times)
        x_0 = x_0.astype(jnp.result_type(float))

        def advance(x: Array, k: Array) -> tuple[Array, Array]:
            x = transition(self.process, x, times[k - 1], times[k]).sample(keys_lib.fold(keys, k))
            return x, x

        _, later = jax.lax.scan(advance, x_0, jnp.arange(1, self.steps + 1))
        return jnp.concatenate([x_0[None], later])

    def log_prob(self, trajectory: Trajectory) -> Float[Array, " b"]:
        """ln q(x_{1:N} | x_0) = Σ_k ln q(x_k | x_{k−1})."""
        times = jnp.asarray(self.times)

        def one(x_s: Array, x_t: Array, s: Array, t: Array) -> Array:
            return transition(self.process, x_s, s, t).log_prob(x_t)

        return jnp.sum(jax.vmap(one)(trajectory[:-1], trajectory[1:], times[:-1], times[1:]), axis=0)


@pytree
class GeneratorChain:
    """p(x_{0:N}): the prior, N − 1 Gaussian steps around the denoised x_0, and a decoder, on the grid `times`.

    `denoise` is a `jax.tree_util.Partial`, which returns a pair (x_0, v) when the variance is `Learned`. The standard
    deviation of the decoder, unless it has its own, is the reverse variance of the first step. There β̃ = 0, and
    FixedSmall and Learned take the β̃ of the second step instead, as Ho et al. and Nichol & Dhariwal do; in a chain
    of one step, β. Raises ValueError for a numpy grid that does not ascend from 0 within the schedule.
    """

    process: Process
    """The Gaussian process that the steps reverse."""
    denoise: Callable[[Array, ArrayLike], Denoised]
    """The denoiser, (x, t) -> E[x_0 | x_t = x], or that and v."""
    times: Times
    """The grid 0 = t_0 < t_1 < ... < t_N."""
    variance: ReverseVariance = FixedSmall()
    """The variance of the steps."""
    decoder: Decoder = GaussianDecoder()
    """The law of x_0 given x_1."""

    def __post_init__(self) -> None:
        _require_grid(self.process, self.times)

    @property
    def steps(self) -> int:
        """N."""
        return self.times.shape[0] - 1

    def step(self, x_k: Float[Array, "b *event"], k: int | Int[Array, "..."]) -> Normal:
        """p(x_{k−1} | x_k) for k in 2..N, a scalar or (b,)."""
        s, t = step_times(self, k)
        return step(self.process, self.variance, self.denoise(x_k, t), x_k, s, t)

    def decode(self, x_1: Float[Array, "b *event"]) -> Normal | DiscretisedNormal:
        """p(x_0 | x_1)."""
        return decoded(self, self.denoise(x_1, jnp.asarray(self.times)[1]))

    def sample(self, key: Key[Array, "..."], shape: tuple[int, ...]) -> Trajectory:
        """Trajectories (N + 1, b, *event) for `shape` (b, *event), in the encoder's order: the first is x_0."""
        keys, times = keys_lib.as_keys(key, shape[0]), jnp.asarray(self.times)
        x_n = prior_sample(keys_lib.fold(keys, 0), self.process, shape, times[-1])

        def descend(x: Array, k: Array) -> tuple[Array, Array]:
            denoised, noise = self.denoise(x, times[k]), keys_lib.fold(keys, k)
            first = decoded(self, denoised).sample(noise)
            x = first if self.steps == 1 else jnp.where(k == 1, first, self._above(denoised, x, k).sample(noise))
            return x, x

        _, below = jax.lax.scan(descend, x_n, jnp.arange(1, self.steps + 1), reverse=True)
        return jnp.concatenate([below, x_n[None]])

    def log_prob(self, trajectory: Trajectory) -> Float[Array, " b"]:
        """ln p(x_{0:N}) = ln p(x_N) + Σ_{k>1} ln p(x_{k−1}|x_k) + ln p(x_0|x_1)."""
        times = jnp.asarray(self.times)

        def one(k: Array) -> Array:
            x_k, denoised = trajectory[k], self.denoise(trajectory[k], times[k])
            first = decoded(self, denoised).log_prob(trajectory[0])
            if self.steps == 1:
                return first
            return jnp.where(k == 1, first, self._above(denoised, x_k, k).log_prob(trajectory[k - 1]))

        steps = jax.lax.map(one, jnp.arange(1, self.steps + 1))
        return prior_log_prob(self.process, trajectory[-1], times[-1]) + jnp.sum(steps, axis=0)

    def _above(self, denoised: Denoised, x_k: Array, k: Array) -> Normal:
        """p(x_{k−1}|x_k) given the denoiser's answer; for k = 1, the decoder's step, it is the law of another."""
        s, t = step_times(self, jnp.maximum(k, 2))
        return step(self.process, self.variance, denoised, x_k, s, t)


def step_times(chain: GeneratorChain, k: int | Int[Array, "..."]) -> tuple[Array, Array]:
    """(t_{k−1}, t_k), k a scalar or (b,)."""
    times = jnp.asarray(chain.times)
    return times[jnp.asarray(k) - 1], times[k]


def decoded(chain: GeneratorChain, denoised: Denoised) -> Normal | DiscretisedNormal:
    """p(x_0 | x_1) given the denoiser's answer at x_1, which is its mean."""
    x_0, v = split_denoised(denoised)
    times = jnp.asarray(chain.times)
    if chain.steps > 1:
        floor = posterior_coefficients(chain.process, times[1], times[2])[2]
    else:
        floor = transition_coefficients(chain.process, times[0], times[1])[1]
    return chain.decoder.distribution(
        x_0, jnp.sqrt(chain.variance.variance(chain.process, times[0], times[1], v, floor))
    )
