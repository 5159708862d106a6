"""The generator's steps: p(x_s | x_t) = N(mean, variance), s < t, on the discrete chain and on any time grid.

The mean is the posterior's with the denoiser's answer D(x_t, t) in place of x_0, and no other is better. The variance
is a choice (Ho et al. 2020, arXiv:2006.11239, section 3.2):

    β = σ_{t|s}²                   right when x_0 has the prior's law        FixedLarge
    β̃ = σ_s² σ_{t|s}²/σ_t²         right when x_0 is a single point          FixedSmall
    β̃ + c_0² E tr Cov[x_0|x_t]/d   right for the data: least −ELBO           Optimal
    exp(v ln β + (1 − v) ln β̃)     what a network makes of it                Learned

with c_0 the factor of x_0 in the posterior's mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand, safe_sqrt
from diffusion.distributions import Normal
from diffusion.prediction import Denoiser, Preconditioning, eps_from_x0, network_input, network_x0
from diffusion.process import Process, posterior, posterior_coefficients, transition_coefficients
from diffusion.pytree import ShortPartial, bound, pytree

Denoised = Array | tuple[Array, Array]
"""A denoiser's answer: E[x_0|x_t], or the pair (E[x_0|x_t], v) that `Learned` needs."""


class ReverseVariance:
    """The variance of x_s given x_t."""

    def variance(
        self, process: Process, s: ArrayLike, t: ArrayLike, v: Array | None = None, floor: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """The variance, of the shape of s and t, or of v's (b, *event) where it is learned.

        `v` is the second half of the denoiser's answer. `floor` stands for β̃ where σ_s = 0 and β̃ vanishes, in the
        step that the decoder takes: chains give it the β̃ of the step above (`diffusion.ddpm.chains.GeneratorChain`).
        Raises TypeError when the noise is not Gaussian, or when `Learned` has no `v`.
        """
        raise NotImplementedError


@pytree
class FixedLarge(ReverseVariance):
    """β = σ_{t|s}², the variance of the encoder's step."""

    def variance(
        self, process: Process, s: ArrayLike, t: ArrayLike, v: Array | None = None, floor: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """σ_{t|s}²."""
        return transition_coefficients(process, s, t)[1]


@pytree
class FixedSmall(ReverseVariance):
    """β̃ = σ_s² σ_{t|s}²/σ_t², the variance of the posterior given x_0."""

    def variance(
        self, process: Process, s: ArrayLike, t: ArrayLike, v: Array | None = None, floor: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """β̃, or `floor` where σ_s = 0."""
        small = posterior_coefficients(process, s, t)[2]
        return jnp.where(small > 0, small, floor)


@pytree
class Optimal(ReverseVariance):
    """β̃ + c_0² E tr Cov[x_0|x_t]/d: the minimiser of every step of the ELBO (Bao et al. 2022, arXiv:2201.06503).

    The table is exact at its own times, so a chain may visit any subsequence of them; between them
    (1 + α²/σ²) E tr Cov[x_0|x_t]/d, which is bounded at both ends of time, is interpolated. Build it with
    `diffusion.ddpm.analytic_variance.estimate_optimal_variance`, or from a known law.
    """

    times: Float[np.ndarray | Array, " n"]
    """The times of the table, ascending, without the data's 0."""
    covariances: Float[np.ndarray | Array, " n"]
    """E tr Cov[x_0|x_t]/d at those times."""

    def covariance(self, process: Process, t: ArrayLike) -> Float[Array, "..."]:
        """E tr Cov[x_0|x_t]/d at time t."""
        nodes, t = jnp.asarray(self.times, jnp.result_type(float)), jnp.asarray(t, jnp.result_type(float))
        scaled = jnp.asarray(self.covariances) / _noise_share(process, nodes)
        return jnp.interp(t, nodes, scaled) * _noise_share(process, t)

    def variance(
        self, process: Process, s: ArrayLike, t: ArrayLike, v: Array | None = None, floor: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """β̃ + c_0² E tr Cov[x_0|x_t]/d; where σ_s = 0 this is the covariance alone."""
        return optimal_variance(process, self.covariance(process, t), s, t)


@pytree
class Learned(ReverseVariance):
    """exp(v ln β + (1 − v) ln β̃) with v from the network, one for each coordinate (Nichol & Dhariwal 2021, eq. 15).

    v is not confined to [0, 1]; nothing but the loss keeps it there.
    """

    def variance(
        self, process: Process, s: ArrayLike, t: ArrayLike, v: Array | None = None, floor: ArrayLike = 0.0
    ) -> Float[Array, "b *event"]:
        """β^v β̃^{1−v}; where σ_s = 0, `floor` stands for β̃, or β itself when there is no floor."""
        if v is None:
            raise TypeError(
                "Learned() needs a denoiser that returns a pair (x_0, v), and this one returns x_0 alone; "
                "build it with learned_denoiser from a network of two outputs, or choose FixedSmall()."
            )
        large = FixedLarge().variance(process, s, t)
        small = FixedSmall().variance(process, s, t, floor=jnp.where(jnp.asarray(floor) > 0, floor, large))
        return jnp.exp(v * expand(jnp.log(large), v) + (1 - v) * expand(jnp.log(small), v))


def _noise_share(process: Process, t: ArrayLike) -> Array:
    """σ²/(α² + σ²)."""
    variance = process.schedule.variance(t)
    return variance / (process.alpha(t) ** 2 + variance)


def split_denoised(denoised: Denoised) -> tuple[Array, Array | None]:
    """(E[x_0|x_t], v), where v is None unless the denoiser learns a variance."""
    return denoised if isinstance(denoised, tuple) else (denoised, None)


def joined(x_0: Array, v: Array | None) -> Denoised:
    """The inverse of `split_denoised`."""
    return x_0 if v is None else (x_0, v)


def step(
    process: Process, variance: ReverseVariance, denoised: Denoised, x_t: Array, s: ArrayLike, t: ArrayLike
) -> Normal:
    """p(x_s | x_t) for s < t: the posterior's mean at the denoised x_0, with the chosen variance.

    x_t is (b, *event); s and t are scalars or (b,), and may be traced. Where σ_s = 0 the law is the denoised x_0
    itself, with no variance: this is how a sampler ends. Raises as `ReverseVariance.variance` does.
    """
    x_0, v = split_denoised(denoised)
    noisy = expand(process.sigma(s), x_t) > 0
    spread = jnp.where(noisy, expand(variance.variance(process, s, t, v), x_t), 0.0)
    return Normal(posterior(process, x_t, x_0, s, t).mean, _root(spread))


def optimal_variance(
    process: Process, covariance: ArrayLike, s: ArrayLike, t: ArrayLike, std: ArrayLike | None = None
) -> Float[Array, "..."]:
    """std² + c_0² `covariance`: the best variance of x_s given x_t, isotropic, for a given E tr Cov[x_0|x_t]/d.

    `std` is the encoder's freedom in `ddim_posterior`; None is DDPM's, std² = β̃. The factor of x_0 is
    c_0 = α_s − α_t √(σ_s² − std²)/σ_t, which for DDPM is α_s σ_{t|s}²/σ_t² (Bao et al. 2022, theorem 1).
    """
    if std is None:
        _, c_0, small = posterior_coefficients(process, s, t)
        return small + c_0**2 * covariance
    c_0 = process.alpha(s) - process.alpha(t) * _kept_std(process, s, std) / process.sigma(t)
    return jnp.asarray(std) ** 2 + c_0**2 * covariance


def ddim_posterior(
    process: Process, x_t: Array, x_0: Array, s: ArrayLike, t: ArrayLike, std: ArrayLike = 0.0
) -> Normal:
    """x_s | x_t, x_0 ~ N(α_s x_0 + √(σ_s² − std²) (x_t − α_t x_0)/σ_t, std²): every `std` keeps the marginals.

    std = 0 is DDIM, std² = β̃ is DDPM's posterior (Song et al. 2021, arXiv:2010.02502, eq. 7).
    Raises ValueError when std > σ_s; under `jit`, where numbers cannot be looked at, the mean is NaN instead.
    """
    kept = _kept_std(process, s, std)
    eps = eps_from_x0(process, x_t, x_0, t)
    mean = expand(process.alpha(s), x_t) * x_0 + expand(kept, x_t) * eps
    return Normal(mean, expand(jnp.asarray(std, mean.dtype), x_t))


def _kept_std(process: Process, s: ArrayLike, std: ArrayLike) -> Array:
    """√(σ_s² − std²): the share of the noise of x_t, beside fresh noise of standard deviation std."""
    sigma = process.sigma(s)
    # A std equal to σ_s may have been rounded up.
    excess = jnp.asarray(std) - sigma * (1 + 8 * jnp.finfo(sigma.dtype).eps)
    if not isinstance(excess, Tracer) and bool(jnp.any(excess > 0)):
        raise ValueError(
            f"std = {np.max(np.asarray(std)):.6g} is more than σ_s = {np.min(np.asarray(sigma)):.6g}, all the noise "
            "there is at time s; choose a smaller std, or the posterior's own."
        )
    left = jnp.where(excess > 0, jnp.nan, process.schedule.variance(s) - jnp.asarray(std) ** 2)
    return _root(left)


def _root(variance: Array) -> Array:
    """√ with the derivative 0 at 0, and NaN of NaN: what a network got wrong must be seen."""
    return jnp.where(jnp.isnan(variance), jnp.nan, safe_sqrt(variance))


def learned_denoiser(
    network: Callable[..., Array],
    params: Any,
    process: Process,
    preconditioning: Preconditioning,
    labels: Array | None = None,
) -> Callable[[Array, ArrayLike], tuple[Array, Array]]:
    """(x, t) -> (E[x_0|x_t], v), as `Learned` wants it, from a network with twice the channels of x in its last axis.

    The first half is the prediction of `network_denoiser`; the second, r, gives v = (r + 1)/2, so that a network
    that answers 0 starts half way between ln β̃ and ln β.
    """
    return ShortPartial(_LearnedDenoiser(network), params, process, preconditioning, labels)


@dataclasses.dataclass(frozen=True)
class _LearnedDenoiser:
    """The static part of a learned denoiser: equal networks are equal functions, and are not compiled twice."""

    network: Callable[..., Array]

    def __call__(
        self,
        params: Any,
        process: Process,
        preconditioning: Preconditioning,
        labels: Array | None,
        x: Array,
        t: ArrayLike,
    ) -> tuple[Array, Array]:
        times = jnp.broadcast_to(jnp.asarray(t), (x.shape[0],))
        scaled, c_noise = network_input(preconditioning, process, x, times)
        raw = self.network(params, scaled, c_noise, labels).astype(x.dtype)
        if raw.shape[-1] != 2 * x.shape[-1]:
            raise ValueError(
                f"the network answers {raw.shape[-1]} channels for x of {x.shape[-1]}; a learned variance needs twice "
                "the channels of x: build the network with outputs=2."
            )
        prediction, raw = jnp.split(raw, 2, axis=-1)
        return network_x0(preconditioning, process, prediction, x, t), (raw + 1) / 2


def mean_denoiser(denoise: Callable[[Array, ArrayLike], Denoised]) -> Denoiser:
    """The denoiser without its learned variance: what every sampler other than the ancestral one takes."""
    return bound(_mean_denoise, denoise)


def _mean_denoise(denoise: Callable[[Array, ArrayLike], Denoised], x: Array, t: ArrayLike) -> Array:
    return split_denoised(denoise(x, t))[0]
