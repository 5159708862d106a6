"""Row 39, false statements N1 and N4: the best denoiser at one noise level, its answers, and a codebook of noises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import EDM, Process
from diffusion.oracles import Atoms, GaussianLaw
from diffusion.oracles.law import Law
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.weightings import UniformWeighting
from experiments.verification.closed_forms import normal, square
from experiments.verification.identities.score_matching import GivenNoise, OneTime
from experiments.verification.laws import line
from experiments.verification.registry import (
    Measured,
    OffBy,
    Setting,
    Within,
    identity,
    largest,
    refuted,
    relative,
    worst_of,
)
from experiments.verification.report.plots import Curves

TOPICS = ("denoisers",)

_LEVEL = 0.5


def _clean(x: np.ndarray) -> np.ndarray:
    """The density of `line` at x (n,)."""
    law = line()
    return normal(x[:, None], np.asarray(law.means)[:, 0], np.asarray(law.floor)) @ np.asarray(law.weights)


def _blurred(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p̂, ∇ln p̂) for p̂ = p * N(0, σ²), convolved by the trapezoidal rule."""
    x = np.linspace(-5.0, 6.0, 401)
    masses = (x[1] - x[0]) * _clean(x) * normal(y[:, None], x, _LEVEL**2)
    density = masses.sum(1)
    return density, (masses * (x - y[:, None])).sum(1) / _LEVEL**2 / density


def _slopes_of_the_loss(setting: Setting) -> tuple[float, np.ndarray]:
    """(the library's loss at the exact denoiser, its slopes as 1, y, cos y and sin 2y are added to the answer).

    The loss is summed over a rule for p times a rule for N(0, 1). Each slope is relative to its Cauchy-Schwarz bound.
    """
    x, z = np.linspace(-3.5, 5.5, 201), np.linspace(-8.5, 8.5, 101)
    masses = jnp.asarray(np.outer(_clean(x) * (x[1] - x[0]), normal(z) * (z[1] - z[0])).reshape(-1))
    x_0, noises = (jnp.asarray(a.reshape(-1, 1)) for a in np.meshgrid(x, z, indexing="ij"))
    denoise = setting.answered(line().denoiser(Process(EDM())))

    def changes(y: Array) -> Array:
        return jnp.concatenate([jnp.ones_like(y), y, jnp.cos(y), jnp.sin(2 * y)], 1)

    def loss(theta: Array) -> Array:
        terms = denoising_terms(
            setting.key(0),
            Process(EDM(), GivenNoise(noises)),
            lambda y, t: denoise(y, t) + jnp.dot(changes(y), theta[:, None], precision="highest"),
            x_0,
            weighting=UniformWeighting(),
            times=OneTime(_LEVEL),
        )
        return jnp.sum(masses * terms.loss)

    @jax.jit
    def value_and_slopes() -> tuple[Array, Array]:
        value, slopes = jax.value_and_grad(loss)(jnp.zeros(4))
        sizes = jnp.sqrt(jnp.sum(masses[:, None] * changes(x_0 + _LEVEL * noises) ** 2, 0))
        return value, slopes / (2 * jnp.sqrt(value) * sizes)

    value, slopes = map(np.asarray, value_and_slopes())
    return float(value), slopes


@identity(
    row="39",
    topics=("denoisers", "energy"),
    title="The best denoising autoencoder climbs the blurred density",
    latex=r"\mathrm{argmin}_r\,\mathbb{E}|r(x+\epsilon)-x|^2 = y + \sigma^2\nabla\ln\hat p(y),\quad "
    r"\hat p = p * N(0,\sigma^2 I)",
    compared="the exact denoiser with this answer at 66 points; the slopes of the denoising loss at it, in four "
    "directions, with 0; and the loss with σ² − σ⁴ E|∇ln p̂|²",
    oracle="two Gaussians on the line, σ = 1/2, the convolution and all means by the trapezoidal rule",
    source="Alain & Bengio 2014, arXiv:1211.4246, theorem 1; Miyasawa 1961; Vincent 2011",
    bound=Within(1e-10, "the trapezoidal rule is exact here to rounding", roundoffs=4e1),
    functions=(Law.denoiser, denoising_terms),
    answers=True,
    test="tests/diffusion/score_matching/test_losses.py",
)
def _denoising_autoencoder(setting: Setting) -> Measured:
    y = np.linspace(-3.0, 3.5, 66)
    denoise = setting.answered(line().denoiser(Process(EDM())))
    found, expected = np.asarray(denoise(jnp.asarray(y[:, None]), _LEVEL))[:, 0], y + _LEVEL**2 * _blurred(y)[1]
    loss, slopes = _slopes_of_the_loss(setting)
    grid = np.linspace(-8.0, 9.0, 401)
    density, score = _blurred(grid)
    least = _LEVEL**2 - _LEVEL**4 * float(np.sum(density * score**2) * (grid[1] - grid[0]))
    errors = {
        "r(y)": relative(found, expected),
        "a slope": float(np.max(np.abs(slopes))),
        "the least loss": relative(loss, least),
    }
    lines = {"exact": expected, "r(y)": found, "y": y}
    return worst_of(errors, Curves(y, lines, "y", "answer"))


@identity(
    row="N1",
    title="The best denoiser sends noisy data back to the data",
    latex=r"y\sim\hat p = p * N(0,\sigma^2 I)\quad\Rightarrow\quad r(y) = y + \sigma^2\nabla\ln\hat p(y)\sim p",
    compared="the variance of the answers, for p = N(0, I) and σ = 1/2, with 1; it is 1/(1 + σ²) = 0.8",
    oracle="the answers at 40 Gauss-Hermite nodes of p̂ = N(0, 5/4)",
    source="Alain & Bengio 2014, arXiv:1211.4246; the law of total variance",
    bound=OffBy(
        0.19, "a posterior mean lacks the posterior's variance; the variance is 0.8 to rounding, or this fails"
    ),
    functions=(Law.denoiser,),
    test="",
)
def _denoised_noisy_data_are_data(setting: Setting) -> Measured:
    law = GaussianLaw.isotropic(np.zeros(setting.dim), 1.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    y = np.zeros((40, setting.dim))
    y[:, 0] = np.sqrt(1 + _LEVEL**2) * nodes
    answers = np.asarray(law.denoiser(Process(EDM()))(jnp.asarray(y), _LEVEL), np.float64)[:, 0]
    variance = float(weights @ answers**2 / weights.sum())
    right = abs(variance / 0.8 - 1)
    return Measured(refuted(setting, abs(variance - 1), right), f"the variance is {variance:.6f}", _three_densities())


def _three_densities() -> Curves:
    """The densities p, p̂ and that of the answers (by the change of variables) for two Gaussians on the line."""
    y = np.linspace(-5.0, 6.0, 1001)
    density, score = _blurred(y)
    answers = y + _LEVEL**2 * score
    pushed = density / np.gradient(answers, y)
    x = np.linspace(-2.5, 3.5, 201)
    lines = {"exact p": _clean(x), "noisy data": _blurred(x)[0], "denoised": np.interp(x, answers, pushed, 0.0, 0.0)}
    return Curves(x, lines, "x", "density")


@identity(
    row="N4",
    title="A codebook of noises, weighted by how near they are to m, samples N(m, I)",
    latex=r"\epsilon_k\sim N(0,I),\quad w_k\propto e^{-|\epsilon_k-m|^2/2}\quad\Rightarrow\quad "
    r"\sum_k w_k\,\delta_{\epsilon_k}\to N(m,I)",
    compared="mean and covariance under those weights, the posterior of the codebook given m at noise 1, with m and I; "
    "in truth they are m/2 and I/2, and the weights exp(ε·m) give m and I",
    oracle="a codebook of 65 × 65 points that stand for N(0, I), which is the limit of a large one",
    source="Ohayon et al. 2025, arXiv:2502.01189, for such codebooks; Owen 2013, Monte Carlo theory, chapter 9",
    bound=OffBy(0.49, "both are half of what is claimed; what is true holds to rounding, or this fails"),
    functions=(Atoms, Law.posterior_covariance),
    test="",
)
def _nearest_noises_are_shifted_noises(setting: Setting) -> Measured:
    (noises, _), m = square(8.0, 65), np.asarray([0.6, -0.4])
    masses = np.prod(normal(noises), 1)
    codebook, process = Atoms(noises, masses), Process(EDM())
    tilted = Atoms(noises, masses * np.exp(noises @ m))

    @jax.jit
    def moments(at: Array) -> tuple[Array, ...]:
        given = codebook.denoiser(process)(at, 1.0)[0], codebook.posterior_covariance(process, at, 1.0)[0]
        return *given, tilted.mean, tilted.covariance

    mean, covariance, *of_tilted = moments(jnp.asarray(m[None]))
    pairs = zip((mean, covariance, *of_tilted), (m / 2, np.eye(2) / 2, m, np.eye(2)), strict=True)
    right = largest(relative(found, expected) for found, expected in pairs)
    false = float(np.min([relative(mean, m), relative(covariance, np.eye(2))]))
    return Measured(refuted(setting, false, right), f"what is right is off by {right:.0e}", _weighted_draws())


def _weighted_draws() -> Curves:
    """Histograms of 100,000 noises on the line under either set of weights, for m = 1.5."""
    m, noises = 1.5, np.random.default_rng(8).normal(size=100_000)
    edges = np.linspace(-2.0, 4.5, 53)
    x, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    lines = {"exact N(m/2, 1/2)": normal(x, m / 2, 0.5), "exact N(m, 1)": normal(x, m)}
    for name, weights in (("exp(−|ε−m|²/2)", np.exp(-0.5 * (noises - m) ** 2)), ("exp(ε·m)", np.exp(noises * m))):
        lines[name] = np.histogram(noises, edges, weights=weights)[0] / weights.sum() / width
    return Curves(x, lines, "ε", "density")
