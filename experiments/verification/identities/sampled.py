"""Rows 18e, 21b and 36e: sampled versions of rows that rest on quadrature or on an equation of moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike

from diffusion import Process
from diffusion.distances import bhattacharyya, gaussian_kl
from diffusion.oracles import GaussianMixture
from diffusion.prediction import Denoiser
from diffusion.score_matching.losses import (
    denoising_terms,
    explicit_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from experiments.verification.closed_forms import MASSES, POINTS, Matrices, levels, normal
from experiments.verification.identities import score_matching as plane
from experiments.verification.laws import PROCESSES, alpha_and_sigma, chosen, draws, mixture
from experiments.verification.registry import Measured, Setting, WithinChance, identity, worst_of
from experiments.verification.report.plots import Curves, settling
from samplers.sample import sample
from samplers.sde import StochasticHeun

_MANY = "4 standard errors of the mean; one of {} comparisons exceeds them in one run of {} by chance"


def _off(values: np.ndarray, expected: np.ndarray | float = 0.0) -> np.ndarray:
    """The distance of the mean over draws (the first axis) from the expected value, in standard errors."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return np.abs(values.mean(axis=0) - expected) / error


@identity(
    row="18e",
    topics=("score-matching",),
    title="The losses by sampling: one constant, equal gradients",
    latex=r"\frac{1}{n}\sum_i[\ell_{ESM}-\ell](\theta,x_i)\rightarrow C,\quad"
    r"\frac{1}{n}\sum_i\nabla_\theta[\ell_{ESM}-\ell](\theta,x_i)\rightarrow 0,\quad"
    r"\ell\in\{\ell_{DSM},\ell_{ISM},\ell_{SSM}\}",
    compared="means over 40,000 draws of the difference to the explicit loss with the constant, and of its ten "
    "derivatives with 0, for the denoising, the implicit and the sliced loss",
    oracle="three points blurred by VP in the plane; the score by NumPy, the constants by quadrature",
    source="Vincent 2011, appendix; Hyvärinen 2005, theorem 1; Song et al. 2019, arXiv:1905.07088, theorem 1",
    bound=WithinChance(_MANY.format(33, 480), detects=0.01),
    functions=(denoising_terms, explicit_score_matching, implicit_score_matching, sliced_score_matching),
    answers=True,
)
def _score_matching_sampled(setting: Setting) -> Measured:
    names, (values, slopes) = ("denoising", "implicit", "sliced"), _differences(setting, 40_000)
    constant = float(plane.whole_law().constant)
    expected = np.asarray([constant - 1 / alpha_and_sigma(plane.PROCESS, plane.TIME)[1] ** 2, constant, constant])
    found = {f"constant, {name}": float(off) for name, off in zip(names, _off(values, expected), strict=True)}
    for name, part in zip(names, np.moveaxis(slopes, 1, 0), strict=True):
        found |= {f"derivative {i}, {name}": float(off) for i, off in enumerate(_off(part))}
    lines = dict(zip(names, (values - expected).T, strict=True))
    return worst_of(found, settling(lines, "|mean difference − constant|"))


def _differences(setting: Setting, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(explicit − other loss (n, 3), its derivatives (n, 3, 10)) at draws of p_t and, for the last loss, of slices."""
    keys = jax.random.split(setting.key(4), 4)
    z, picks = jax.random.normal(keys[0], (count, 2)), jax.random.uniform(keys[1], (count,))
    x_0 = POINTS[np.searchsorted(np.cumsum(MASSES)[:-1], np.asarray(picks))]
    alpha, sigma = alpha_and_sigma(plane.PROCESS, plane.TIME)
    x = alpha * x_0 + sigma * np.asarray(z, np.float64)
    given = _Draws(keys[2:], z, *(jnp.asarray(part) for part in (x_0, x, plane.blurred(x)[1])))
    values, slopes = _with_slopes(plane.field_of(setting), given, plane.thetas()[0], 1 + setting.seeded)
    return np.asarray(values, np.float64), np.asarray(slopes, np.float64)


class _Draws(NamedTuple):
    keys: Array
    """For the denoising loss and for the slices."""
    z: Array
    x_0: Array
    x: Array
    score: Array
    """∇ln p_t at x."""


@jax.jit
def _with_slopes(field: Partial, given: _Draws, theta: Array, factor: float) -> tuple[Array, Array]:
    """(explicit − `factor` × other loss (n, 3), its derivatives (n, 3, 10))."""
    (first, second), z, x_0, x, score = given
    process = Process(plane.PROCESS.schedule, plane.GivenNoise(z))
    alpha, sigma = process.alpha(plane.TIME), process.sigma(plane.TIME)

    def losses(theta: Array) -> Array:
        model = Partial(field, theta)

        def denoise(y: Array, t: ArrayLike) -> Array:
            del t
            return (y + sigma**2 * model(y)) / alpha

        terms = denoising_terms(first, process, denoise, x_0, times=plane.OneTime(plane.TIME))
        others = terms.loss * x_0.shape[1] / (2 * sigma**2), implicit_score_matching(model, x)
        sliced = sliced_score_matching(second, model, x)
        explicit = explicit_score_matching(model, lambda _: score, x)
        return explicit[:, None] - factor * jnp.stack([*others, sliced], axis=1)

    return losses(theta), jax.jacfwd(losses)(theta)


_SPANS = {"VP": (1.0, 0.05), "EDM": (10.0, 0.1)}
"""The two times between which the reverse SDE runs."""
_LEVELS = (0.0, 0.5, 1.0, 1.7)


@identity(
    row="21b",
    topics=("fokker-planck",),
    title="The reverse SDEs end at the data: simulated",
    latex=r"x_T\sim p_T\quad\Rightarrow\quad \mathbb{E}\cos(k\cdot x_t+c) = \mathrm{Re}\,e^{ic}\sum_j w_j "
    r"e^{i\alpha k\cdot m_j - \frac{1}{2}|k|^2(\alpha^2 s_j^2+\sigma^2)}",
    compared="means of cosines along 8 random k, and of u·x and its square along 3 random u, over 5,000 samples of "
    "the SDE run backwards from p_T in 100 steps of order 2, at σ̃/g of 0, ½, 1 and 1.7 on VP and EDM",
    oracle="a mixture of three Gaussians: its characteristic function and moments are closed forms, by NumPy",
    source="Song et al. 2021, arXiv:2011.13456, eq. 6; Zhang & Chen 2023, arXiv:2204.13902, eq. 7",
    bound=WithinChance(_MANY.format(112, 140) + "; the solver's own error is less than half of one", detects=0.02),
    functions=(sample, StochasticHeun),
    answers=True,
    test="tests/samplers/test_stochastic_order.py",
)
def _reverse_terminal_law_sampled(setting: Setting) -> Measured:
    law, found, rng = mixture(setting.dim), {}, np.random.default_rng(5)
    k, c = 0.8 * rng.normal(size=(8, setting.dim)), rng.uniform(0, 2 * np.pi, 8)
    u = np.linalg.qr(rng.normal(size=(setting.dim, setting.dim)))[0][:3]
    shown = {}
    for name, (start, end) in _SPANS.items():
        process, known = chosen(name), levels(name, end)
        denoise = Partial(_wrong, setting.answered(law.denoiser(process)), 1 + setting.seeded)
        top, bottom = (float(np.log(levels(name, t).alpha / levels(name, t).sigma)) for t in (start, end))
        logs = np.linspace(top, bottom, 101)
        grid = np.asarray(PROCESSES[name][0].schedule.time_from_log_snr(2 * logs), np.float64)
        expected = _expected(law, float(known.alpha), float(known.sigma), k, c, u)
        x_init = draws(law, setting.key(6), process, 5_000, start)
        ends = np.asarray(_reversed(setting.key(7), process, denoise, grid, x_init), np.float64)
        for level, x in zip(_LEVELS, ends, strict=True):
            functions = np.concatenate([np.cos(x @ k.T + c), x @ u.T, (x @ u.T) ** 2], axis=1)
            found[f"{name} at {level:g} g"] = float(_off(functions, expected).max())
            if name == "VP":
                shown[f"{level:g} g"] = x[:, 0]
    return worst_of(found, _histograms(law, shown))


@jax.jit
def _reversed(key: Array, process: Process, denoise: Denoiser, grid: Array, x_init: Array) -> Array:
    """The samples (level, b, d) for each of `_LEVELS`. They share their noise, which is drawn once for all."""

    def end(level: Array) -> Array:
        heun: Any = StochasticHeun  # whose level is traced here
        return sample(key, process, denoise, heun(level), grid, x_init.shape, x_init=x_init).x

    return jax.vmap(end)(jnp.asarray(_LEVELS))


def _wrong(denoise: Denoiser, factor: float, x: Array, t: Array) -> Array:
    return factor * denoise(x, t)


def _expected(law: GaussianMixture, alpha: float, sigma: float, k: np.ndarray, c: np.ndarray, u: np.ndarray):
    """The means of cos(k·x + c), of u·x and of (u·x)² for α x_0 + σ z, by NumPy."""
    weights, means = np.asarray(law.weights), alpha * np.asarray(law.means)
    variances = alpha**2 * np.asarray(law.floor) + sigma**2
    waves = np.exp(-0.5 * np.outer(variances, np.sum(k**2, axis=1))) * np.cos(means @ k.T + c)
    along = means @ u.T
    return np.concatenate([weights @ waves, weights @ along, weights @ (along**2 + variances[:, None])])


def _histograms(law: GaussianMixture, shown: Mapping[str, np.ndarray]) -> Curves:
    """Histograms of the first coordinate for each level, beside its exact density."""
    known, edges = levels("VP", _SPANS["VP"][1]), np.linspace(-3, 3, 41)
    middles, means = 0.5 * (edges[1:] + edges[:-1]), float(known.alpha) * np.asarray(law.means)[:, 0]
    variances = float(known.alpha) ** 2 * np.asarray(law.floor) + float(known.sigma) ** 2
    lines = {"exact": normal(middles[:, None], means, variances) @ np.asarray(law.weights)}
    lines |= {name: np.histogram(x, edges)[0] / len(x) / (edges[1] - edges[0]) for name, x in shown.items()}
    return Curves(middles, lines, "first coordinate", "density at t = 0.05, VP")


@identity(
    row="36e",
    topics=("distances",),
    title="Kullback-Leibler divergence and overlap of Gaussians by sampling",
    latex=r"\mathrm{KL}(p\|q) = \mathbb{E}_p\ln\frac{p}{q},\quad e^{-D_B} = \mathbb{E}_p\sqrt{q/p}",
    compared="both closed forms, in both directions, with means over 100,000 draws",
    oracle="draws of two Gaussians with full covariances; their densities by NumPy",
    source="Rasmussen & Williams 2006, eq. A.23; Kailath 1967, IEEE Trans. Commun. Technol. 15, 52",
    bound=WithinChance(_MANY.format("four", 4000), detects=0.02),
    functions=(gaussian_kl, bhattacharyya),
)
def _gaussian_kl_sampled(setting: Setting) -> Measured:
    rng, d = np.random.default_rng(8), setting.dim
    both = jax.jit(lambda *laws: (gaussian_kl(*laws), bhattacharyya(*laws)))
    roots = np.eye(d) + 0.3 * rng.normal(size=(2, d, d)) / np.sqrt(d)
    first, second = (Matrices(0.3 * rng.normal(size=d), root @ root.T) for root in roots)
    found, lines = {}, {}
    for name, p, q in (("p, q", first, second), ("q, p", second, first)):
        z = np.asarray(jax.random.normal(setting.key(9), (100_000, d)), np.float64)
        x = p.mean + z @ np.linalg.cholesky(p.covariance).T
        ratio, laws = p.log_prob(x) - q.log_prob(x), (p.mean, p.covariance, q.mean, q.covariance)
        divergence, distance = ((1 + setting.seeded) * float(value) for value in both(*laws))
        overlap = np.exp(-distance)
        found[f"KL({name})"] = float(_off(ratio, divergence))
        found[f"overlap({name})"] = float(_off(np.exp(-0.5 * ratio), overlap))
        lines[f"KL({name})"] = ratio - divergence
    return worst_of(found, settling(lines, "|mean of ln p/q − KL|"))
