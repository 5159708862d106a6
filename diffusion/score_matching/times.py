"""How t is drawn in training: a quantile function t(u), and how the uniforms u are drawn.

Any distribution can be combined with any draw. Low-discrepancy draws cover (0, 1) evenly in every batch
(Kingma et al. 2021, arXiv:2107.00630, appendix I.1), which removes most of the variance that t brings into the
loss; the marginal law of each u stays uniform, so the gradient stays unbiased.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree

Draw = Literal["independent", "low_discrepancy", "antithetic"]


def draw_uniforms(
    key: Key[Array, ""], ids: Int[Array, " b"], batch_size: int, draw: Draw | str = "low_discrepancy"
) -> Float[Array, " b"]:
    """Uniforms on (0, 1) for the elements `ids` of a batch of `batch_size`, so that devices can share a batch.

    independent: one draw for each id. low_discrepancy: u_i = (u + i/B) mod 1 with one shared u.
    antithetic: pairs (u, 1 − u). Raises ValueError for another name.
    """
    if draw == "independent":
        u = keys_lib.uniform(keys_lib.sample_keys(key, ids))
    elif draw == "low_discrepancy":
        u = (jax.random.uniform(key) + ids / batch_size) % 1.0
    elif draw == "antithetic":
        first = keys_lib.uniform(keys_lib.sample_keys(key, ids // 2))
        u = jnp.where(ids % 2 == 0, first, 1 - first)
    else:
        raise ValueError(f"draw = {draw!r}; choose independent, low_discrepancy or antithetic.")
    tiny = jnp.finfo(u.dtype).eps
    return jnp.clip(u, tiny, 1 - tiny)


class TimeDistribution:
    """A law of t on [t_min, t_max], given by its quantile function."""

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """t(u), increasing in u."""
        raise NotImplementedError

    def correction(self, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The importance weight that makes a loss under this law an unbiased estimate of the loss under its base."""
        return jnp.ones_like(u)

    def slope(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """dt/du = 1/p(t), which turns a mean over u into an integral over t."""
        return jax.jvp(lambda v: self.quantile(process, v), (u,), (jnp.ones_like(u),))[1]


@pytree
class UniformTime(TimeDistribution):
    """t uniform on [t_min, t_max]; on the discrete chain uniform on 1..T."""

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """t_min + u (t_max − t_min), or ⌈u T⌉."""
        if process.schedule.discrete:
            return jnp.clip(jnp.ceil(u * process.t_max), 1, process.t_max)
        return process.t_min + u * (process.t_max - process.t_min)


@pytree
class LogNormalSigma(TimeDistribution):
    """ln(σ/α) ~ N(mean, std²), clipped to [t_min, t_max] (Karras et al. 2022, table 1).

    On RectifiedFlow this is the logit-normal law of t (Esser et al. 2024, arXiv:2403.03206).
    """

    mean: float = -1.2
    """Mean of ln(σ/α)."""
    std: float = 1.2
    """Standard deviation of ln(σ/α)."""

    def __post_init__(self) -> None:
        if is_concrete(self.std) and not self.std > 0:
            raise ValueError(f"std = {self.std}; the standard deviation of ln σ must be positive, usually 1.2.")

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The time at which ln(σ/α) = mean + std Φ⁻¹(u)."""
        log_ratio = self.mean + self.std * ndtri(u)
        return jnp.clip(process.schedule.time_from_log_snr(-2 * log_ratio), process.t_min, process.t_max)


@pytree
class LogUniformSigma(TimeDistribution):
    """ln(σ/α) uniform between ln `low` and ln `high`: noise levels in equal ratios, clipped to [t_min, t_max].

    Multiscale denoising score matching trains one energy on them (Li et al. 2019, arXiv:1910.07762), a denoising
    density estimator on one level, low = high (Bigdeli et al. 2020, arXiv:2001.02728). Under EDM σ/α is the time.
    """

    low: float = 0.05
    """The smallest σ/α."""
    high: float = 1.2
    """The largest σ/α; the same as `low` for a single level."""

    def __post_init__(self) -> None:
        if is_concrete(self.low, self.high) and not 0 < self.low <= self.high:
            raise ValueError(f"low = {self.low} and high = {self.high}; give 0 < low <= high, noise over signal.")

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The time at which ln(σ/α) = (1 − u) ln low + u ln high."""
        low, high = (jnp.log(jnp.asarray(level, u.dtype)) for level in (self.low, self.high))
        # As a step from `low`, so that one level stays that level.
        log_ratio = low + u * (high - low)
        return jnp.clip(process.schedule.time_from_log_snr(-2 * log_ratio), process.t_min, process.t_max)


@pytree
class ImportanceTime(TimeDistribution):
    """`base`, reweighted by a piecewise constant density in u that is proportional to the root-mean-square loss.

    The variance of the loss is least when times are drawn in proportion to √E[loss²] (Nichol & Dhariwal 2021,
    section 3.3); `correction` keeps the mean of the loss unchanged. Keep `second_moments` up to date with
    `updated_second_moments`.
    """

    base: TimeDistribution
    """The law of t that the loss is an average over."""
    second_moments: Float[Array, " bins"]
    """The running E[loss²] in each of the equal bins of the base's u."""

    def probabilities(self) -> Float[Array, " bins"]:
        """The mass of each bin, one part in a hundred of it uniform so that no time is forgotten."""
        rms = jnp.sqrt(self.second_moments)
        bins, total = rms.shape[0], jnp.sum(rms)
        return jnp.where(total > 0, 0.99 * rms / jnp.where(total > 0, total, 1.0) + 0.01 / bins, 1 / bins)

    def base_uniform(self, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The base's u at quantile `u` of this law."""
        mass = self.probabilities()
        edges = jnp.concatenate([jnp.zeros(1, mass.dtype), jnp.cumsum(mass)])
        return jnp.interp(u, edges / edges[-1], jnp.linspace(0.0, 1.0, mass.shape[0] + 1))

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The base's quantile at `base_uniform(u)`."""
        return self.base.quantile(process, self.base_uniform(u))

    def correction(self, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """1/(K p_k) for u in bin k of K."""
        mass = self.probabilities()
        return 1 / (mass.shape[0] * mass[_bin(self.base_uniform(u), mass.shape[0])])


def _bin(u: Array, bins: int) -> Array:
    return jnp.clip((u * bins).astype(jnp.int32), 0, bins - 1)


def loss_sums(
    distribution: ImportanceTime, u: Float[Array, " b"], losses: Float[Array, " b"]
) -> tuple[Float[Array, " bins"], Float[Array, " bins"]]:
    """(Σ loss², count) in each bin, for the uncorrected losses of a batch drawn at `u`; sums over devices add."""
    bins = distribution.second_moments.shape[0]
    place = _bin(distribution.base_uniform(u), bins)
    zeros = jnp.zeros(bins, losses.dtype)
    return zeros.at[place].add(losses**2), zeros.at[place].add(1.0)


def updated_second_moments(
    second_moments: Float[Array, " bins"], sums: Array, counts: Array, rate: float = 0.1
) -> Float[Array, " bins"]:
    """The running E[loss²] after a batch: bins that were hit move towards their mean by `rate`."""
    mean = sums / jnp.maximum(counts, 1e-12)
    return jnp.where(counts > 0, (1 - rate) * second_moments + rate * mean, second_moments)
