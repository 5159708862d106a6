"""Rows 21, 25 and 26: conservation of mass, moments in closed form, and a solver of the equation on a grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from diffusion import Process, reverse_sde
from diffusion.dynamics import forward_sde
from diffusion.fokker_planck import (
    FokkerPlanck,
    box_flux,
    centres,
    forward_equation,
    linear_moments,
    mass,
    probability_flux,
    solve,
    sphere_flux,
)
from diffusion.oracles import GaussianLaw
from diffusion.prediction import Denoiser
from experiments.verification.laws import PROCESSES, alpha_and_sigma, chosen, line, mixture, over_processes
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves, FlowLines

TOPICS = ("fokker-planck",)

_MEAN, _COVARIANCE = np.asarray([0.7, -0.4]), np.asarray([[0.5, 0.2], [0.2, 0.3]])


def _moments_of(process, t) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance of p_t for data N(_MEAN, _COVARIANCE)."""
    alpha, sigma = alpha_and_sigma(process, t)
    return alpha * _MEAN, alpha**2 * _COVARIANCE + sigma**2 * np.eye(2)


@identity(
    row="21a",
    title="The reverse SDEs end at the data",
    latex=r"x_T\sim p_T\quad\Rightarrow\quad x_t\sim p_t\quad\mathrm{for}\ "
    r"dx = [f x - \frac{1}{2}(g^2+\tilde\sigma^2)\nabla\ln p_t]\,dt + \tilde\sigma\,d\bar w",
    compared="mean and covariance of the SDE run backwards from p_T with those of p_t, at σ̃/g of 0, ½, 1 and 1.7",
    oracle="Gaussian data in the plane, for which the SDE is linear and its moments obey an ODE",
    source="Song et al. 2021, arXiv:2011.13456, eq. 6; Anderson 1982",
    bound=Within(1e-8, "the error of a sixth-order integration of the moments over 176 steps", roundoffs=2e4),
    functions=(reverse_sde, linear_moments),
    answers=True,
    test="tests/diffusion/fokker_planck/test_moments.py",
)
def _reverse_terminal_law(setting: Setting) -> Measured:
    law, found = GaussianLaw.full(_MEAN, _COVARIANCE), {}
    for name, span in {"VP": (1.0, 0.05), "RectifiedFlow": (0.95, 0.05)}.items():
        process = chosen(name)
        times = np.geomspace(*span, 12)
        denoise = setting.answered(law.denoiser(process))
        for level in (0.0, 0.5, 1.0, 1.7):
            ends = _reversed(process, denoise, level, _moments_of(process, span[0]), times)
            exact = _moments_of(process, span[1])
            found[f"{name} at {level:g} g"] = largest(relative(*pair) for pair in zip(ends, exact, strict=True))
    return worst_of(found)


@jax.jit
def _reversed(process: Process, denoise: Denoiser, level: float, start: tuple[Any, Any], times: jax.Array):
    """Mean and covariance at the last of the times, from those at the first."""
    sde = reverse_sde(process, denoise, level)
    drift, offset = Partial(_slope, sde.drift), Partial(_at_origin, sde.drift)
    found = linear_moments(drift, sde.diffusion, *start, times, offset=offset, steps=16)
    return found.means[-1], found.covariances[-1]


def _at_origin(drift, t: jax.Array) -> jax.Array:
    return drift(jnp.zeros((1, 2), t.dtype), t)[0]


def _slope(drift, t: jax.Array) -> jax.Array:
    """The matrix of a drift that is affine in x, from differences, as a rounded answer has no derivative."""
    points = jnp.concatenate([jnp.zeros((1, 2), t.dtype), jnp.eye(2, dtype=t.dtype)])
    values = jax.vmap(lambda x: drift(x[None], t)[0])(points)
    return (values[1:] - values[0]).T


@identity(
    row="25a",
    title="Mass leaves a box through its surface only",
    latex=r"\frac{d}{dt}\int_B p_t\,dx = -\oint_{\partial B} J\cdot n\,dA,\quad J = f\,p_t - D\nabla p_t",
    compared="the derivative of the mass in a box with minus the flux through its four sides, on five processes",
    oracle="a mixture in the plane, by Gauss-Legendre quadrature",
    source="Gauss's theorem on the Fokker-Planck equation; Risken 1989, eq. 4.46",
    bound=Within(1e-9, "quadrature with 40 nodes along each side", roundoffs=30),
    functions=(mass, box_flux, probability_flux),
)
def _mass_balance(setting: Setting) -> Measured:
    law, low, high = mixture(2), [-0.8, -0.5], [1.1, 1.4]

    @jax.jit
    def change_and_flux(process: Process, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        def density(x: jax.Array, u: ArrayLike) -> jax.Array:
            return jnp.exp(law.log_prob(process, x, u))

        flux = probability_flux(forward_equation(process), density)
        change = jax.jvp(lambda u: mass(lambda x: density(x, u), low, high, 40), (t,), (jnp.ones_like(t),))[1]
        return change, box_flux(lambda x: flux(x, t), low, high, 40)

    def imbalance(process: Process, t: float) -> float:
        change, outward = change_and_flux(process, jnp.asarray(t))
        return abs(float(change) + float(outward))

    return worst_of(over_processes(imbalance))


@identity(
    row="25b",
    title="A stationary current crosses no closed surface",
    latex=r"\partial_t p = 0\quad\Rightarrow\quad \oint J\cdot n\,dA = 0",
    compared="the flux of the stationary current through a box and a circle off the centre with 0; a half circle's, "
    "which is open, is not 0",
    oracle="dx = (−x + ω R x) dt + √2 dw, R a quarter turn, whose stationary law is N(0, I) with the current ω R x p",
    source="Risken 1989, section 6.2",
    bound=Within(1e-9, "quadrature with 40 nodes", roundoffs=100),
    functions=(box_flux, sphere_flux),
)
def _closed_surfaces(setting: Setting) -> Measured:
    turn = jnp.asarray([[0.0, 1.5], [-1.5, 0.0]])
    equation = FokkerPlanck(lambda x, t: -x + x @ turn, lambda x, t: jnp.sqrt(2.0) * jnp.ones((), x.dtype))
    density = lambda x, t: jnp.exp(-0.5 * jnp.sum(x**2, axis=-1)) / (2 * jnp.pi)  # noqa: E731
    current = probability_flux(equation, density)
    x = np.linspace(-2.5, 2.5, 41)
    points = jnp.asarray(np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2))

    @jax.jit
    def all_of_it() -> tuple[jax.Array, ...]:
        field = lambda x: current(x, 0.0)  # noqa: E731
        closed = (box_flux(field, [-0.3, 0.1], [1.2, 0.9], 40), sphere_flux(field, [0.4, 0.3], 0.8, 40))
        half = sphere_flux(field, [0.4, 0.3], 0.8, 40, axis=1)
        return jnp.stack(closed), half, field(points), density(points, 0.0)

    closed, half, velocities, densities = map(np.asarray, all_of_it())
    if abs(half) < 0.01:
        return Measured(float("nan"), f"the open half circle's flux is {abs(half):.1e}")
    u, v = velocities.T.reshape(2, 41, 41)
    plot = FlowLines(x, x, u, v, densities.reshape(41, 41), "x", "y")
    return Measured(largest(np.abs(closed)), f"a half circle's is {abs(half):.2g}", plot)


@identity(
    row="26a",
    title="Moments of the forward SDE",
    latex=r"\dot m = F m,\quad \dot\Sigma = F\Sigma + \Sigma F^T + g^2 I",
    compared="mean and covariance, integrated from those of the data, with α m_0 and α² Σ_0 + σ² I at 12 times, on "
    "five processes",
    oracle="Gaussian data in the plane under x_t = α x_0 + σ z",
    source="Särkkä & Solin 2019, section 6.1",
    bound=Within(1e-9, "the error of a sixth-order integration, 1e-12 by its own estimate", roundoffs=300),
    functions=(linear_moments, forward_sde),
)
def _linear_moments(setting: Setting) -> Measured:
    @jax.jit
    def moments(process: Process, start: tuple[Any, Any], times: np.ndarray) -> tuple[jax.Array, jax.Array]:
        drift, variance = process.schedule.drift, process.schedule.diffusion_squared
        found = linear_moments(drift, lambda u: jnp.sqrt(variance(u)), *start, times, steps=12)
        return found.means, found.covariances

    def error(process: Process, t: float) -> float:
        times = np.geomspace(0.02 * t, 2 * t, 12)
        exact = [_moments_of(process, time) for time in times]
        means, covariances = (np.stack(part) for part in zip(*exact, strict=True))
        found = moments(process, exact[0], times)
        return largest(relative(found[0], means), relative(found[1], covariances))

    return worst_of(over_processes(error))


@identity(
    row="26b",
    title="The equation solved on a grid, without samples or scores",
    latex=r"\frac{p_i^{n+1}-p_i^n}{\Delta t} = \frac{J_{i-1/2}-J_{i+1/2}}{\Delta x},\quad p\geq 0",
    compared="the observed order in Δx and Δt with 2, from 64, 128 and 256 cells; VP from t = 0.02 to 0.4",
    oracle="two Gaussians on the line",
    source="Scharfetter & Gummel 1969; Chang & Cooper 1970; Burchard et al. 2003",
    bound=Within(0.15, "the asymptote is reached to a tenth on these grids"),
    functions=(solve,),
)
def _grid_solver(setting: Setting) -> Measured:
    process, law, errors = PROCESSES["VP"][0], line(), []
    times, cells = np.asarray([0.02, 0.4]), (64, 128, 256)

    @jax.jit
    def centres_and_logs(edges: jax.Array) -> tuple[jax.Array, jax.Array]:
        points = centres(edges)
        return points, jnp.stack([law.log_prob(process, points, t) for t in times])

    lines: dict[str, np.ndarray] = {}
    x = np.zeros(0)
    for count in cells:
        edges = np.linspace(-5, 5, count + 1)
        points, logs = map(np.asarray, centres_and_logs(edges))
        start, exact = np.exp(logs)
        marched = jax.jit(
            lambda p, edges=edges, n=2 * count: solve(forward_equation(process), p, edges, times, steps=n)
        )
        found = marched(start / (start.sum() * 10 / count))
        densities, whole = np.asarray(found.densities), np.asarray(found.mass)
        errors.append(float(np.sqrt(np.mean((densities[-1] - exact) ** 2))))
        lost = abs(float(whole[-1] - whole[0]))
        if not (np.all(densities >= 0) and lost < (1e-12 if setting.precision == "float64" else 1e-5)):
            return Measured(float("nan"), "the density is negative, or mass is lost")
        if count == cells[0]:
            x, lines = points[:, 0], {"exact": exact, f"{count} cells": densities[-1]}
    orders = -np.diff(np.log2(errors))
    plot = Curves(x, lines, "x", "p at t = 0.4")
    shown = ", ".join(f"{order:.3f}" for order in orders)
    return Measured(abs(float(orders[-1]) - 2), f"orders {shown}; error {errors[-1]:.1e} with 256 cells", plot)
