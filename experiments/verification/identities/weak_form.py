"""Row 20: the Fokker-Planck equation by test functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import Process
from diffusion.fokker_planck import (
    Cosines,
    FokkerPlanck,
    GaussianBumps,
    Monomials,
    coupled_paths,
    forward_equation,
    generator,
    weak_residual,
)
from diffusion.fokker_planck.weak import TestFunctions
from experiments.verification.laws import PROCESSES, mixture
from experiments.verification.registry import STANDARD_ERRORS, Measured, Setting, identity, relative, worst_of
from experiments.verification.report.plots import against_chance


def _families(setting: Setting) -> dict[str, TestFunctions]:
    rng = np.random.default_rng(1)
    return {
        "cosines": Cosines.random(setting.key(3), 8, setting.dim, 0.7),
        "bumps": GaussianBumps(jnp.asarray(rng.normal(size=(4, setting.dim))), jnp.linspace(0.8, 1.4, 4)),
        "monomials": Monomials.up_to(2, setting.dim),
    }


@identity(
    row="20a",
    name="weak-form",
    topic="fokker-planck",
    title="The Fokker-Planck equation by test functions",
    latex=r"\frac{d}{dt}\,\mathbb{E}\,\varphi(x_t) = \mathbb{E}[f\cdot\nabla\varphi + D:\nabla\nabla\varphi]"
    r"\quad\mathrm{for\ every\ smooth}\ \varphi",
    compared="both sides from 20,000 samples, for cosines, Gaussian bumps and monomials, on five processes",
    oracle="samples of a mixture; the two sides share them, and d/dt is a difference whose O(h²) is removed",
    source="Risken 1989, section 4.7; by parts from eq. 4.95",
    tolerance=STANDARD_ERRORS,
    why="4 standard errors of the mean; one of so many comparisons exceeds them in one run of 150 by chance",
    functions=("diffusion.fokker_planck.weak_residual", "diffusion.fokker_planck.generator"),
    kind="statistical",
    detects=0.05,
    test="tests/diffusion/fokker_planck/test_weak.py",
)
def _weak(setting: Setting) -> Measured:
    law, found = mixture(setting.dim), {}
    for name, (process, t) in PROCESSES.items():
        x_0 = law.sample(setting.key(1), 20_000)
        paths = coupled_paths(process, x_0, process.noise.sample(setting.key(2), x_0.shape))
        true = forward_equation(process)
        equation = FokkerPlanck(true.drift, lambda x, u, true=true: (1 + setting.seeded) * true.spread(x, u))
        for family, functions in _families(setting).items():
            # In float32 a difference over 2h = 0.002 t would be nothing but rounding.
            step = (1e-3 if setting.precision == "float64" else 3e-2) * t
            residual = weak_residual(equation, paths, functions, t, step=step)
            found[f"{family} on {name}"] = np.abs(np.asarray(residual.value) / np.asarray(residual.standard_error))
    everything = np.concatenate(list(found.values()))
    worst = worst_of({name: float(np.max(errors)) for name, errors in found.items()}, against_chance(everything))
    return Measured(worst.error, f"of {len(everything)} comparisons {worst.detail}", worst.plot)


@identity(
    row="20b",
    name="weak-form-gaussian",
    topic="fokker-planck",
    title="The same without sampling: Gaussian data and cosines",
    latex=r"\frac{d}{dt}\,e^{-k^2 v_t/2}\cos(k m_t + c) = \mathbb{E}[-f\,k\sin(kx+c) - D\,k^2\cos(kx+c)]",
    compared="the derivative of the characteristic function with the mean of the generator, by 60-point quadrature",
    oracle="N(m, v) on the line, whose characteristic function is known at all times",
    source="Risken 1989, section 2.2",
    tolerance=1e-11,
    why="Gauss-Hermite quadrature is exact here to rounding",
    functions=("diffusion.fokker_planck.generator",),
    amplification=200,
    test="tests/diffusion/fokker_planck/test_weak.py",
)
def _weak_gaussian(setting: Setting) -> Measured:
    mean, variance, found = 0.7, 0.3, {}
    functions = Cosines(jnp.asarray([[0.5], [1.3], [2.0]]), jnp.asarray([0.0, 0.4, 1.0]))
    k, c = functions.frequencies[:, 0], functions.phases
    nodes, weights = (jnp.asarray(part) for part in np.polynomial.hermite_e.hermegauss(60))
    for name, (process, t) in PROCESSES.items():

        def moments(u: jax.Array, process: Process = process) -> tuple[jax.Array, jax.Array]:
            return process.alpha(u) * mean, process.alpha(u) ** 2 * variance + process.sigma(u) ** 2

        def expectation(u: jax.Array, moments=moments) -> jax.Array:
            m, v = moments(u)
            return jnp.exp(-0.5 * k**2 * v) * jnp.cos(k * m + c)

        m, v = moments(jnp.asarray(t))
        x = m + jnp.sqrt(v) * nodes[:, None]
        right = weights / jnp.sum(weights) @ generator(forward_equation(process), functions, x, t)
        left = jax.jvp(expectation, (jnp.asarray(t),), (jnp.ones(()),))[1]
        found[name] = relative(left, right)
    return worst_of(found)
