"""The losses of DDPM in practice: the ELBO without its weights, and the part of it that trains a learned variance."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arrays import event_size, expand, mean_event, sum_event
from diffusion.ddpm.chains import GeneratorChain, step_times
from diffusion.ddpm.elbo import term_from_denoised
from diffusion.ddpm.reverse_steps import Denoised, split_denoised
from diffusion.prediction import eps_from_x0
from diffusion.process import Process, perturb, transition_coefficients


def simplified_loss(
    key: Key[Array, "..."],
    process: Process,
    denoise: Callable[[Array, ArrayLike], Denoised],
    x_0: Float[Array, "b *event"],
    t: ArrayLike,
) -> Float[Array, " b"]:
    """|ε − ε̂(x_t, t)|²/d = (α²/σ²) |x_0 − D(x_t, t)|²/d at x_t = α x_0 + σ ε (Ho et al. 2020, eq. 14).

    `t` is a scalar or (b,); `key` one key, or one for each x_0. A learned variance plays no part in it.
    """
    z = process.noise.sample(key, x_0.shape, x_0.dtype)
    denoised, _ = split_denoised(denoise(perturb(process, x_0, z, t), t))
    return _noise_error(process, x_0, denoised, t)


def _noise_error(process: Process, x_0: Array, denoised: Array, t: ArrayLike) -> Array:
    ratio = expand(process.alpha(t) / process.sigma(t), x_0)
    return mean_event((ratio * (x_0 - denoised)) ** 2)


def hybrid_loss(
    key: Key[Array, "..."],
    chain: GeneratorChain,
    x_0: Float[Array, "b *event"],
    k: Int[Array, " b"],
    weight: ArrayLike = 1e-3,
) -> Float[Array, " b"]:
    """L_simple + λ N L_k at x_k ~ q(x_k|x_0), for a chain with the `Learned` variance; `weight` is λ.

    L_k is `elbo_term` in nats per dimension with its mean held fixed, so that the ELBO trains the variance and the
    simplified loss the mean, from one evaluation of the network; N L_k is an unbiased estimate of the whole ELBO,
    the prior's term aside, for k uniform on 1..N (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16).
    `key` is one key, or one for each x_0. Raises TypeError when the denoiser returns no v.
    """
    t = step_times(chain, k)[1]
    x_k = perturb(chain.process, x_0, keys_lib.normal(keys_lib.as_keys(key, x_0.shape[0]), x_0.shape[1:], x_0.dtype), t)
    denoised, v = split_denoised(chain.denoise(x_k, t))
    if v is None:
        raise TypeError("the hybrid loss learns a variance, and this denoiser returns none; use simplified_loss.")
    bound = term_from_denoised(chain, (jax.lax.stop_gradient(denoised), v), x_0, k)
    return _noise_error(chain.process, x_0, denoised, t) + weight * chain.steps * bound / event_size(x_0)


def merge_noises(
    process: Process, eps_s: Float[Array, "b *event"], eps_step: Float[Array, "b *event"], s: ArrayLike, t: ArrayLike
) -> tuple[Float[Array, "b *event"], Float[Array, "b *event"]]:
    """(ε, ω), the two noises of x_s = α_s x_0 + σ_s ε_s and x_t = α_{t|s} x_s + σ_{t|s} ε_step, rotated:

        σ_t ε = α_{t|s} σ_s ε_s + σ_{t|s} ε_step,     σ_t ω = σ_{t|s} ε_s − α_{t|s} σ_s ε_step

    Both are standard and independent, and x_t = α_t x_0 + σ_t ε needs only the first: this is why DDPM draws one
    noise instead of two. Raises TypeError when the noise is not Gaussian.
    """
    cos, sin = _angle(process, s, t)
    cos, sin = expand(cos, eps_s), expand(sin, eps_s)
    return cos * eps_s + sin * eps_step, sin * eps_s - cos * eps_step


def _angle(process: Process, s: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
    """(α_{t|s} σ_s, σ_{t|s})/σ_t, a cosine and a sine."""
    scale, added = transition_coefficients(process, s, t)
    sigma = process.sigma(t)
    return scale * process.sigma(s) / sigma, jnp.sqrt(added) / sigma


def two_noise_loss(
    process: Process,
    denoise: Callable[[Array, ArrayLike], Denoised],
    x_0: Float[Array, "b *event"],
    eps_s: Float[Array, "b *event"],
    eps_step: Float[Array, "b *event"],
    s: ArrayLike,
    t: ArrayLike,
) -> Float[Array, " b"]:
    """|ε_step − (σ_{t|s}/σ_t) ε̂(x_t)|²: the loss before its noises are merged, which asks for the last step's alone.

    Its mean over ω is (σ_{t|s}²/σ_t²) |ε − ε̂|² + d α_{t|s}² σ_s²/σ_t², see `merge_noises`: the same gradient with
    more variance, and a constant that the simplified loss has dropped.
    """
    eps, _ = merge_noises(process, eps_s, eps_step, s, t)
    x_t = perturb(process, x_0, eps, t)
    denoised, _ = split_denoised(denoise(x_t, t))
    _, sin = _angle(process, s, t)
    return sum_event((eps_step - expand(sin, x_t) * eps_from_x0(process, x_t, denoised, t)) ** 2)
