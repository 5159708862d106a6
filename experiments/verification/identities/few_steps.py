"""Rows 48, N8 and 49: average velocities, what MeanFlow's loss is fitted to, and shortcuts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import Process
from diffusion.flow_maps import exact_flow_map, meanflow_loss, shortcut_loss, velocity_from_map
from experiments.verification import pairs
from experiments.verification.closed_forms import STEPS, levels, shared
from experiments.verification.registry import Measured, OffBy, Setting, Within, identity, relative, worst_of

TOPICS = ("few-steps",)

_MEANFLOW = "Geng et al. 2025, arXiv:2505.13447"


def _average(process: Process, x: jax.Array, t: Any, s: Any) -> jax.Array:
    """The exact average velocity of the law."""
    return velocity_from_map(x, exact_flow_map(pairs.law(), process)(x, t, s), t, s)


def _kappa(name: str, t: float, s: float) -> float:
    """(t − s) ∂_x u = 1 − √(V_s/V_t)."""
    return float(1 - np.sqrt(pairs.variance(name, s) / pairs.variance(name, t)))


def _size(name: str, t: float, s: float) -> float:
    """E|u(x_t, t, s)|²."""
    return float(pairs.variance(name, t)) * (_kappa(name, t, s) / (t - s)) ** 2


def _spread(name: str, t: float) -> float:
    """Var(v|x_t) of v = α' x_0 + σ' z: (α' σ − σ' α)² S²/V."""
    at = levels(name, t)
    return float((at.alpha_dot * at.sigma - at.sigma_dot * at.alpha) ** 2 * pairs.STD**2 / pairs.variance(name, t))


@jax.jit
def _mean_rate(process: Process, x: Any, t: Any, s: Any) -> tuple[jax.Array, jax.Array]:
    """(u, v − (t − s)(v ∂_x u + ∂_t u)) by automatic differentiation of the exact map."""
    at_t = jnp.broadcast_to(t, x.shape[:1])
    v = jax.jvp(lambda r: exact_flow_map(pairs.law(), process)(x, at_t, r), (at_t,), (jnp.ones_like(at_t),))[1]
    value, rate = jax.jvp(lambda y, r: _average(process, y, r, s), (x, at_t), (v, jnp.ones_like(at_t)))
    return value, v - (t - s) * rate


@identity(
    row="48a",
    title="The average velocity is the velocity less its own change along the flow",
    latex=r"u(x,t,s) = v - (t-s)\,(v\cdot\partial_x u + \partial_t u),\quad u = \frac{x-\Phi_{t\to s}(x)}{t-s} = "
    r"\frac{x}{t-s}(1-\sqrt{V_s/V_t})",
    compared="both sides with the closed form, for N(0, ¼) on four schedules",
    oracle="α and σ in closed form, in NumPy's float64",
    source=f"{_MEANFLOW}, eq. 6; Su 2025, the post on MeanFlow",
    bound=Within(1e-12, "a derivative of a closed form", roundoffs=200),
    functions=(exact_flow_map, velocity_from_map),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _meanflow_identity(setting: Setting) -> Measured:
    del setting
    x, found = np.linspace(-2, 2, 5)[:, None], {}
    for name in pairs.SCHEDULES:
        _, s, t = STEPS[name]
        exact = x * _kappa(name, t, s) / (t - s)
        for what, value in zip(("u", "the right side"), _mean_rate(shared(name), x, t, s), strict=True):
            found[f"{what}, {name}"] = relative(value, exact)
    return worst_of(found)


def _meanflow_slope(process: Process, t: Any, s: Any, stopped: bool) -> jax.Array:
    rule = pairs.rule()
    x_0, z = jnp.asarray(rule.x_0), jnp.asarray(rule.z)

    def loss(change: jax.Array) -> jax.Array:
        average = Partial(lambda x, time, to: (1 + change) * _average(process, x, time, to))
        return rule.mean(meanflow_loss(process, average, x_0, z, t, s, stopped=stopped))

    return jax.grad(loss)(jnp.zeros(()))


_meanflow_slope = jax.jit(_meanflow_slope, static_argnames="stopped")


@identity(
    row="48b",
    title="MeanFlow's regression on the velocity of a pair has the average velocity as its fixed point",
    latex=r"\partial_\theta\,\mathbb{E}|u_\theta - [\dot\alpha x_0 + \dot\sigma z - (t-s)(\cdot)]_{\mathrm{sg}}|^2 = 0"
    r"\ \mathrm{at}\ u_\theta = u",
    compared="the slope of the loss at the exact u of N(0, ¼), for a relative change of u, with 0, on four schedules, "
    "in units of the mean square of u",
    oracle="expectations over x_0 and z by a Gauss-Hermite rule, which is exact for these polynomials",
    source=f"{_MEANFLOW}, eq. 9 to 11",
    bound=Within(1e-12, "25 nodes and a derivative of a closed form", roundoffs=400),
    functions=(meanflow_loss,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _meanflow_stopped(setting: Setting) -> Measured:
    del setting
    found = {}
    for name in pairs.SCHEDULES:
        _, s, t = STEPS[name]
        found[name] = abs(float(_meanflow_slope(shared(name), t, s, True))) / _size(name, t, s)
    return worst_of(found)


@identity(
    row="N8",
    title="False: MeanFlow needs no stopped gradient",
    latex=r"\partial_\theta\,\mathbb{E}|u_\theta - \dot\alpha x_0 - \dot\sigma z + (t-s)(\cdot)|^2 = "
    r"2\,\mathrm{Var}(v|x_t)\,\kappa\,(\kappa-1)\neq 0,\quad \kappa = (t-s)\,\partial_x u",
    compared="the slope of the loss with gradients through its target, at the exact u of N(0, ¼) under RectifiedFlow "
    "from t = 0.6 to s = 0.3, with 0",
    oracle="the closed form on the right, which must hold to rounding, or this fails",
    source=f"{_MEANFLOW}, section 4.1, say that the gradient is stopped; Su 2025, the post on MeanFlow, why",
    bound=OffBy(0.05, "the pair's velocity enters twice, and its variance stays in the slope"),
    functions=(meanflow_loss,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _meanflow_needs_no_stop(setting: Setting) -> Measured:
    _, s, t = STEPS["RectifiedFlow"]
    slope, kappa = float(_meanflow_slope(shared("RectifiedFlow"), t, s, False)), _kappa("RectifiedFlow", t, s)
    exact = 2 * _spread("RectifiedFlow", t) * kappa * (kappa - 1)
    held = abs(slope / exact - 1) < (1e-4 if setting.precision == "float32" else 1e-9)
    return Measured(abs(slope) if held else float("nan"), f"the slope is {slope:.4f}, and {exact:.4f} in closed form")


def _shortcut(process: Process, t: Any, s: Any) -> jax.Array:
    """The loss of the exact u."""
    rule = pairs.rule()
    x_0, z = jnp.asarray(rule.x_0), jnp.asarray(rule.z)
    exact = Partial(lambda x, time, to: _average(process, x, time, to))
    return rule.mean(shortcut_loss(process, exact, x_0, z, t, s))


_shortcut = jax.jit(_shortcut)


@identity(
    row="49",
    title="A shortcut is the mean of two half as long",
    latex=r"u(x,t,s) = \frac{1}{2}[u(x,t,m) + u(\Phi_{t\to m}(x),m,s)],\quad m = \frac{t+s}{2}",
    compared="the root of the shortcut loss of the exact u of N(0, ¼), over that of its mean square, on four schedules",
    oracle="the closed form of the map",
    source="Frans et al. 2025, arXiv:2410.12557, eq. 4; Su 2025, the post on shortcut models",
    bound=Within(1e-12, "two strides for one", roundoffs=200),
    functions=(shortcut_loss,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _shortcut_identity(setting: Setting) -> Measured:
    del setting
    found = {}
    for name in pairs.SCHEDULES:
        _, s, t = STEPS[name]
        found[name] = float(np.sqrt(np.asarray(_shortcut(shared(name), t, s)) / _size(name, t, s)))
    return worst_of(found)
