"""Rows 19f and 20c: the Fokker-Planck equation with matrix-valued diffusion that varies in space."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike

from diffusion.fokker_planck import (
    Cosines,
    FokkerPlanck,
    density_residual,
    generator,
    gradient,
    log_density_residual,
    probability_velocity,
    score_residual,
)
from diffusion.fokker_planck.equation import LogDensity
from experiments.verification.registry import Measured, Setting, Within, identity, relative, worst_of
from experiments.verification.report.plots import FlowLines

TOPICS = ("fokker-planck",)

_ORACLE = (
    "an Ornstein-Uhlenbeck process in the plane, whose Gaussian law is that of Lyapunov's equation; two geometric "
    "Brownian motions, lognormal; (w₁, w₂ + ½w₁²) for a Brownian motion w; on the line, with noise √(1 + x²), a "
    "stationary Student-t law"
)
_TIME = 0.8
_MEAN, _START = np.asarray([1.0, -0.6]), np.asarray([[0.5, 0.2], [0.2, 0.3]])
_PULL = np.asarray([[-1.0, 0.8], [-0.5, -0.7]])
_RATES, _SIZES = np.asarray([0.3, -0.2]), np.asarray([0.3, 0.5])
_BACK, _NOISE = 1.5, 0.6
"""The two numbers of dx = −1.5 x dt + 0.6 √(1 + x²) dw."""


@dataclass(frozen=True)
class Case:
    """An equation and a law that solves it."""

    equation: FokkerPlanck
    log_density: LogDensity
    points: Callable[[Array, ArrayLike], Array]
    """The function (ξ (n, d), t) -> points that have the law at t if ξ ~ N(0, I)."""
    dim: int = 2


def _ornstein_uhlenbeck(spread: np.ndarray) -> Case:
    """dx = F x dt + G dw from N(m, S): mean e^{Ft} m, covariance Σ + e^{Ft}(S − Σ)e^{Fᵀt}, FΣ + ΣFᵀ = −GGᵀ.

    `spread` is G, of shape (2,) if it is diagonal.
    """
    G = np.diag(spread) if spread.ndim == 1 else spread
    both = np.kron(_PULL, np.eye(2)) + np.kron(np.eye(2), _PULL)
    stationary = np.linalg.solve(both, -(G @ G.T).ravel()).reshape(2, 2)

    middle = np.trace(_PULL) / 2
    turn = float(np.sqrt(np.linalg.det(_PULL) - middle**2))  # the eigenvalues are middle ± i turn
    rest = (_PULL - middle * np.eye(2)) / turn

    def moments(t: ArrayLike) -> tuple[Array, Array]:
        flow = jnp.exp(middle * t) * (jnp.cos(turn * t) * jnp.eye(2) + jnp.sin(turn * t) * rest)  # e^{Ft}
        return _dot(flow, jnp.asarray(_MEAN)), jnp.asarray(stationary) + _dot(
            _dot(flow, jnp.asarray(_START - stationary)), flow.T
        )

    def log_density(x: Array, t: ArrayLike) -> Array:
        mean, C = moments(t)
        y, determinant = x - mean, C[0, 0] * C[1, 1] - C[0, 1] ** 2
        square = C[1, 1] * y[:, 0] ** 2 - 2 * C[0, 1] * y[:, 0] * y[:, 1] + C[0, 0] * y[:, 1] ** 2
        return -0.5 * (square / determinant + jnp.log(determinant)) - np.log(2 * np.pi)

    def points(xi: Array, t: ArrayLike) -> Array:
        mean, C = moments(t)
        first = jnp.sqrt(C[0, 0]) * xi[:, 0]
        second = C[0, 1] / C[0, 0] * first + jnp.sqrt(C[1, 1] - C[0, 1] ** 2 / C[0, 0]) * xi[:, 1]
        return mean + jnp.stack([first, second], axis=1)

    drift = lambda x, t: _dot(x, jnp.asarray(_PULL.T))  # noqa: E731
    return Case(
        FokkerPlanck(drift, lambda x, t: jnp.broadcast_to(jnp.asarray(spread), (len(x), *spread.shape))),
        log_density,
        points,
    )


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _geometric() -> Case:
    """dx = a x dt + b x dw from x = 1, with another a and b in each coordinate."""
    middle = _RATES - _SIZES**2 / 2

    def log_density(x: Array, t: ArrayLike) -> Array:
        log = jnp.log(x)
        return jnp.sum(norm.logpdf(log, middle * t, _SIZES * jnp.sqrt(jnp.asarray(t))) - log, axis=-1)

    equation = FokkerPlanck(lambda x, t: x * _RATES, lambda x, t: x * _SIZES, uniform=False)
    return Case(equation, log_density, lambda xi, t: jnp.exp(middle * t + _SIZES * jnp.sqrt(jnp.asarray(t)) * xi))


def _sheared() -> Case:
    """x = (w_1, w_2 + w_1²/2): dx = (0, ½) dt + [[1, 0], [x_1, 1]] dw."""

    def log_density(x: Array, t: ArrayLike) -> Array:
        root = jnp.sqrt(jnp.asarray(t))
        return norm.logpdf(x[:, 0], 0, root) + norm.logpdf(x[:, 1] - x[:, 0] ** 2 / 2, 0, root)

    def spread(x: Array, t: ArrayLike) -> Array:
        del t
        return jnp.zeros((len(x), 2, 2), x.dtype).at[:, 0, 0].set(1).at[:, 1, 1].set(1).at[:, 1, 0].set(x[:, 0])

    def points(xi: Array, t: ArrayLike) -> Array:
        w = jnp.sqrt(jnp.asarray(t)) * xi
        return w.at[:, 1].add(w[:, 0] ** 2 / 2)

    drift = lambda x, t: jnp.broadcast_to(jnp.asarray([0.0, 0.5], x.dtype), x.shape)  # noqa: E731
    return Case(FokkerPlanck(drift, spread, uniform=False), log_density, points)


def _pearson() -> Case:
    """dx = −a x dt + b √(1 + x²) dw keeps p ∝ (1 + x²)^{−ν−½}, ν = ½ + a/b²: f p = ½ (b² (1 + x²) p)', no current."""
    power = 1 + _BACK / _NOISE**2
    log_total = 0.5 * math.log(math.pi) + math.lgamma(power - 0.5) - math.lgamma(power)

    def log_density(x: Array, t: ArrayLike) -> Array:
        return -power * jnp.log1p(x[:, 0] ** 2) - log_total + 0 * jnp.asarray(t)

    equation = FokkerPlanck(lambda x, t: -_BACK * x, lambda x, t: _NOISE * jnp.sqrt(1 + x[:, 0] ** 2), uniform=False)
    return Case(equation, log_density, lambda xi, t: jnp.sinh(0.5 * xi) + 0 * jnp.asarray(t), dim=1)


def _cases() -> dict[str, Case]:
    return {
        "diagonal G": _ornstein_uhlenbeck(np.asarray([0.9, 0.4])),
        "full G": _ornstein_uhlenbeck(np.asarray([[0.9, 0.0], [0.5, 0.4]])),
        "diagonal G(x)": _geometric(),
        "full G(x)": _sheared(),
        "scalar G(x)": _pearson(),
    }


@identity(
    row="19f",
    title="Diffusions that are matrices and depend on the state",
    latex=r"\partial_t p = -\nabla\cdot(f\,p) + \sum_{ij}\partial_i\partial_j(D_{ij}\,p),\quad "
    r"D(x)=\frac{1}{2}G(x)G(x)^T,\quad v = f - \nabla\cdot D - D\nabla\ln p",
    compared="the residuals of density (over p), log-density and score with 0 at 16 points of the law; the picture is "
    "the velocity v in the law of (w₁, w₂ + ½w₁²)",
    oracle=_ORACLE,
    source="Risken 1989, eq. 4.95; Särkkä & Solin 2019, section 6.1; Wong 1964",
    bound=Within(1e-10, "closed forms differentiated automatically: what is left is rounding", roundoffs=2000),
    functions=(density_residual, log_density_residual, score_residual, FokkerPlanck),
)
def _general_diffusion(setting: Setting) -> Measured:
    found = {}
    for name, case in _cases().items():

        @jax.jit
        def all_three(key: Array, t: Array, case: Case = case) -> dict[str, Array]:
            xi = jax.random.normal(key, (16, case.dim))
            x, density = case.points(xi, t), lambda y, u: jnp.exp(case.log_density(y, u))
            return {
                "density": density_residual(case.equation, density, x, t).value / density(x, t),
                "log-density": log_density_residual(case.equation, case.log_density, x, t).value,
                "score": score_residual(case.equation, gradient(case.log_density), x, t).value,
            }

        for form, residual in all_three(setting.key(0), jnp.asarray(_TIME)).items():
            found[f"{form}, {name}"] = float(np.max(np.abs(residual)))
    return worst_of(found, _banana())


def _banana() -> FlowLines:
    case, x, y = _sheared(), np.linspace(-2.5, 2.5, 41), np.linspace(-2.0, 3.0, 41)
    points, t = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)), jnp.asarray(_TIME)
    flow = probability_velocity(case.equation, gradient(case.log_density))
    both = jax.jit(lambda points, t: (flow(points, t), jnp.exp(case.log_density(points, t))))
    velocity, density = map(np.asarray, both(points, t))
    u, v = velocity.T.reshape(2, 41, 41)
    return FlowLines(x, y, u, v, density.reshape(41, 41), "x₁", "x₂")


@identity(
    row="20c",
    title="Matrix-valued diffusions by test functions, without sampling",
    latex=r"\frac{d}{dt}\,\mathbb{E}\cos(k\cdot x_t+c) = \mathbb{E}[f\cdot\nabla\varphi + D(x):\nabla\nabla\varphi],"
    r"\quad\varphi(x) = \cos(k\cdot x+c)",
    compared="both sides for six cosines, by quadrature with 65 nodes along each of two standard normals, "
    "where the left side of the stationary law is 0",
    oracle=_ORACLE,
    source="Risken 1989, section 4.7; Øksendal 2003, theorem 7.3.3",
    bound=Within(1e-9, "the trapezoidal rule in the normals, or in asinh x, exact here to rounding", roundoffs=2000),
    functions=(generator, Cosines),
)
def _weak_form_general(setting: Setting) -> Measured:
    found = {}
    for name, case in _cases().items():
        left, right = _both_sides(case, setting.key(2))
        found[name] = relative(left, right) if case.dim == 2 else float(np.max(np.abs(right)))
    return worst_of(found)


def _both_sides(case: Case, key: Array) -> tuple[Array, Array]:
    """d/dt E φ and E Lφ; on the line by the trapezoidal rule in asinh x, weighted by the density."""
    return jax.jit(functools.partial(_on_the_line if case.dim == 1 else _in_the_plane, case))(key, jnp.asarray(_TIME))


def _on_the_line(case: Case, key: Array, t: Array) -> tuple[Array, Array]:
    functions, s = Cosines.random(key, 6, 1, 0.6), jnp.asarray(np.linspace(-16.0, 16.0, 641)[:, None])
    x = jnp.sinh(s)
    weights = 0.05 * jnp.exp(case.log_density(x, t)) * jnp.cosh(s[:, 0])
    return jnp.zeros(6), _dot(weights, generator(case.equation, functions, x, t))


def _in_the_plane(case: Case, key: Array, t: Array) -> tuple[Array, Array]:
    functions = Cosines.random(key, 6, 2, 0.6)
    nodes = np.linspace(-8.0, 8.0, 65)
    masses = np.exp(-0.5 * nodes**2)
    xi = jnp.asarray(np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2))
    weights = jnp.asarray(np.outer(masses, masses).ravel() / masses.sum() ** 2)
    left = jax.jvp(lambda u: _dot(weights, functions(case.points(xi, u))), (t,), (jnp.ones_like(t),))[1]
    return left, _dot(weights, generator(case.equation, functions, case.points(xi, t), t))
