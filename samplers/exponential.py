"""Exponential integrators: the linear part of the probability-flow ODE solved exactly, for any schedule and any noise.

The flow has two such forms, with x̂_0(x, t) the denoiser, ε̂ the predicted noise and λ = ln(α/σ):

    d(x/σ) = x̂_0 d(α/σ)       x_s = (σ_s/σ_t) x_t + α_s ∫ x̂_0 e^{λ − λ_s} dλ          prediction "x0"
    d(x/α) = ε̂ d(σ/α)         x_s = (α_s/α_t) x_t + α_s ∫ ε̂ d(σ/α)                     prediction "eps"

(Lu et al. 2022, arXiv:2211.01095, eq. 8 and arXiv:2206.00927, eq. 3.4.) A method is a rule for the prediction on the
way: here the polynomial through the predictions at some nodes, integrated exactly. A step onto σ = 0, or from
α = 0, is of first order, since λ is infinite there; onto σ = 0 it returns the denoiser's output.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from diffusion.arguments import is_traced
from diffusion.arrays import safe_sqrt
from diffusion.prediction import Denoiser, eps_from_x0
from diffusion.process import Process

Form = Literal["x0", "eps"]
Variable = Literal["log-snr", "log-rho", "rho", "time"]
"""The variable of the polynomial: λ, or −λ = ln(σ/α), which is the same; σ/α; or t itself."""

# Gauss-Legendre on [−1, 1]: exact for the polynomials of ρ, and to rounding for e^λ over any step of a grid.
_POINTS, _MASSES = np.polynomial.legendre.leggauss(16)


def half_log_snr(process: Process, t: ArrayLike) -> Float[Array, "..."]:
    """λ = ln(α/σ)."""
    return 0.5 * process.schedule.log_snr(t)


def starts_in_noise(process: Process, t: ArrayLike) -> bool:
    """Whether λ = −∞ at t as a step sees it, in the default type; False for a process that is traced."""
    if is_traced(process) or not process.schedule.ends_in_noise:
        return False
    return not bool(jnp.isfinite(half_log_snr(process, jnp.asarray(t, jnp.result_type(float)))))


def time_between(process: Process, t: ArrayLike, s: ArrayLike, fraction: float) -> Float[Array, ""]:
    """The time at which λ has gone `fraction` of the way from λ_t to λ_s."""
    start, end = half_log_snr(process, t), half_log_snr(process, s)
    return process.schedule.time_from_log_snr(2 * (start + fraction * (end - start))).astype(start.dtype)


def exponential_step(process: Process, x: Array, x_0: Array, t: ArrayLike, s: ArrayLike) -> Array:
    """(σ_s/σ_t) x + (α_s − α_t σ_s/σ_t) x̂_0: exact for a constant x̂_0, finite at σ_s = 0 and α_t = 0."""
    ratio = process.sigma(s) / process.sigma(t)
    return ratio * x + (process.alpha(s) - process.alpha(t) * ratio) * x_0


def in_form(process: Process, form: Form, x: Array, x_0: Array, t: Array) -> Array:
    """x̂_0 itself, or ε̂, at (x, t)."""
    return x_0 if form == "x0" else eps_from_x0(process, x, x_0, t)


def reverse_noise(process: Process, level: ArrayLike, t: Array, s: Array) -> tuple[Array, Array]:
    """(e^{−ηh}, σ_s √(1 − e^{−2ηh})), η = level², h = λ_s − λ_t: what σ̃ = level · g adds to the step of the ODE."""
    start, end = half_log_snr(process, t), half_log_snr(process, s)
    exponent = jnp.asarray(level, start.dtype) ** 2 * (end - start)
    return jnp.exp(-exponent), process.sigma(s) * safe_sqrt(-jnp.expm1(-2 * exponent))


def node(process: Process, variable: Variable, t: ArrayLike) -> Float[Array, ""]:
    """The polynomial's variable at time t."""
    if variable == "time":
        return jnp.asarray(t, jnp.result_type(float, t))
    half = half_log_snr(process, t)
    return jnp.exp(-half) if variable == "rho" else half


def integral_weights(
    process: Process,
    form: Form,
    variable: Variable,
    t: Array,
    s: Array,
    nodes: Float[Array, " q"],
    used: Bool[Array, " q"],
    growth: ArrayLike = 1.0,
) -> Float[Array, " q"]:
    """w_j = ∫ L_j dω from t to s: L_j are the Lagrange polynomials of the used nodes, others have weight 0.

    For "x0" dω = `growth` e^{growth (λ − λ_s)} dλ, where growth is 1 for the ODE; for "eps" it is d(σ/α). So the
    integral of a polynomial prediction is α_s Σ w_j (its value at node j).
    """
    start, end = node(process, variable, t), node(process, variable, s)
    u = quadrature_points(start, end)
    if form == "x0":  # λ is the only variable of this form
        rate = growth * jnp.exp(growth * (u - end))
    elif variable == "rho":
        rate = jnp.ones_like(u)
    elif variable == "time":  # dρ/dt = ρ (σ'/σ − α'/α)
        schedule = process.schedule
        rate = jnp.exp(-half_log_snr(process, u)) * (schedule.sigma_dot(u) / schedule.sigma(u) - schedule.drift(u))
    else:
        rate = -jnp.exp(-u)
    # The weights of a constant are known, so that a step of any length is exact for one.
    if form == "x0":
        total = -jnp.expm1(growth * (start - end))
    else:
        total = jnp.exp(-half_log_snr(process, s)) - jnp.exp(-half_log_snr(process, t))
    return lagrange_weights(u, jnp.asarray(rate), nodes, used, total)


def quadrature_points(start: Array, end: Array) -> Float[Array, " n"]:
    """The Gauss-Legendre points between the two."""
    return start + 0.5 * (end - start) * (jnp.asarray(_POINTS, start.dtype) + 1)


def lagrange_weights(
    u: Float[Array, " n"], rate: Float[Array, " n"], nodes: Float[Array, " q"], used: Bool[Array, " q"], total: Array
) -> Float[Array, " q"]:
    """∫ rate L_j over `quadrature_points`, scaled to sum to `total`, the integral of rate.

    `u` and `nodes` are values of the polynomial's variable, which need not be the variable of integration.
    """
    safe = jnp.where(used, nodes, 0.0)
    other = used[None, :] & ~jnp.eye(nodes.shape[0], dtype=bool)
    gap = jnp.where(other, safe[:, None] - safe[None, :], 1.0)
    basis = jnp.prod(jnp.where(other, (u[:, None, None] - safe) / gap, 1.0), axis=-1)
    weights = jnp.where(used, jnp.einsum("k,kq->q", jnp.asarray(_MASSES, u.dtype) * rate, basis), 0.0)
    return jnp.asarray(weights * (total / jnp.sum(weights)))


def transfer(
    process: Process,
    form: Form,
    x: Float[Array, "b *event"],
    t: Array,
    s: Array,
    weights: Float[Array, " q"],
    values: Float[Array, "q b *event"],
    decay: ArrayLike = 1.0,
) -> Array:
    """x_s from x_t: the linear part, times `decay`, and α_s Σ w_j values_j."""
    linear = process.sigma(s) / process.sigma(t) if form == "x0" else process.alpha(s) / process.alpha(t)
    combined = jnp.asarray(jnp.tensordot(weights.astype(x.dtype), values, axes=1))
    return jnp.asarray(decay * linear * x + process.alpha(s) * combined)


def single_step(
    process: Process,
    denoise: Denoiser,
    form: Form,
    x: Float[Array, "b *event"],
    value: Float[Array, "b *event"],
    t: Array,
    s: Array,
    order: int,
) -> tuple[Float[Array, "b *event"], Array, Float[Array, "b *event"]]:
    """A step of order 2 or 3 with 1 or 2 more denoiser calls: (x_s, the time of the last of them, its prediction).

    Order 2 takes the prediction at the middle of λ for the whole of the step; order 3 the line through those at t
    and at two thirds, which is itself found by a line through t and one third (Lu et al. 2022, arXiv:2206.00927,
    algorithms 1 and 2, in either form).
    """
    all_used = jnp.ones(2, bool)

    def ask(y: Array, at: Array) -> Array:
        return in_form(process, form, y, denoise(y, at), at)

    def line(to: Array, places: tuple[Array, ...], values: tuple[Array, ...]) -> Array:
        nodes = jnp.stack([half_log_snr(process, place) for place in places])
        weights = integral_weights(process, form, "log-snr", t, to, nodes, all_used[: len(places)])
        return transfer(process, form, x, t, to, weights, jnp.stack(values))

    if order == 2:
        middle = time_between(process, t, s, 0.5)
        there = ask(line(middle, (t,), (value,)), middle)
        return line(s, (t,), (there,)), middle, there
    first, second = time_between(process, t, s, 1 / 3), time_between(process, t, s, 2 / 3)
    third = ask(line(first, (t,), (value,)), first)
    there = ask(line(second, (t, first), (value, third)), second)
    return line(s, (t, second), (value, there)), second, there


History = tuple[Float[Array, " q"], Float[Array, "q b *event"], Int[Array, ""]]
"""(The nodes of the last predictions, the predictions, how many there have been), the newest first."""


def last_values(shape: tuple[int, ...], count: int, dtype: Any) -> History:
    """A history with no prediction yet, and room for `count`."""
    return jnp.zeros(count, dtype), jnp.zeros((count, *shape), dtype), jnp.zeros((), jnp.int32)


def remember(history: History, place: Array, value: Array, keep: Array) -> History:
    """The history with one more prediction in front, unless `keep` is false."""
    places, values, count = history
    if places.shape[0] == 0:
        return history
    pushed_places = jnp.concatenate([place[None].astype(places.dtype), places[:-1]])
    pushed_values = jnp.concatenate([value[None], values[:-1]])
    return (
        jnp.where(keep, pushed_places, places),
        jnp.where(keep, pushed_values, values),
        count + keep.astype(count.dtype),
    )
