"""Score matching: five losses with one minimiser.

    explicit             ½ E |s(x) − ∇ln p(x)|²
    implicit             E [∇·s(x) + ½ |s(x)|²]                             Hyvärinen 2005
    sliced               E [vᵀ ∇s(x) v + ½ |s(x)|²]                         Song et al. 2019, arXiv:1905.07088
    finite difference    E [vᵀ (s(x + hv) − s(x − hv))/2h + ½ |s(x)|²]      Pang et al. 2020, arXiv:2007.03317
    denoising            E w(t) |x_0 − D(α x_0 + σ z, t)|²                  Vincent 2011; Ho et al. 2020

The first three differ by constants that do not depend on s; so does the fourth, up to O(h²), and the last for
s = (α D − x)/σ². Only the last needs neither the score nor a derivative of s, not even by differences, and it holds for
any noise, which is why models are trained with it. `stable_target` replaces its x_0 by a posterior mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arrays import mean_event, sum_event
from diffusion.prediction import Denoiser, x0_alone
from diffusion.process import Process, perturb
from diffusion.pytree import is_concrete, short_repr
from diffusion.score_matching.times import Draw, TimeDistribution, UniformTime, draw_uniforms
from diffusion.score_matching.weightings import SNRWeighting, Weighting

ScoreModel = Callable[[Array], Array]


class DenoisingTerms(NamedTuple):
    """The denoising loss of each element of a batch, and where it was taken."""

    loss: Float[Array, " b"]
    """w(t) |x_0 − D|²/d, corrected for how t was drawn: its mean is the objective."""
    uncorrected: Float[Array, " b"]
    """The same loss without the correction of importance sampling."""
    t: Float[Array, " b"]
    """The times."""
    u: Float[Array, " b"]
    """The uniforms that gave t."""

    __repr__ = short_repr


def denoising_terms(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    x_0: Float[Array, "b *event"],
    *,
    weighting: Weighting | None = None,
    times: TimeDistribution | None = None,
    draw: Draw | str = "low_discrepancy",
    ids: Int[Array, " b"] | None = None,
    batch_size: int | None = None,
    reference: Float[Array, "n ..."] | None = None,
) -> DenoisingTerms:
    """w(t) |x_0 − D(α x_0 + σ z, t)|²/d for each element, t ~ `times`, z ~ the process's noise.

    `weighting` is SNRWeighting (DDPM's simple loss) and `times` UniformTime unless given. `ids` are the places of
    these elements in a batch of `batch_size`, when the batch is shared out over devices: t and z of an element
    depend on (key, id) alone. With a `reference` batch of data the target is not x_0 but `stable_target`.
    Raises ValueError for `ids` without `batch_size` or the reverse, or for a reference whose events are not x_0's.
    """
    if (ids is None) != (batch_size is None):
        raise ValueError("ids and batch_size go together: the places of these elements, in a batch of how many.")
    weighting, times = weighting or SNRWeighting(), times or UniformTime()
    ids = jnp.arange(x_0.shape[0]) if ids is None else ids
    u = draw_uniforms(jax.random.fold_in(key, 0), ids, batch_size or x_0.shape[0], draw)
    t = jax.lax.stop_gradient(times.quantile(process, u))
    z = process.noise.sample(keys_lib.sample_keys(jax.random.fold_in(key, 1), ids), x_0.shape, x_0.dtype)
    x_t = perturb(process, x_0, z, t)
    wanted = x_0 if reference is None else stable_target(process, x_0, x_t, t, reference)
    error = wanted - x0_alone(denoise(x_t, t), "denoising score matching")
    # An integral over t is a mean over u times dt/du, which already holds the correction of importance sampling.
    correction = times.slope(process, u) if weighting.per_unit_time else times.correction(u)
    loss = correction * weighting.weight_at(process, x_t, t) * mean_event(error**2)
    return DenoisingTerms(loss, loss / times.correction(u), t, u)


def stable_target(
    process: Process,
    x_0: Float[Array, "b *event"],
    x_t: Float[Array, "b *event"],
    t: Float[Array, " b"],
    reference: Float[Array, "n ..."],
) -> Float[Array, "b *event"]:
    """E[y | x_t] for y in {x_0} ∪ reference, weighed by p(x_t | y): the stable target (Xu et al. 2023, eq. 5).

    The weights are a softmax of the noise's ln p((x_t − α y)/σ), for any noise. With n draws of the data beside x_0, no
    point twice, the mean of the target given x_t is still E[x_0 | x_t], for every n: given x_t and the set, each of its
    points is the one that was perturbed with a probability that is its weight. The variance falls as 1/n, and is 0 when
    the set is the whole of finite data. An x_0 that is already in the reference is not added again; where finite data
    are drawn with repetition there is a bias, as small as repetitions are rare. Holds n events at once.
    Source: arXiv:2302.00670. Raises ValueError for a reference whose events are not x_0's.
    """
    if reference.shape[1:] != x_0.shape[1:]:
        raise ValueError(f"reference has shape {reference.shape}; give (n, *event) with the event {x_0.shape[1:]}.")
    alpha, sigma = (jnp.broadcast_to(f(t), t.shape).astype(x_0.dtype) for f in (process.alpha, process.sigma))

    def one(at: tuple[Array, Array, Array, Array]) -> Array:
        own, x, alpha, sigma = at
        all_of_them = jnp.concatenate([own[None], reference])
        logits = process.noise.log_prob((x - alpha * all_of_them) / sigma)
        known = jnp.any(jnp.all(reference == own, axis=tuple(range(1, reference.ndim))))
        weights = jax.nn.softmax(logits.at[0].set(jnp.where(known, -jnp.inf, logits[0])))
        return jnp.tensordot(weights, all_of_them, 1, precision="highest")

    return jax.lax.stop_gradient(jax.lax.map(one, (x_0, x_t, alpha, sigma)))


def denoising_score_matching(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    x_0: Float[Array, "b *event"],
    *,
    weighting: Weighting | None = None,
    times: TimeDistribution | None = None,
    draw: Draw | str = "low_discrepancy",
    reference: Float[Array, "n ..."] | None = None,
) -> Float[Array, ""]:
    """The denoising loss, E w(t) |x_0 − D(x_t, t)|²/d over t and z, batch averaged (Ho et al. 2020, eq. 14).

    The options are those of `denoising_terms`.
    """
    terms = denoising_terms(
        key,
        process,
        denoise,
        x_0,
        weighting=weighting,
        times=times,
        draw=draw,
        reference=reference,
    )
    return jnp.mean(terms.loss)


def explicit_score_matching(
    model: ScoreModel, true_score: ScoreModel, x: Float[Array, "b *event"]
) -> Float[Array, " b"]:
    """½ |s(x) − ∇ln p(x)|², the Fisher divergence at each x."""
    return 0.5 * sum_event((model(x) - true_score(x)) ** 2)


def implicit_score_matching(model: ScoreModel, x: Float[Array, "b d"]) -> Float[Array, " b"]:
    """∇·s(x) + ½ |s(x)|² with the exact trace: d Jacobian-vector products (Hyvärinen 2005, eq. 4)."""

    def along(direction: Array) -> tuple[Array, Array]:
        return jax.jvp(model, (x,), (jnp.broadcast_to(direction, x.shape),))

    values, tangents = jax.vmap(along)(jnp.eye(x.shape[-1], dtype=x.dtype))
    divergence = jnp.einsum("ibi->b", tangents)
    return divergence + 0.5 * sum_event(values[0] ** 2)


def sliced_score_matching(key: Key[Array, "..."], model: ScoreModel, x: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """vᵀ∇s(x)v + ½ |s(x)|² with a Rademacher v for each x: an unbiased estimate of the implicit loss."""
    v = _directions(key, x)
    value, tangent = jax.jvp(model, (x,), (v,))
    return sum_event(v * tangent) + 0.5 * sum_event(value**2)


def finite_difference_score_matching(
    key: Key[Array, "..."], model: ScoreModel, x: Float[Array, "b *event"], step: float | Array = 5e-3
) -> Float[Array, " b"]:
    """vᵀ(s(x + hv) − s(x − hv))/2h + ½ |s(x)|², h = `step`: the sliced loss without a derivative of s.

    v is that of `sliced_score_matching` with the same key. Three evaluations of s; the difference costs an error of
    O(h²), and the rounding ε of s one of ε/h, which balance near h = ∛ε, 5e-3 in float32, in the units of x.
    Raises ValueError for a step that is not positive. Source: Pang et al. 2020, arXiv:2007.03317.
    """
    if is_concrete(step) and not step > 0:
        raise ValueError(f"step = {step}; give a positive length, about 5e-3 in float32 for x of unit size.")
    v = _directions(key, x)
    h = jnp.asarray(step, x.dtype)
    slope = (model(x + h * v) - model(x - h * v)) / (2 * h)
    return sum_event(v * slope) + 0.5 * sum_event(model(x) ** 2)


def _directions(key: Key[Array, "..."], x: Float[Array, "b *event"]) -> Float[Array, "b *event"]:
    """A Rademacher v for each x, from its own key."""
    keys = keys_lib.as_keys(key, x.shape[0])
    return jax.vmap(lambda k: jax.random.rademacher(k, x.shape[1:], x.dtype))(keys)
