"""DDPM as an autoregressive variational auto-encoder: how far the generator's chain is from the encoder's.

With x_k short for x_{t_k}, three ways to one number, each averaged over the encoder q:

    trajectory  ln q(x_{1:N}|x_0) − ln p(x_{0:N})                                                   `log_ratio`
    Ho's        KL(q(x_N|x_0) ‖ p) + Σ_k KL(q(x_{k−1}|x_k, x_0) ‖ p(x_{k−1}|x_k)) − ln p(x_0|x_1)    `elbo_terms`
    joint       KL(q(x_{0:N}) ‖ p(x_{0:N})), which includes E ln q(x_0)                             `joint_kl`

(Ho et al. 2020, arXiv:2006.11239, eq. 3 and 5.) All are in nats; `bits_per_dim` is in `diffusion.ddpm.decoders`. The
chains may belong to any Gaussian process and any grid, so a network trained with EDM has an ELBO too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arrays import event_size, expand, sum_event
from diffusion.ddpm.chains import EncoderChain, GeneratorChain, decoded, step_times
from diffusion.ddpm.reverse_steps import Denoised, split_denoised
from diffusion.distributions import Normal, kl_divergence
from diffusion.process import perturb, posterior_coefficients, transition_coefficients
from diffusion.pytree import short_repr


class ElboTerms(NamedTuple):
    """Ho's decomposition of −ELBO for each x_0, in nats; the mean of `total` bounds E[−ln p(x_0)] from above."""

    prior: Float[Array, " b"]
    """KL(q(x_N|x_0) ‖ p(x_N))."""
    steps: Float[Array, "b n"]
    """KL(q(x_{k−1}|x_k, x_0) ‖ p(x_{k−1}|x_k)) for k = 2..N; from `elbo_estimate` a few of them, weighted."""
    reconstruction: Float[Array, " b"]
    """−ln p(x_0|x_1), a density's or a mass's."""

    __repr__ = short_repr

    @property
    def total(self) -> Float[Array, " b"]:
        """−ELBO."""
        return self.prior + jnp.sum(self.steps, axis=1) + self.reconstruction


def prior_kl(chain: GeneratorChain, x_0: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """KL(N(α x_0, σ²) ‖ N(0, prior_std²)) at t_N, in nats."""
    return kl_divergence(*_ends(chain, x_0))


def _ends(chain: GeneratorChain, x_0: Array) -> tuple[Normal, Normal]:
    """q(x_N | x_0) and p(x_N)."""
    end, schedule = jnp.asarray(chain.times)[-1], chain.process.schedule
    return Normal(schedule.alpha(end) * x_0, schedule.sigma(end)), Normal(jnp.zeros_like(x_0), schedule.prior_std(end))


def elbo_term(
    chain: GeneratorChain, x_0: Float[Array, "b *event"], x_k: Float[Array, "b *event"], k: int | Int[Array, "..."]
) -> Float[Array, " b"]:
    """The k-th term of −ELBO at x_k ~ q(x_k|x_0), k in 1..N, a scalar or (b,), in nats.

    KL(q(x_{k−1}|x_k, x_0) ‖ p(x_{k−1}|x_k)) for k > 1, and −ln p(x_0|x_1) for k = 1.
    """
    return term_from_denoised(chain, chain.denoise(x_k, step_times(chain, k)[1]), x_0, k)


def term_from_denoised(
    chain: GeneratorChain, denoised: Denoised, x_0: Float[Array, "b *event"], k: int | Int[Array, "..."]
) -> Float[Array, " b"]:
    """`elbo_term` given the denoiser's answer at x_k, which is all that it depends on."""
    return _compared(chain, denoised, x_0, k, kl_divergence)


def _compared(
    chain: GeneratorChain, denoised: Denoised, x_0: Array, k: int | Array, compare: Callable[[Normal, Normal], Array]
) -> Array:
    """`compare` of q(x_{k−1}|x_k, x_0) with p(x_{k−1}|x_k), or −ln p(x_0|x_1) where k = 1."""
    reconstruction = -decoded(chain, denoised).log_prob(x_0)
    if chain.steps == 1:
        return reconstruction
    # Where k = 1 the first law is a point: another step takes its place, and its value is not used.
    s, t = step_times(chain, jnp.maximum(k, 2))
    mean, v = split_denoised(denoised)
    _, c_0, small = posterior_coefficients(chain.process, s, t)
    # The means without c_t x_k, which they share: their difference keeps its digits.
    c_0, model = expand(c_0, x_0), chain.variance.variance(chain.process, s, t, v)
    compared = compare(Normal(c_0 * x_0, jnp.sqrt(small)), Normal(c_0 * mean, jnp.sqrt(model)))
    return jnp.where(jnp.asarray(k) == 1, reconstruction, compared)


def _noised(keys: Array, chain: GeneratorChain, x_0: Array, k: Array | int) -> Array:
    """x_k ~ q(x_k | x_0), k a scalar or (b,)."""
    return perturb(chain.process, x_0, keys_lib.normal(keys, x_0.shape[1:], x_0.dtype), jnp.asarray(chain.times)[k])


def elbo_terms(key: Key[Array, "..."], chain: GeneratorChain, x_0: Float[Array, "b *event"]) -> ElboTerms:
    """Every term of −ELBO, each at one draw of x_k ~ q(x_k|x_0): N evaluations of the denoiser.

    `key` is one key, or one for each x_0. Raises TypeError when the noise is not Gaussian.
    """
    keys = keys_lib.as_keys(key, x_0.shape[0])

    def one(k: Array) -> Array:
        return elbo_term(chain, x_0, _noised(keys_lib.fold(keys, k), chain, x_0, k), k)

    terms = jax.lax.map(one, jnp.arange(1, chain.steps + 1)).T
    return ElboTerms(prior_kl(chain, x_0), terms[:, 1:], terms[:, 0])


def step_probabilities(chain: GeneratorChain) -> Float[Array, " n"]:
    """The probability of step k = 2..N in `elbo_estimate`: in proportion to ½ ln (1 + SNR_{k−1})/(1 + SNR_k).

    That is the information that N(0, I) data lose in the step, and close to the term itself for most data; a tenth of
    the mass is uniform, so that no step is forgotten.
    """
    times, schedule = jnp.asarray(chain.times), chain.process.schedule
    information = 0.5 * jax.nn.softplus(schedule.log_snr(times[1:]))
    lost = information[:-1] - information[1:]
    return 0.9 * lost / jnp.sum(lost) + 0.1 / max(chain.steps - 1, 1)


def elbo_estimate(
    key: Key[Array, ""],
    chain: GeneratorChain,
    x_0: Float[Array, "b *event"],
    *,
    draws: int = 1,
    ids: Int[Array, " b"] | None = None,
    probabilities: Float[Array, " n"] | None = None,
) -> ElboTerms:
    """−ELBO without bias from `draws` of the N − 1 steps for each x_0: 1 + `draws` evaluations of the denoiser.

    The terms of the prior and of the decoder are always included; the steps are drawn with `probabilities` (N − 1,), by
    default `step_probabilities`, from one low-discrepancy sequence for all x_0, and weighted by 1/(p_k draws).
    Element i depends on (key, ids[i]) alone, ids being 0..b − 1 unless given. Raises ValueError when draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws = {draws}; at least one step must be drawn for each example.")
    ids = jnp.arange(x_0.shape[0]) if ids is None else ids
    keys = keys_lib.sample_keys(jax.random.fold_in(key, 1), ids)
    if chain.steps == 1:
        return elbo_terms(keys, chain, x_0)
    mass = step_probabilities(chain) if probabilities is None else probabilities
    edges = jnp.cumsum(mass)
    offset = jax.random.uniform(jax.random.fold_in(key, 0))

    def one(draw: Array) -> Array:
        """The decoder's term for draw 0, a weighted step for the others."""
        u = (offset + _golden(ids * draws + draw)) % 1.0
        place = jnp.clip(jnp.searchsorted(edges, u * edges[-1], side="right"), 0, chain.steps - 2)
        k = jnp.where(draw == 0, 1, place + 2)
        weight = jnp.where(draw == 0, 1.0, edges[-1] / (mass[place] * draws))
        return weight * elbo_term(chain, x_0, _noised(keys_lib.fold(keys, draw), chain, x_0, k), k)

    terms = jax.lax.map(one, jnp.arange(draws + 1)).T
    return ElboTerms(prior_kl(chain, x_0), terms[:, 1:], terms[:, 0])


def _golden(n: Int[Array, "..."]) -> Array:
    """n/φ mod 1, evenly spread for any run of integers; in 32-bit integers, which wrap where a float would round."""
    return (n.astype(jnp.uint32) * jnp.uint32(2654435769)).astype(jnp.result_type(float)) / 2.0**32


def log_ratio(key: Key[Array, "..."], chain: GeneratorChain, x_0: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """ln q(x_{1:N}|x_0) − ln p(x_{0:N}) on a trajectory of the encoder: −ELBO by its definition, in nats.

    Noisier than `elbo_terms`, where what can be integrated has been.
    """
    encoder = EncoderChain(chain.process, chain.times)
    trajectory = encoder.sample(key, x_0)
    return encoder.log_prob(trajectory) - chain.log_prob(trajectory)


class JointTerms(NamedTuple):
    """KL(q(x_{0:N}) ‖ p(x_{0:N})) as an autoregressive model sees it, in nats: every entropy and cross-entropy."""

    data: Float[Array, " b"]
    """ln q(x_0)."""
    encoder: Float[Array, " n"]
    """−entropy of q(x_k|x_{k−1}), −½ d ln(2πe σ_{k|k−1}²), for k = 1..N."""
    prior: Float[Array, " b"]
    """−E ln p(x_N)."""
    generator: Float[Array, "b n"]
    """−E ln p(x_{k−1}|x_k) for k = 1..N: ½ d ln(2π v_k) + E|x_{k−1} − μ_k|²/(2v_k)."""

    __repr__ = short_repr

    @property
    def total(self) -> Float[Array, " b"]:
        """The divergence, whose mean over x_0 is the joint KL."""
        return self.data + jnp.sum(self.encoder) + self.prior + jnp.sum(self.generator, axis=1)


def joint_kl(
    key: Key[Array, "..."], chain: GeneratorChain, x_0: Float[Array, "b *event"], data_log_prob: Float[Array, " b"]
) -> JointTerms:
    """KL(q(x_{0:N}) ‖ p(x_{0:N})) with every constant, each term at one draw of x_k ~ q(x_k|x_0).

    `data_log_prob` is ln q(x_0). By the chain rule for entropies `total` − ln q(x_0) is the `total` of `elbo_terms`
    with the same key, draw by draw, whatever the denoiser; the joint KL is 0 only if the generator is the encoder
    reversed. Raises TypeError when the noise is not Gaussian.
    """
    keys, times = keys_lib.as_keys(key, x_0.shape[0]), jnp.asarray(chain.times)
    _, added = transition_coefficients(chain.process, times[:-1], times[1:])
    encoder = -0.5 * event_size(x_0) * jnp.log(2 * math.pi * math.e * added)

    def one(k: Array) -> Array:
        x_k = _noised(keys_lib.fold(keys, k), chain, x_0, k)
        return _compared(chain, chain.denoise(x_k, times[k]), x_0, k, _cross_entropy)

    generator = jax.lax.map(one, jnp.arange(1, chain.steps + 1)).T
    return JointTerms(data_log_prob, encoder, _cross_entropy(*_ends(chain, x_0)), generator)


def _cross_entropy(p: Normal, q: Normal) -> Array:
    """−E_p ln q = Σ ½ ln(2πσ_q²) + (σ_p² + (μ_p − μ_q)²)/(2σ_q²)."""
    square = expand(p.std, p.mean) ** 2 + (p.mean - q.mean) ** 2
    variance = expand(q.std, q.mean) ** 2
    return sum_event(0.5 * jnp.log(2 * math.pi * variance) + square / (2 * variance))
