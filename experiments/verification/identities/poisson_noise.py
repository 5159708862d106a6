"""Rows 28, 29 and 30: the field of charges is Student-t noise; PFGM is its Cauchy case, EDM its limit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, gammainc

from diffusion import EDM, Process, StudentT, prior_log_prob, velocity
from diffusion.fokker_planck import continuity_residual
from diffusion.likelihood import log_likelihood
from diffusion.likelihood.solvers import Adaptive
from diffusion.oracles import Atoms, StudentTMixture
from diffusion.poisson import (
    Field,
    hyperplane_log_prob,
    hyperplane_sample,
    perturb_augmented,
    poisson_field,
    poisson_process,
    sigma_from_radius,
)
from experiments.verification.identities.poisson_field import charges
from experiments.verification.laws import log_density
from experiments.verification.registry import Measured, Setting, Within, WithinChance, identity, relative, worst_of
from experiments.verification.report.plots import Curves

TOPICS = ("poisson",)

_PFGM, _PLUS = "Xu et al. 2022, arXiv:2209.11178", "Xu et al. 2023, arXiv:2302.04265"


def _log_area(n: float) -> float:
    """The logarithm of the area of the unit sphere in n dimensions."""
    return math.log(2) + 0.5 * n * math.log(math.pi) - math.lgamma(0.5 * n)


def _coulomb(law: Atoms, x: np.ndarray, r: float, df: float) -> tuple[np.ndarray, np.ndarray]:
    """(E_x, E_r): the sum of the inverse power laws of all charges, in NumPy's float64."""
    n, gap = x.shape[1] + df, x[:, None] - np.asarray(law.points)
    square = np.sum(gap**2, -1) + r**2
    strength = np.asarray(law.weights) * np.exp(-0.5 * n * np.log(square) - _log_area(n))
    return np.einsum("bk,bkd->bd", strength, gap), r * strength.sum(1)


@identity(
    row="28a",
    title="PFGM is diffusion with multivariate Cauchy noise",
    latex=r"p_t(x) = -2F_t(x,t),\quad v = F_x/F_t = (x-\mathbb{E}[x_0|x_t])/t,\quad "
    r"x_t = x_0+t\,z,\ z\sim\mathrm{Cauchy}",
    compared="the density of x_t and the velocity of the sampler's ODE with the sum of the charges' fields; "
    "the residual of the continuity equation with 0",
    oracle="three charges with Coulomb's law in d + 1 dimensions, by NumPy in float64",
    source=f"{_PFGM}, eq. 3 and theorem 1; {_PLUS}, eq. 5",
    bound=Within(1e-10, "closed forms on both sides: what is left is rounding", roundoffs=100),
    functions=(StudentT, poisson_field, velocity),
    answers=True,
    test="tests/diffusion/poisson/test_field.py",
)
def _pfgm_is_cauchy_noise(setting: Setting) -> Measured:
    law, process, found = charges(setting.dim), poisson_process(), {}
    x = np.random.default_rng(0).normal(size=(8, setting.dim))
    answered = setting.answered(law.denoiser(process))
    both = jax.jit(lambda x, t: (law.log_prob(process, x, t), velocity(process, answered)(x, t)))
    for t in (0.3, 1.0, 5.0):
        along_x, along_t = _coulomb(law, x, t, 1.0)
        log_p, moved = both(jnp.asarray(x), t)
        found[f"p at t = {t:g}"] = relative(np.exp(np.asarray(log_p)), 2 * along_t)
        found[f"v at t = {t:g}"] = relative(moved, along_x / along_t[:, None])
    flow, density = velocity(process, law.denoiser(process)), log_density(law, process)
    residual = jax.jit(lambda x: continuity_residual(flow, density, x, jnp.asarray(0.8)).value)(jnp.asarray(x))
    found["continuity"] = float(np.max(np.abs(residual)))
    return worst_of(found)


@identity(
    row="28b",
    title="Under PFGM Cauchy data stay Cauchy",
    latex=r"p_0 = \mathrm{Cauchy}(\gamma_0)\ \Rightarrow\ p_t = \mathrm{Cauchy}(\gamma_0+t),\quad v = x/(t+\gamma_0)",
    compared="density and velocity with those closed forms, at t of 0.01, 1 and 40",
    oracle="the Cauchy law in d dimensions, by NumPy",
    source="characteristic functions: exp(−γ|k|) exp(−t|k|)",
    bound=Within(1e-10, "closed forms on both sides", roundoffs=100),
    functions=(StudentTMixture, velocity),
    answers=True,
    test="tests/diffusion/oracles/test_law.py",
)
def _cauchy_stays_cauchy(setting: Setting) -> Measured:
    d, gamma, process, found = setting.dim, 0.6, poisson_process(), {}
    law = StudentTMixture(np.zeros((1, d)), np.asarray([gamma]), 1.0)
    x = np.random.default_rng(0).normal(size=(8, d)) * 2
    answered = setting.answered(law.denoiser(process))
    both = jax.jit(lambda x, t: (law.log_prob(process, x, t), velocity(process, answered)(x, t)))
    for t in (0.01, 1.0, 40.0):
        wide = gamma + t
        log_p = np.log(2 * wide) - _log_area(d + 1) - 0.5 * (d + 1) * np.log(np.sum(x**2, 1) + wide**2)
        found_log_p, moved = both(jnp.asarray(x), t)
        found[f"ln p at t = {t:g}"] = relative(found_log_p, log_p)
        if t >= 1:  # below, (x − D)/t has the rounding of D over t
            found[f"v at t = {t:g}"] = relative(moved, x / wide)
    return worst_of(found)


_LEVELS = np.asarray([0.001, 0.01, 0.1, 0.5, 0.9, 0.99])


def _off(values: Any, distribution: Callable[[Any], jax.Array]) -> float:
    """The largest error, in standard errors, of the shares of positive `values` below six quantiles of their law."""
    low, high = np.full(6, -40.0), np.full(6, 40.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = np.asarray(distribution(np.exp(middle))) < _LEVELS
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found = np.mean(np.asarray(values, np.float64)[:, None] < np.exp(low), axis=0)
    return float(np.max(np.abs(found - _LEVELS) / np.sqrt(_LEVELS * (1 - _LEVELS) / len(values))))


@identity(
    row="29",
    title="Perturbation and prior have one law of the radius",
    latex=r"R^2 = T^2\frac{\beta}{1-\beta},\quad \beta\sim\mathrm{Beta}(\frac{d}{2},\frac{1}{2}),\quad "
    r"R = T\,\frac{|g_x|}{|g_t|},\ g\sim\mathcal{N}(0,I_{d+1})",
    compared="the shares of 40,000 draws of |x|/T on the hyperplane, and of |x − x_0|/z of the perturbation, below six "
    "quantiles of that law, in standard errors; d = 1, 6 and 64",
    oracle="the incomplete Beta function, inverted by bisection",
    source=f"{_PFGM}, section 3.2 and appendix B.1.1",
    bound=WithinChance("4 standard errors of 36 shares; the seed is fixed", detects=0.05),
    functions=(hyperplane_sample, perturb_augmented),
    test="tests/diffusion/poisson/test_pfgm.py",
)
def _pfgm_radius_law(setting: Setting) -> Measured:
    count, top, found = 40_000, 3.0, {}
    for d in (1, 6, 64):
        shape, first = (count, d), jax.random.fold_in(setting.key(d), 0)
        on_plane = np.asarray(hyperplane_sample(first, shape, top), np.float64)
        pair = perturb_augmented(jax.random.fold_in(setting.key(d), 1), jnp.zeros(shape))
        x, z = (np.asarray(part, np.float64) for part in pair)
        for name, ratio in (("prior", _square(on_plane) / top**2), ("perturbation", _square(x) / z**2)):
            odds = 1 / (ratio * (1 + setting.seeded) ** 2)  # (1 − β)/β, which does not round to 0
            found[f"{name}, d = {d}"] = _off(odds, lambda q, d=d: _share_of_beta(q, 0.5 * d))
    return worst_of(found)


def _square(x: np.ndarray) -> np.ndarray:
    return np.sum(x**2, axis=1)


@jax.jit
def _share_of_beta(odds: jax.Array, half: float) -> jax.Array:
    """P((1 − β)/β < odds)."""
    return betainc(0.5, half, odds / (1 + odds))


@identity(
    row="30a",
    title="PFGM++: the field in D extra dimensions, for any D",
    latex=r"E_r = \frac{p_r(x)}{S_{D-1}r^{D-1}},\quad p_r\propto\int\frac{p_0(y)\,dy}{(|x-y|^2+r^2)^{(N+D)/2}},"
    r"\quad r = \sigma\sqrt{D}",
    compared="the field of the law under Student-t noise with the sum of the charges' fields in N + D dimensions, for "
    "D of ½, 1, 2, 8 and 64; the prior's density with r^D over areas of spheres",
    oracle="three charges, by NumPy in float64",
    source=f"{_PLUS}, eq. 3 to 5",
    bound=Within(1e-10, "closed forms: rounding, times N + D in the exponent", roundoffs=100),
    functions=(poisson_field, sigma_from_radius, hyperplane_log_prob),
)
def _pfgmpp_kernel(setting: Setting) -> Measured:
    law, found = charges(setting.dim), {}
    x = np.random.default_rng(0).normal(size=(8, setting.dim))

    @jax.jit
    def all_of_it(x: jax.Array, r: float, df: float) -> tuple[Field, jax.Array, jax.Array]:
        process = poisson_process(df, 0.1, 5.0)
        return poisson_field(law, x, r, df), prior_log_prob(process, x), hyperplane_log_prob(x, 5.0, df)

    for df in (0.5, 1.0, 2.0, 8.0, 64.0):
        r = 0.9 * float(np.sqrt(df))
        along_x, along_r = _coulomb(law, x, r, df)
        exact = np.concatenate([along_x, along_r[:, None]], axis=1)
        norm = np.linalg.norm(exact, axis=1)
        field, own_prior, prior = all_of_it(jnp.asarray(x), r, df)
        direction = np.concatenate([np.asarray(field.along_x), np.asarray(field.along_r)[:, None]], axis=1)
        found[f"direction, D = {df:g}"] = relative(direction, exact / norm[:, None])
        found[f"ln |E|, D = {df:g}"] = relative(field.log_norm, np.log(norm))
        found[f"prior, D = {df:g}"] = relative(own_prior, prior)
    return worst_of(found)


@identity(
    row="30b",
    title="D → ∞ is EDM, at the rate 1/D",
    latex=r"\mathbb{E}[x_0|x;\,r=\sigma\sqrt{D}] = \mathbb{E}[x_0|x;\,\mathcal{N}(0,\sigma^2 I)] + O(D^{-1})",
    compared="the slope of the difference of denoisers, and of ln p, over D with −1, at D = 8,000 (512 in float32)",
    oracle="three charges: both denoisers are softmaxes",
    source=f"{_PLUS}, theorem 3 and section 4",
    bound=Within(0.05, "the next term is of the order (N + |z|²)/D"),
    functions=(StudentT, poisson_process),
    test="tests/diffusion/oracles/test_law.py",
)
def _pfgmpp_is_edm_in_the_limit(setting: Setting) -> Measured:
    law, found, lines = charges(setting.dim), {}, {}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, setting.dim)))
    start = 1000.0 if setting.precision == "float64" else 64.0
    counts, limit = start * np.asarray([1.0, 2.0, 4.0, 8.0]), Process(EDM())
    exact = law.denoiser(limit)(x, 0.8), law.log_prob(limit, x, 0.8)
    for i, name in enumerate(("denoiser", "ln p")):
        off = []
        for df in counts:
            process = poisson_process(float(df))
            value = law.denoiser(process)(x, 0.8) if i == 0 else law.log_prob(process, x, 0.8)
            off.append(relative(value, exact[i]))
        lines[name] = off
        # The last two, where the next term is smallest.
        found[name] = abs(float(np.log(off[-1] / off[-2]) / np.log(2)) + 1)
    return worst_of(found, Curves(counts, lines, "D", "difference", True, True))


@identity(
    row="30c",
    title="A draw of PFGM++ is a Gaussian over a χ",
    latex=r"x = y + \sigma g\sqrt{D/\chi^2_D},\quad \frac{1}{1+|x-y|^2/r^2}\sim\mathrm{Beta}(\frac{D}{2},\frac{N}{2})",
    compared="the shares of 40,000 draws below six quantiles of that law, in standard errors; D = 1, 2, 8, 128, 2,048, "
    "3·10⁶ and N = 6",
    oracle="the incomplete Beta function, and the incomplete Gamma function at 3·10⁶, where they differ by 10⁻⁶",
    source=f"{_PLUS}, appendix B; no Beta draw is clipped",
    bound=WithinChance("4 standard errors of 36 shares; the seed is fixed", detects=0.05),
    functions=(StudentT.sample,),
)
def _pfgmpp_draws(setting: Setting) -> Measured:
    found, d = {}, 6
    for df in (1.0, 2.0, 8.0, 128.0, 2048.0, 3e6):
        z = np.asarray(StudentT(df).sample(setting.key(3), (40_000, d)), np.float64) * (1 + setting.seeded)
        share = functools.partial(_share_of_f, d, df) if df < 1e5 else functools.partial(_share_of_chi, d)
        found[f"D = {df:g}"] = _off(np.sum(z**2, axis=1) / d, share)
    return worst_of(found)


@jax.jit
def _share_of_f(d: float, df: float, ratio: jax.Array) -> jax.Array:
    """P(F(d, df) < ratio)."""
    return betainc(0.5 * d, 0.5 * df, d * ratio / (d * ratio + df))


@jax.jit
def _share_of_chi(d: float, ratio: jax.Array) -> jax.Array:
    """P(χ²_d/d < ratio), to which that of F(d, df) comes as near as 1/df."""
    return gammainc(0.5 * d, 0.5 * d * ratio)


@identity(
    row="30d",
    title="Likelihoods of PFGM have the sphere of N + 1 dimensions in them",
    latex=r"\ln p_0(x) = \ln p_T(x_T)+\int_0^T\nabla\cdot v\,dt,\quad p_T(x) = \frac{2T}{S_N(|x|^2+T^2)^{(N+1)/2}}",
    compared="ln p of Cauchy data by the ODE, from the prior's formula with the scale of p_T, with the closed form",
    oracle="the Cauchy law; with S of N dimensions it would be ½ ln(N/2π) nats off, 0.0015 bits/dim at N = 3,072",
    source=f"{_PFGM}, appendix B.4, with the area of the sphere put right",
    bound=Within(1e-5, "the solver's tolerance of 1e-8 a step", roundoffs=500),
    functions=(log_likelihood, hyperplane_log_prob),
    test="tests/diffusion/poisson/test_lines.py",
)
def _poisson_likelihood_constants(setting: Setting) -> Measured:
    d, gamma, process = setting.dim, 0.6, poisson_process(1.0, 0.01, 20.0)
    law = StudentTMixture(np.zeros((1, d)), np.asarray([gamma]), 1.0)
    x = np.random.default_rng(0).normal(size=(4, d))
    tolerance = 1e-8 if setting.precision == "float64" else 1e-5

    def terminal(latent: jax.Array, t: Any) -> jax.Array:
        return hyperplane_log_prob(latent, t + gamma)

    solver = Adaptive(rtol=tolerance, atol=tolerance, t_start=0.0)
    denoise, end = law.denoiser(process), jax.tree_util.Partial(terminal)
    by_the_flow = jax.jit(lambda x: log_likelihood(process, denoise, x, solver=solver, terminal=end).log_prob)
    found = np.asarray(by_the_flow(jnp.asarray(x)), np.float64)
    exact = np.log(2 * gamma) - _log_area(d + 1) - 0.5 * (d + 1) * np.log(np.sum(x**2, 1) + gamma**2)
    slip = (_log_area(3072) - _log_area(3073)) / (3072 * np.log(2))
    error = float(np.max(np.abs(found - exact)))
    return Measured(error, f"the published constant costs {slip:.5f} bits/dim at N = 3072")
