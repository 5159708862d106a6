"""Rows 20a and 20b: the Fokker-Planck equation by test functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import Gaussian, Process
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
from diffusion.oracles.law import Law
from experiments.verification.laws import mixture, over_processes
from experiments.verification.registry import Measured, Setting, Within, WithinChance, identity, relative, worst_of
from experiments.verification.report.plots import against_chance

TOPICS = ("fokker-planck",)


def _families(setting: Setting) -> dict[str, TestFunctions]:
    rng = np.random.default_rng(1)
    return {
        "cosines": Cosines.random(setting.key(3), 8, setting.dim, 0.7),
        "bumps": GaussianBumps(jnp.asarray(rng.normal(size=(4, setting.dim))), jnp.asarray(np.linspace(0.8, 1.4, 4))),
        "monomials": Monomials.up_to(2, setting.dim),
    }


@identity(
    row="20a",
    title="The Fokker-Planck equation by test functions",
    latex=r"\frac{d}{dt}\,\mathbb{E}\,\varphi(x_t) = \mathbb{E}[f\cdot\nabla\varphi + D:\nabla\nabla\varphi]"
    r"\quad\mathrm{for\ every\ smooth}\ \varphi",
    compared="both sides from 20,000 samples, for cosines, Gaussian bumps and monomials, on five processes",
    oracle="samples of a mixture; the two sides share them, and d/dt is a difference whose O(h²) is removed",
    source="Risken 1989, section 4.7; by parts from eq. 4.95",
    bound=WithinChance(
        "4 standard errors of the mean; one of all these comparisons exceeds them in one run of 150 by chance",
        detects=0.05,
    ),
    functions=(weak_residual, generator),
)
def _weak_form(setting: Setting) -> Measured:
    law, families = mixture(setting.dim), _families(setting)
    x_0, z = _x_0_and_noise(law, setting.key(1), setting.key(2))
    # In float32 a difference over 2h = 0.002 t would be nothing but rounding.
    step = 1e-3 if setting.precision == "float64" else 3e-2

    def deviations(process: Process, t: float) -> dict[str, np.ndarray]:
        found = _residuals(process, families, x_0, z, t, step * t, setting.seeded)
        return {family: np.abs(np.asarray(value) / np.asarray(error)) for family, (value, error) in found.items()}

    found = over_processes(deviations)
    everything = np.concatenate(list(found.values()))
    worst = worst_of({name: float(np.max(errors)) for name, errors in found.items()}, against_chance(everything))
    return Measured(worst.error, f"of {len(everything)} comparisons {worst.detail}", worst.plot)


@jax.jit
def _x_0_and_noise(law: Law, data_key: jax.Array, noise_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_0 = law.sample(data_key, 20_000)
    return x_0, Gaussian().sample(noise_key, x_0.shape)


@jax.jit
def _residuals(
    process: Process,
    families: dict[str, TestFunctions],
    x_0: jax.Array,
    z: jax.Array,
    t: float,
    step: float,
    seeded: float,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The value and its standard error for each family of functions."""
    paths, true = coupled_paths(process, x_0, z), forward_equation(process)
    equation = FokkerPlanck(true.drift, lambda x, u: (1 + seeded) * true.spread(x, u))
    found = {family: weak_residual(equation, paths, each, t, step=step) for family, each in families.items()}
    return {family: (residual.value, residual.standard_error) for family, residual in found.items()}


@identity(
    row="20b",
    title="The equation by test functions, without sampling: Gaussian data and cosines",
    latex=r"\frac{d}{dt}\,e^{-k^2 v_t/2}\cos(k m_t + c) = \mathbb{E}[-f\,k\sin(kx+c) - D\,k^2\cos(kx+c)]",
    compared="the derivative of the characteristic function with the mean of the generator, by 60-point quadrature",
    oracle="N(m, v) on the line, whose characteristic function is known at all times",
    source="Risken 1989, section 2.2",
    bound=Within(1e-11, "Gauss-Hermite quadrature is exact here to rounding", roundoffs=200),
    functions=(generator,),
)
def _weak_form_gaussian(setting: Setting) -> Measured:
    mean, variance = 0.7, 0.3
    functions = Cosines(jnp.asarray([[0.5], [1.3], [2.0]]), jnp.asarray([0.0, 0.4, 1.0]))
    k, c = functions.frequencies[:, 0], functions.phases
    nodes, weights = (jnp.asarray(part) for part in np.polynomial.hermite_e.hermegauss(60))

    @jax.jit
    def sides(process: Process, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        def moments(u: jax.Array) -> tuple[jax.Array, jax.Array]:
            return process.alpha(u) * mean, process.alpha(u) ** 2 * variance + process.sigma(u) ** 2

        def expectation(u: jax.Array) -> jax.Array:
            m, v = moments(u)
            return jnp.exp(-0.5 * k**2 * v) * jnp.cos(k * m + c)

        m, v = moments(t)
        x = m + jnp.sqrt(v) * nodes[:, None]
        right = weights / jnp.sum(weights) @ generator(forward_equation(process), functions, x, t)
        return jax.jvp(expectation, (t,), (jnp.ones(()),))[1], right

    return worst_of(over_processes(lambda process, t: relative(*sides(process, jnp.asarray(t)))))
