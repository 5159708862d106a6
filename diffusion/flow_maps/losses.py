"""What flow maps and few-step models are trained by; each loss is checked on laws whose maps are known.

    consistency         |f(x_t, t) − f⁻(x_s, s)|²                            Song et al. 2023, arXiv:2303.01469
    the same, s -> t    ⟨f(x_t, t), df⁻/dt⟩                                  Lu & Song 2025, arXiv:2410.11081
    MeanFlow            |u(x_t, t, s) − v + (t − s)(v·∂_x u⁻ + ∂_t u⁻)|²     Geng et al. 2025, arXiv:2505.13447
    shortcut            |u(x, t, s) − ½[u⁻(x, t, m) + u⁻(Φ⁻(x), m, s)]|²     Frans et al. 2025, arXiv:2410.12557
    Eulerian            |∂_t Φ + v·∂_x Φ|²                                   Boffi et al. 2025, arXiv:2406.07507
    Lagrangian          |∂_s Φ_{t→s}(x_t) − v(Φ_{t→s}(x_t), s)|²             the same
    ReFlow              |z − x_0 − v(x_t, t)|²                               Liu et al. 2023, arXiv:2209.03003
    score distillation  2⟨D − D_g, D − x_g⟩ − |D − D_g|²                     Zhou et al. 2024, arXiv:2404.04057

(the minus sign: no gradient goes there). Every function returns one loss for each element, averaged over its event, for
given x_0, z and times: expectations, weightings and how times are drawn are the caller's. `t` is the noisier time; both
are scalars or (b,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand, mean_event
from diffusion.dynamics import Drift
from diffusion.flow_maps.maps import AverageVelocity, FlowMap
from diffusion.prediction import Denoiser, target
from diffusion.process import Process, perturb
from diffusion.pytree import is_concrete, short_repr

Batch = Float[Array, "b *event"]


def consistency_loss(
    process: Process,
    consistency: Denoiser,
    x_0: Batch,
    z: Batch,
    t: ArrayLike,
    s: ArrayLike,
    *,
    teacher: FlowMap | None = None,
    huber: float | Array = 0.0,
) -> Float[Array, " b"]:
    """|f(x_t, t) − f⁻(x_s, s)|² with x_t = α_t x_0 + σ_t z, for a consistency function f with f(x, 0) = x.

    Without a `teacher` it is consistency training: x_s = α_s x_0 + σ_s z, of the same x_0 and z. What f is then fitted
    to, E[f(x_s, s)|x_t], is not the flow for levels apart: on n levels it shrinks a Gaussian by a product of cosines,
    as DDIM does. With a teacher's flow map it is distillation, x_s = Φ_{t→s}(x_t). With `huber` = c > 0 the square d²
    becomes √(d² + c²) − c. As s -> t the loss falls as (t − s)², so that it is usually divided by t − s.
    """
    x_t = perturb(process, x_0, z, t)
    x_s = perturb(process, x_0, z, s) if teacher is None else teacher(x_t, t, s)
    wanted = jax.lax.stop_gradient(consistency(x_s, s))
    return robust(mean_event((consistency(x_t, t) - wanted) ** 2), huber)


def tangent_loss(
    process: Process,
    consistency: Denoiser,
    x_0: Batch,
    z: Batch,
    t: ArrayLike,
    *,
    velocity: Drift | None = None,
    weight: ArrayLike = 1.0,
    normalised: float | Array = 0.0,
) -> Float[Array, " b"]:
    """|f − (f − g)⁻|², g = `weight` · df/dt along the flow: half its gradient is ⟨∇f, g⟩, of consistency as s -> t.

    df/dt = v·∂_x f + ∂_t f, by one forward derivative, with the `velocity` of a teacher, (x, t) -> v, or that of x_0
    and z, v = α' x_0 + σ' z, whose mean given x_t is the flow's. With `normalised` = c > 0 the tangent becomes
    g/(|g| + c), |g| its root mean square over the event, at most 1 however large g is: that of a network which
    is told ln σ and whose answer is not multiplied by σ grows like 1/σ as σ -> 0, and that of layers which divide by a
    norm like one over that norm.
    """
    x_t = perturb(process, x_0, z, t)
    value, rate = _along(lambda x, time: consistency(x, time), x_t, t, _velocity(process, x_0, z, x_t, t, velocity))
    g = jax.lax.stop_gradient(rate * expand(weight, rate))
    if not is_concrete(normalised) or normalised > 0:
        g = g / (expand(jnp.sqrt(mean_event(g**2)), g) + normalised)
    return mean_event((value - jax.lax.stop_gradient(value - g)) ** 2)


def meanflow_loss(
    process: Process,
    average: AverageVelocity,
    x_0: Batch,
    z: Batch,
    t: ArrayLike,
    s: ArrayLike,
    *,
    velocity: Drift | None = None,
    stopped: bool = True,
) -> Float[Array, " b"]:
    """|u(x_t, t, s) − (v − (t − s)(v·∂_x u + ∂_t u))⁻|², where s = t the flow matching loss |u(x_t, t, t) − v|².

    v is α' x_0 + σ' z, or a teacher's `velocity` (x, t) -> v: with that it is the Eulerian loss written for u, and of
    guided velocities a guided model. The average velocity of the flow is its fixed point because no gradient goes to
    the target. With `stopped` false it goes, and the loss has another minimum: along u itself its slope is then
    2 Var(v|x_t) κ(κ − 1) with κ = (t − s) ∂_x u, in one dimension, for 0 < κ < 1 below 0.

    The target has a factor (t − s) before the derivative. Under `EDM`, where a network is told ln(σ)/4, whose slope in
    t is 1/(4t), the product stays below a quarter of the derivative by what it is told; on other schedules it grows
    towards the prior, like 1/α under `RectifiedFlow`.
    """
    x_t = perturb(process, x_0, z, t)
    v = _velocity(process, x_0, z, x_t, t, velocity)
    value, rate = _along(lambda x, time: average(x, time, s), x_t, t, v)
    gap = jnp.asarray(t, x_t.dtype) - jnp.asarray(s, x_t.dtype)
    wanted = v - expand(gap, rate) * rate
    return mean_event((value - (jax.lax.stop_gradient(wanted) if stopped else wanted)) ** 2)


def shortcut_loss(
    process: Process, average: AverageVelocity, x_0: Batch, z: Batch, t: ArrayLike, s: ArrayLike
) -> Float[Array, " b"]:
    """|u(x_t, t, s) − ½[u(x_t, t, m) + u(Φ_{t→m}(x_t), m, s)]⁻|² with m = (t + s)/2 and Φ_{t→m}(x) = x − (t − m) u.

    Where s = t the flow matching loss |u(x_t, t, t) − v|² with v = α' x_0 + σ' z, without which nothing would tell u
    what to be. No derivative is needed, and two more calls.
    """
    x_t = perturb(process, x_0, z, t)
    t, s = (jnp.asarray(time, x_t.dtype) for time in (t, s))
    middle = 0.5 * (t + s)
    first = average(x_t, t, middle)
    second = average(x_t - expand(t - middle, first) * first, middle, s)
    steps = jnp.where(expand(t == s, first), target(process, x_0, z, t, "velocity"), 0.5 * (first + second))
    return mean_event((average(x_t, t, s) - jax.lax.stop_gradient(steps)) ** 2)


def eulerian_loss(phi: FlowMap, x: Batch, t: ArrayLike, s: ArrayLike, velocity: Drift) -> Float[Array, " b"]:
    """|∂_t Φ_{t→s}(x) + v(x, t)·∂_x Φ_{t→s}(x)|², x a draw of x_t: 0 for the flow map of v alone.

    One forward derivative, through which gradients go; a boundary Φ_{t→t}(x) = x must be built in.
    """
    return mean_event(_along(lambda y, time: phi(y, time, s), x, t, velocity(x, t))[1] ** 2)


def lagrangian_loss(phi: FlowMap, x: Batch, t: ArrayLike, s: ArrayLike, velocity: Drift) -> Float[Array, " b"]:
    """|∂_s Φ_{t→s}(x) − v(Φ_{t→s}(x), s)|², x a draw of x_t: 0 for the flow map of v alone.

    One forward derivative, by the time s alone; a boundary Φ_{t→t}(x) = x must be built in.
    """
    s = jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
    there, rate = jax.jvp(lambda time: phi(x, t, time), (s,), (jnp.ones_like(s),))
    return mean_event((rate - velocity(there, s)) ** 2)


def flow_matching_loss(process: Process, velocity: Drift, x_0: Batch, z: Batch, t: ArrayLike) -> Float[Array, " b"]:
    """|α' x_0 + σ' z − v(x_t, t)|² for x_0 and z drawn in pairs (Lipman et al. 2023, arXiv:2210.02747).

    Of independent pairs the fit is the velocity of the probability flow. Of the pairs (Φ_{T→0}(z), z) that a flow map
    makes of noise it is ReFlow: paths that do not cross, so that under `RectifiedFlow`, of straight ones as a
    Gaussian's are after one rectification, a single step is exact (Liu et al. 2023, arXiv:2209.03003).
    """
    return mean_event((target(process, x_0, z, t, "velocity") - velocity(perturb(process, x_0, z, t), t)) ** 2)


def critic_loss(potential: Callable[[Array], Array], x_0: Batch, x_1: Batch, t: ArrayLike) -> Float[Array, " b"]:
    """½|∇D(x_t)|² − D(x_1) + D(x_0) + ½|x_1 − x_0|², at x_t = (1 − t) x_0 + t x_1; sums over the event.

    Its mean over t ~ U(0, 1) is that of ReFlow's ½|x_1 − x_0 − ∇D(x_t)|² with the velocity ∇D, D without t: the
    difference, D(x_1) − D(x_0) − ∫ ∇D(x_t)·(x_1 − x_0) dt, is 0. So ReFlow trains a critic with a zero-centred penalty
    on its gradient between the two samples (Su 2023, the post on ReFlow and WGAN-GP).
    `potential` is (b, *event) -> (b,).
    """
    x_t = x_0 + expand(t, x_0) * (x_1 - x_0)
    slope = jax.grad(lambda x: jnp.sum(potential(x)))(x_t)
    dims = x_0[0].size
    half = 0.5 * dims * (mean_event(slope**2) + mean_event((x_1 - x_0) ** 2))
    return half - potential(x_1) + potential(x_0)


class Distilled(NamedTuple):
    """The two estimates of the Fisher divergence between a generator's law and the data's, and their combination."""

    loss: Float[Array, " b"]
    """2 (L₂ − a L₁): with a = ½ its gradient is that of the divergence."""
    difference: Float[Array, " b"]
    """L₁ = |D − D_g|²."""
    projected: Float[Array, " b"]
    """L₂ = ⟨D − D_g, D − x_g⟩, whose mean is that of L₁ where D_g is the generator's own denoiser."""

    __repr__ = short_repr


def score_distillation(
    process: Process,
    data: Denoiser,
    generators: Denoiser,
    generated: Batch,
    z: Batch,
    t: ArrayLike,
    *,
    emphasis: float | Array = 0.5,
) -> Distilled:
    """A generator's loss: the distance of the denoisers of the data, D, and of what it makes, D_g, at α x_g + σ z.

    D_g is fitted to `generated` = x_g by the denoising loss, in turns with the generator. Gradients go to x_g, and from
    there through both denoisers' inputs, not to their parameters: differentiate by the generator's alone. But D_g is
    the denoiser of the very law that moves, and its parameters, which are held, would move along. The values of L₁ and
    L₂ agree, E⟨D − D_g, D_g⟩ = E⟨D − D_g, x_g⟩; their gradients do not. Of a Gaussian generator that is too narrow that
    of L₁ has the wrong sign, that of L₂ the wrong size, and that of 2L₂ − L₁ is right: `emphasis` a = ½. (Su 2024, the
    posts on score identity distillation; Zhou et al. 2024, arXiv:2404.04057, eq. 23, whose α is a here, find 1 to 1.2
    best with networks.)
    """
    x_t = perturb(process, generated, z, t)
    real, fake = data(x_t, t), generators(x_t, t)
    difference = mean_event((real - fake) ** 2)
    projected = mean_event((real - fake) * (real - generated))
    return Distilled(2 * (projected - emphasis * difference), difference, projected)


def robust(squares: Float[Array, " b"], huber: float | Array) -> Float[Array, " b"]:
    """√(d² + c²) − c of squares d², for c = `huber` > 0 (Song & Dhariwal 2024, arXiv:2310.14189); d² for 0."""
    if is_concrete(huber) and huber == 0:
        return squares
    return squares / (jnp.sqrt(squares + huber**2) + huber)


def earlier_time(
    process: Process, t: Float[Array, " b"], stage: ArrayLike, *, shrink: float = 2.0, widen: float = 8.0
) -> Float[Array, " b"]:
    """The s of easy consistency tuning, ρ_s = ρ_t (1 − n(ρ_t)/q^stage), n(ρ) = 1 + k sigmoid(−ρ), ρ = σ/α; at least 0.

    At stage 0 s = 0 everywhere, where the loss is a denoiser's; as it goes up the gap closes towards s = t
    (Geng et al. 2025, arXiv:2406.14548); q is `shrink`, k is `widen`. Where α = 0 it is t itself.
    """
    ratio = process.sigma(t) / process.alpha(t)
    kept = 1 - (1 + widen * jax.nn.sigmoid(-ratio)) / jnp.asarray(shrink, ratio.dtype) ** stage
    lower = ratio * jnp.maximum(kept, 0.0)
    some = jnp.where(lower > 0, lower, 1.0)
    return jnp.where(lower > 0, process.schedule.time_from_log_snr(-2 * jnp.log(some)), 0.0).astype(t.dtype)


def _velocity(process: Process, x_0: Batch, z: Batch, x_t: Batch, t: ArrayLike, given: Drift | None) -> Batch:
    """A teacher's velocity, or α' x_0 + σ' z."""
    return target(process, x_0, z, t, "velocity") if given is None else given(x_t, t)


def _along(function: Callable[[Array, Array], Array], x: Batch, t: ArrayLike, velocity: Array) -> tuple[Array, Array]:
    """(h(x, t), v·∂_x h + ∂_t h)."""
    t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
    return jax.jvp(function, (x, t), (velocity.astype(x.dtype), jnp.ones_like(t)))
