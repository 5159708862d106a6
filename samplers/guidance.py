"""Guidance: functions from denoisers to a denoiser.

A factor that tilts the density, p(x_t) -> p(x_t) L(x_t), shifts the denoiser of Gaussian noise by (σ²/α) ∇ ln L. Two
models that differ by such an L differ by this shift, so extrapolating from one to the other strengthens L. Scales,
intervals and weights are traced: changing them never recompiles. A learned variance v, the second of a pair (x̂_0, v),
is left as the model that is guided has it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.arguments import require_process
from diffusion.arrays import expand, safe_sqrt
from diffusion.ddpm.reverse_steps import Denoised, joined, split_denoised
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import as_partial, is_concrete

LogLikelihood = Callable[[Array, ArrayLike], Array]


def classifier_guidance(
    process: Process, denoise: Denoiser, log_likelihood: LogLikelihood, scale: ArrayLike = 1.0
) -> Denoiser:
    """D + w (σ²/α) ∇ ln p(y|x_t): with w = 1 and the exact classifier, the denoiser of p(x_0|y).

    `log_likelihood` is (x, t) -> ln p(y | x_t = x), shape (b,), in nats; its y may differ from sample to sample, and
    row i must depend on x[i] alone. `scale` is w, a scalar or (b,). Where α = 0 nothing is added: there the gradient
    vanishes, and with it what it could say (Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 2).
    Raises TypeError when the noise is not Gaussian.
    """
    require_gaussian(require_process(process).noise, "classifier guidance")
    return Partial(_classifier_guided, process, as_partial(denoise), as_partial(log_likelihood), scale)


def _classifier_guided(
    process: Process, denoise: Denoiser, log_likelihood: LogLikelihood, scale: ArrayLike, x: Array, t: ArrayLike
) -> Denoised:
    gradient = jax.grad(lambda y: jnp.sum(log_likelihood(y, t)))(x)
    x_0, v = split_denoised(denoise(x, t))
    return joined(tilt(process, x_0, expand(scale, x) * gradient, t), v)


def tilt(process: Process, x_0: Float[Array, "b *event"], gradient: Array, t: ArrayLike) -> Float[Array, "b *event"]:
    """x̂_0 + (σ²/α) g: the denoiser's answer when the score ∇ ln p_t grows by g; x̂_0 itself where α or σ is 0."""
    alpha = process.alpha(t)
    factor = expand(jnp.where(alpha > 0, process.schedule.variance(t) / jnp.where(alpha > 0, alpha, 1.0), 0.0), x_0)
    return jnp.where(factor > 0, x_0 + factor * gradient, x_0)


def classifier_free_guidance(conditional: Denoiser, unconditional: Denoiser, scale: ArrayLike) -> Denoiser:
    """D = D_∅ + w (D_c − D_∅): w = 0 drops the condition, 1 is the conditional model, more exaggerates it.

    `scale` is w, a scalar or (b,); Ho & Salimans 2022, arXiv:2207.12598, call w − 1 the guidance strength. Each call
    costs two network evaluations. For w other than 0 and 1 the result is not the denoiser of any diffused density.
    """
    return Partial(_guided, as_partial(conditional), as_partial(unconditional), scale)


def autoguidance(main: Denoiser, weak: Denoiser, scale: ArrayLike) -> Denoiser:
    """D = D_weak + w (D_main − D_weak): away from what a worse model of the same data gets wrong; w = 1 is `main`.

    `weak` is a smaller or less trained model given the same condition as `main`; `scale` is w, a scalar or (b,)
    (Karras et al. 2024, arXiv:2406.02507). Each call evaluates both networks.
    """
    return Partial(_guided, as_partial(main), as_partial(weak), scale)


def _guided(conditional: Denoiser, unconditional: Denoiser, scale: ArrayLike, x: Array, t: ArrayLike) -> Denoised:
    free, (answer, v) = split_denoised(unconditional(x, t))[0], split_denoised(conditional(x, t))
    return joined(free + expand(scale, x) * (answer - free), v)


def rescaled_guidance(
    conditional: Denoiser, unconditional: Denoiser, scale: ArrayLike, rescale: ArrayLike = 0.7
) -> Denoiser:
    """φ (s_c/s_w) D_w + (1 − φ) D_w, D_w that of `classifier_free_guidance`, s the standard deviation over the event.

    Strong guidance widens the range of an answer, which shows as too much contrast; s_c is that of the conditional
    model (Lin et al. 2024, arXiv:2305.08891, section 3.4, on the network's answer; here on x̂_0). φ = `rescale` is 0
    for no change to 1, a scalar or (b,). Where either answer is flat to rounding, as an event of one number always is,
    there is no contrast to restore, and the answer is D_w. Raises ValueError for a φ outside [0, 1].
    """
    if is_concrete(rescale) and not 0 <= rescale <= 1:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"rescale = {rescale}; give 0 for none to 1 for all of it, such as 0.7.")
    return Partial(_rescaled, as_partial(conditional), as_partial(unconditional), scale, rescale)


def _rescaled(
    conditional: Denoiser, unconditional: Denoiser, scale: ArrayLike, rescale: ArrayLike, x: Array, t: ArrayLike
) -> Denoised:
    free, (answer, v) = split_denoised(unconditional(x, t))[0], split_denoised(conditional(x, t))
    added = expand(scale, x) * (answer - free)
    guided = free + added
    wanted, has = _spread(answer, jnp.abs(answer)), _spread(guided, jnp.abs(free) + jnp.abs(added))
    known = (wanted > 0) & (has > 0)
    factor = jnp.where(known, wanted / jnp.where(known, has, 1.0), 1.0)
    return joined((1 + expand(rescale, x) * (expand(factor, x) - 1)) * guided, v)


def _spread(y: Float[Array, "b *event"], terms: Array) -> Float[Array, " b"]:
    """The standard deviation over the event; 0 where it may be rounding, `terms` being the size of what was added."""
    flat = y.reshape(y.shape[0], -1)
    # Less its first number, an answer that is flat is 0 exactly, whatever the rounding of a mean.
    variance = jnp.var(flat - flat[:, :1], axis=1)
    rounding = 8 * jnp.finfo(y.dtype).eps * jnp.max(terms.reshape(flat.shape), axis=1)
    return safe_sqrt(jnp.where(variance > rounding**2, variance, 0.0))


def interval_guidance(
    process: Process,
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: ArrayLike,
    low: ArrayLike = 0.0,
    high: ArrayLike = float("inf"),
) -> Denoiser:
    """Classifier-free guidance while low <= σ/α <= high, and the conditional model alone at every other noise level.

    `scale`, `low` and `high` are scalars, or `scale` is (b,); [0, ∞] is `classifier_free_guidance`. The unconditional
    model is evaluated only where a sample of the batch is guided: for a scalar t, inside the interval (Kynkäänniemi et
    al. 2024, arXiv:2404.07724, whose interval is open below).
    Raises ValueError when the interval is empty.
    """
    if is_concrete(low, high) and not 0 <= low <= high:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(
            f"low = {low} and high = {high} leave no noise level to guide at; use 0 <= low <= high, such as 0.3 and 3."
        )
    return Partial(_interval_guided, process, as_partial(conditional), as_partial(unconditional), scale, low, high)


def _interval_guided(
    process: Process,
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    x: Array,
    t: ArrayLike,
) -> Denoised:
    level = process.sigma(t) / process.alpha(t)
    inside = (low <= level) & (level <= high)
    answer, v = split_denoised(conditional(x, t))

    def guided() -> Array:
        free = split_denoised(unconditional(x, t))[0]
        return jnp.where(expand(inside, x), free + expand(scale, x) * (answer - free), answer).astype(answer.dtype)

    return joined(jax.lax.cond(jnp.any(inside), guided, lambda: answer), v)
