"""Rows 19, 22 and 23: the equations by which densities and scores evolve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from diffusion import Process, score, velocity
from diffusion.dynamics import Drift, reverse_sde
from diffusion.fokker_planck import (
    FokkerPlanck,
    continuity_residual,
    density_residual,
    forward_equation,
    gradient,
    log_density_residual,
    probability_velocity,
    reverse_equation,
    score_residual,
)
from diffusion.likelihood import log_likelihood
from diffusion.likelihood.solvers import Adaptive
from diffusion.oracles.law import Law
from diffusion.prediction import Denoiser
from experiments.verification.laws import (
    PROCESSES,
    chosen,
    draws,
    gauss_legendre,
    line,
    log_density,
    mixture,
    over_processes,
)
from experiments.verification.registry import Measured, Setting, Within, identity, worst_of
from experiments.verification.report.plots import Curves, HeatMap

_ORACLE = "a mixture of three Gaussians, whose p_t and score are closed forms"
_ROUNDING = "a closed form differentiated automatically: what is left is rounding, about 1e-14 of terms of size 1"


def _points(setting: Setting, process: Process, t: float, count: int = 16) -> jax.Array:
    return draws(mixture(setting.dim), setting.key(0), process, count, t)


@jax.jit
def _log_density_residual(equation: FokkerPlanck, ln_p: Partial, x: jax.Array, t: jax.Array) -> jax.Array:
    return log_density_residual(equation, ln_p, x, t).value


@jax.jit
def _score_residual(equation: FokkerPlanck, s: Partial, x: jax.Array, t: jax.Array) -> jax.Array:
    return score_residual(equation, s, x, t).value


@jax.jit
def _continuity_residual(flow: Partial, ln_p: Partial, x: jax.Array, t: jax.Array) -> jax.Array:
    return continuity_residual(flow, ln_p, x, t).value


@jax.jit
def _relative_density_residual(equation: FokkerPlanck, ln_p: Partial, x: jax.Array, t: jax.Array) -> jax.Array:
    def density(y: jax.Array, u: ArrayLike) -> jax.Array:
        return jnp.exp(ln_p(y, u))

    return density_residual(equation, density, x, t).value / density(x, t)


def _size(residual: jax.Array) -> float:
    return float(np.max(np.abs(residual)))


@identity(
    row="19a",
    title="The Fokker-Planck equation of the density",
    latex=r"\partial_t p_t = -\nabla\cdot(f\,p_t) + \sum_{ij}\partial_i\partial_j(D_{ij}\,p_t),\quad D=\frac{1}{2}GG^T",
    compared="both sides at 16 draws of p_t, for VP, SubVP, VE, EDM and RectifiedFlow, over p_t",
    oracle=_ORACLE,
    source="Fokker 1914; Planck 1917; Risken 1989, eq. 4.95",
    bound=Within(1e-10, _ROUNDING, roundoffs=1500),
    functions=(density_residual, forward_equation),
)
def _fokker_planck_density(setting: Setting) -> Measured:
    def residual(process: Process, t: float) -> float:
        ln_p, x = log_density(mixture(setting.dim), process), _points(setting, process, t)
        return _size(_relative_density_residual(forward_equation(process), ln_p, x, t))

    return worst_of(over_processes(residual))


@identity(
    row="19b",
    title="The Fokker-Planck equation of the log-density, which is a continuity equation",
    latex=r"\partial_t \ln p_t + \nabla\cdot v + v\cdot\nabla\ln p_t = 0,\quad v = f - \nabla\cdot D - D\nabla\ln p_t",
    compared="the left side with 0 at 16 draws of p_t, for five processes; the map is that of VP on the line",
    oracle=_ORACLE,
    source="Song et al. 2021, arXiv:2011.13456, appendix D.1",
    bound=Within(1e-10, _ROUNDING, roundoffs=1000),
    functions=(log_density_residual, probability_velocity),
)
def _fokker_planck_log_density(setting: Setting) -> Measured:
    def residual(process: Process, t: float) -> float:
        ln_p, x = log_density(mixture(setting.dim), process), _points(setting, process, t)
        return _size(_log_density_residual(forward_equation(process), ln_p, x, t))

    return worst_of(over_processes(residual), _map_over_space_and_time())


def _map_over_space_and_time() -> HeatMap:
    process = PROCESSES["VP"][0]
    x, t = np.linspace(-4, 4, 81), np.linspace(0.05, 1.0, 39)
    points = jnp.asarray(np.tile(x[:, None], (len(t), 1)))
    times = jnp.asarray(np.repeat(t, len(x)))
    residual = _log_density_residual(forward_equation(process), log_density(line(), process), points, times)
    return HeatMap(x, t, np.asarray(residual).reshape(len(t), len(x)), "x", "t", "|residual|", log=True)


@identity(
    row="19c",
    title="The score Fokker-Planck equation",
    latex=r"\partial_t s + \nabla(\nabla\cdot v + v\cdot s) = 0,\quad v = f - \nabla\cdot D - D\,s",
    compared="the left side with 0 at 16 draws of p_t, for five processes, s from the exact denoiser",
    oracle=_ORACLE,
    source="Lai et al. 2023, arXiv:2210.04296, eq. 8",
    bound=Within(1e-10, _ROUNDING, roundoffs=10000),
    functions=(score_residual, score),
)
def _fokker_planck_score(setting: Setting) -> Measured:
    def residual(process: Process, t: float) -> float:
        s, x = score(process, mixture(setting.dim).denoiser(process)), _points(setting, process, t)
        return _size(_score_residual(forward_equation(process), s, x, t))

    return worst_of(over_processes(residual))


@identity(
    row="19d",
    title="One law, a family of SDEs",
    latex=r"dx = [f x - \frac{1}{2}(g^2+\tilde\sigma^2)\nabla\ln p_t]\,dt + \tilde\sigma\,d\bar w"
    r"\quad\mathrm{has\ the\ marginals}\ p_t\ \mathrm{for\ any}\ \tilde\sigma(t)",
    compared="its Fokker-Planck equation in t_max − t with 0, for σ̃/g of 0, ½, 1 and 1.7, on VP and EDM",
    oracle=_ORACLE,
    source="Song et al. 2021, arXiv:2011.13456, eq. 6; Zhang & Chen 2023, arXiv:2204.13902, eq. 7",
    bound=Within(1e-10, _ROUNDING, roundoffs=1500),
    functions=(reverse_sde, reverse_equation),
    test="tests/diffusion/fokker_planck/test_residuals.py",
)
def _reverse_family(setting: Setting) -> Measured:
    found, law = {}, mixture(setting.dim)
    for name in ("VP", "EDM"):
        process, t, end = chosen(name), PROCESSES[name][1], PROCESSES[name][0].t_max
        x = _points(setting, process, t)
        backwards = Partial(_backwards, law, process)
        for level in (0.0, 0.5, 1.0, 1.7):
            equation = reverse_equation(process, law.denoiser(process), level)
            residual = _log_density_residual(equation, backwards, x, end - t)
            found[f"{name} at {level:g} g"] = _size(residual)
    return worst_of(found)


def _backwards(law: Law, process: Process, y: jax.Array, tau: jax.Array) -> jax.Array:
    return law.log_prob(process, y, process.t_max - tau)


@identity(
    row="19e",
    title="The probability-flow ODE moves the same densities",
    latex=r"\partial_t\ln p_t + \nabla\cdot u + u\cdot\nabla\ln p_t = 0,\quad "
    r"u = \dot\alpha\,\mathbb{E}[x_0|x_t] + \dot\sigma\,\mathbb{E}[z|x_t]",
    compared="the left side with 0 at 16 draws of p_t, for five processes",
    oracle=_ORACLE,
    source="Song et al. 2021, arXiv:2011.13456, eq. 13",
    bound=Within(1e-10, _ROUNDING, roundoffs=1500),
    functions=(velocity, continuity_residual),
    test="tests/diffusion/fokker_planck/test_residuals.py",
)
def _probability_flow(setting: Setting) -> Measured:
    law = mixture(setting.dim)

    def residual(process: Process, t: float) -> float:
        flow, x = velocity(process, law.denoiser(process)), _points(setting, process, t)
        return _size(_continuity_residual(flow, log_density(law, process), x, t))

    return worst_of(over_processes(residual))


@identity(
    row="22",
    topics=("likelihood",),
    title="Likelihood by the instantaneous change of variables",
    latex=r"\ln p_0(x_0) = \ln p_T(x_T) + \int_0^T \nabla\cdot u(x_t,t)\,dt,\quad \dot x = u",
    compared="the integral with the oracle's ln p_0 at 8 draws, on VP, EDM and RectifiedFlow, in nats",
    oracle="a mixture of three Gaussians; its own p_T is the terminal density, so that nothing is cut off",
    source="Chen et al. 2018, arXiv:1806.07366, eq. 8; Song et al. 2021, arXiv:2011.13456, eq. 39",
    bound=Within(
        1e-7, "an adaptive solver of order 5 with tolerances of 1e-9; errors add up along the way", roundoffs=3e3
    ),
    functions=(log_likelihood,),
    answers=True,
    test="tests/diffusion/likelihood/test_likelihood.py",
)
def _likelihood(setting: Setting) -> Measured:
    law, found, solver = mixture(setting.dim), {}, _solver(setting)
    x, log_p = _draws_of_the_data(law, setting.key(0))
    exact = np.asarray(log_p)

    @jax.jit
    def by_the_flow(process: Process, denoise: Denoiser) -> jax.Array:
        return log_likelihood(process, denoise, x, solver=solver, terminal=log_density(law, process)).log_prob

    for name in ("VP", "EDM", "RectifiedFlow"):
        process = chosen(name)
        result = by_the_flow(process, setting.answered(law.denoiser(process)))
        found[name] = float(np.max(np.abs(np.asarray(result) - exact)))
    return worst_of(found)


@jax.jit
def _draws_of_the_data(law: Law, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(8 draws, ln p_0 there, which is the same on every process that starts at σ = 0)."""
    x = law.sample(key, 8)
    return x, law.log_prob(PROCESSES["EDM"][0], x, 0.0)


def _solver(setting: Setting) -> Adaptive:
    tolerance = 1e-9 if setting.precision == "float64" else 1e-6
    return Adaptive(tolerance, tolerance, t_start=0.0)


@identity(
    row="23a",
    title="The ODE that solves the heat equation",
    latex=r"\dot x = -D\,\nabla\ln p_t\quad\Rightarrow\quad \partial_t p_t = D\,\Delta p_t,\quad D=\sigma\dot\sigma",
    compared="the continuity equation of that velocity with 0 at 16 draws of p_t, on VE and EDM",
    oracle=_ORACLE,
    source="Song et al. 2021, arXiv:2011.13456, eq. 13, with α = 1",
    bound=Within(1e-10, _ROUNDING, roundoffs=600),
    functions=(continuity_residual, gradient),
    test="",
)
def _heat_equation(setting: Setting) -> Measured:
    found = {}
    for name in ("VE", "EDM"):
        process, t = chosen(name), PROCESSES[name][1]
        ln_p = log_density(mixture(setting.dim), process)
        downhill = Partial(_downhill, process, gradient(ln_p))
        found[name] = _size(_continuity_residual(downhill, ln_p, _points(setting, process, t), t))
    return worst_of(found)


def _downhill(process: Process, slope: Drift, x: jax.Array, t: jax.Array) -> jax.Array:
    return -process.sigma(t) * process.schedule.sigma_dot(t) * slope(x, t)


@identity(
    row="23b",
    title="Diffusion multiplies the Fourier transform",
    latex=r"\hat p_t(\omega) = e^{-\sigma_t^2\omega^2/2}\,\hat p_0(\omega)",
    compared="the Fourier transform of p_t at 5 frequencies with that of p_0 times the Gaussian, on EDM",
    oracle="two Gaussians on the line, transformed by quadrature",
    source="the heat kernel; Gauss's integral",
    bound=Within(1e-10, "Gauss-Legendre quadrature with 400 nodes, exact here to rounding", roundoffs=10),
    functions=(Law.log_prob,),
    test="",
)
def _heat_kernel(setting: Setting) -> Measured:
    process, law, t = PROCESSES["EDM"][0], line(), 0.5
    x, weights = gauss_legendre(-8.0, 8.0, 400)
    omega = np.asarray([0.3, 0.8, 1.5, 2.5, 4.0])

    @jax.jit
    def transforms(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        wave = jnp.exp(-1j * jnp.asarray(omega) * x)
        before, after = (weights * jnp.exp(law.log_prob(process, x, u)) @ wave for u in (0.0, t))
        return jnp.exp(-0.5 * process.sigma(t) ** 2 * jnp.asarray(omega) ** 2) * before, after

    expected, after = map(np.asarray, transforms(x, weights))
    error = float(np.max(np.abs(after - expected)))
    lines = {"exact": np.abs(expected), "of p_t": np.abs(after)}
    return Measured(error, plot=Curves(omega, lines, "ω", "|Fourier transform|", log_y=True))
