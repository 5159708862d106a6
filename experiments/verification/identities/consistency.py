"""Row 50: what consistency models are fitted to, level by level and in continuous time."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import Process
from diffusion.flow_maps import consistency_loss, exact_flow_map, tangent_loss
from experiments.verification import pairs
from experiments.verification.closed_forms import STEPS, levels, shared
from experiments.verification.registry import Measured, Setting, Within, identity, relative, worst_of
from experiments.verification.report.plots import Curves

TOPICS = ("few-steps",)


def _consistency_slope(process: Process, t: Any, s: Any, before: Any, taught: bool) -> jax.Array:
    """The factor c of the f(x, t) = c x that minimises the loss, where f(x, s) = `before` x: a quadratic in c."""
    rule = pairs.rule()
    x_0, z = jnp.asarray(rule.x_0), jnp.asarray(rule.z)
    teacher = exact_flow_map(pairs.law(), process) if taught else None

    def loss(factor: jax.Array) -> jax.Array:
        def consistency(x: jax.Array, time: Any) -> jax.Array:
            return jnp.where(time == t, factor, before) * x

        return rule.mean(consistency_loss(process, consistency, x_0, z, t, s, teacher=teacher))

    # The slope of a quadratic: that at 0 over how it grows.
    slope = jax.grad(loss)
    return slope(jnp.zeros(())) / (slope(jnp.zeros(())) - slope(jnp.ones(())))


_consistency_slope = jax.jit(_consistency_slope, static_argnames="taught")


def _fitted_std(name: str, grid: np.ndarray, taught: bool) -> float:
    """The standard deviation of f(x_1, 1) over that of the data, f fitted level by level on the times of a grid."""
    factor = 1.0
    for s, t in itertools.pairwise(grid):
        factor = float(_consistency_slope(shared(name), t, s, factor, taught))
    return factor * float(np.sqrt(pairs.variance(name, grid[-1]))) / pairs.STD


_COUNTS = (4, 8, 16, 64)


@identity(
    row="50a",
    title="Consistency training on n levels shrinks a Gaussian by a product of cosines",
    latex=r"\frac{\mathrm{std}\,f(x_T,T)}{S} = \prod\frac{S^2\alpha_i\alpha_j + \sigma_i\sigma_j}{\sqrt{V_i V_j}},"
    r"\quad V = S^2\alpha^2 + \sigma^2",
    compared="the f of least loss, level by level on 4, 8, 16 and 64 even steps of RectifiedFlow, with the product: "
    "0.681, 0.830, 0.911 and 0.977 for N(0, ¼)",
    oracle="the product over neighbouring levels, in NumPy",
    source="Su 2024, the post on consistency models; Song et al. 2023, arXiv:2303.01469, theorem 2, for n to infinity",
    bound=Within(1e-11, "a quotient for each of up to 64 levels", roundoffs=2000),
    functions=(consistency_loss,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _consistency_shrinks(setting: Setting) -> Measured:
    del setting
    found, products, fits = {}, [], []
    for n in _COUNTS:
        grid = np.linspace(0, 1, n + 1)
        at, variances = levels("RectifiedFlow", grid), pairs.variance("RectifiedFlow", grid)
        shared_part = pairs.STD**2 * at.alpha[1:] * at.alpha[:-1] + at.sigma[1:] * at.sigma[:-1]
        products.append(float(np.prod(shared_part / np.sqrt(variances[1:] * variances[:-1]))))
        fits.append(_fitted_std("RectifiedFlow", grid, taught=False))
        found[f"{n} levels"] = relative(fits[-1], products[-1])
    lines = {"product of cosines": np.asarray(products), "fitted": np.asarray(fits)}
    return worst_of(found, Curves(np.asarray(_COUNTS, float), lines, "levels", "std over that of the data"))


@identity(
    row="50b",
    title="Consistency distillation on n levels keeps the law",
    latex=r"f_n = \mathrm{argmin}\,\mathbb{E}|f(x_t,t) - f_{n-1}(\Phi_{t\to s}(x_t),s)|^2\quad\Rightarrow\quad "
    r"f_n(x_t,t)\sim p_0",
    compared="the standard deviation of the f of least loss, level by level on 4 and 16 even steps of RectifiedFlow, "
    "with that of the data, N(0, ¼)",
    oracle="the standard deviation of the data",
    source="Song et al. 2023, arXiv:2303.01469, theorem 1",
    bound=Within(1e-11, "a quotient for each level", roundoffs=2000),
    functions=(consistency_loss, exact_flow_map),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _distillation_keeps(setting: Setting) -> Measured:
    del setting
    return worst_of({str(n): abs(_fitted_std("RectifiedFlow", np.linspace(0, 1, n + 1), True) - 1) for n in (4, 16)})


def _tangent_slope(process: Process, t: Any) -> tuple[jax.Array, jax.Array]:
    """The slope of the tangent loss at the exact f for a relative change of f, and the mean square of f."""
    rule = pairs.rule()
    x_0, z = jnp.asarray(rule.x_0), jnp.asarray(rule.z)
    phi = exact_flow_map(pairs.law(), process)

    def loss(change: jax.Array, at: jax.Array) -> jax.Array:
        # The tangent is that of the exact f, as if it had been stopped: `change` alone moves f.
        def consistency(x: jax.Array, time: Any) -> jax.Array:
            return (1 + change) * phi(x, time, jnp.zeros_like(time))

        return rule.mean(tangent_loss(process, consistency, x_0, z, at))

    return jax.grad(loss)(jnp.zeros(()), t), jnp.asarray(pairs.STD**2)


_tangent_slope = jax.jit(_tangent_slope)


@identity(
    row="50c",
    title="In continuous time consistency training has no bias",
    latex=r"\mathbb{E}\langle\partial_\theta f_\theta,\ v\cdot\partial_x f + \partial_t f\rangle = 0\ \mathrm{at\ the\ "
    r"exact}\ f,\quad v = \dot\alpha x_0 + \dot\sigma z",
    compared="the slope of the tangent loss at the exact f of N(0, ¼), with the velocity of a pair, with 0, on four "
    "schedules, in units of the variance of the data",
    oracle="expectations over x_0 and z by a Gauss-Hermite rule, which is exact for these polynomials",
    source="Song et al. 2023, arXiv:2303.01469, theorem 6; Lu & Song 2025, arXiv:2410.11081",
    bound=Within(1e-12, "25 nodes and a derivative of a closed form", roundoffs=400),
    functions=(tangent_loss,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _consistency_in_continuous_time(setting: Setting) -> Measured:
    del setting
    found = {}
    for name in pairs.SCHEDULES:
        slope, size = _tangent_slope(shared(name), STEPS[name][2])
        found[name] = abs(float(slope)) / float(size)
    return worst_of(found)
