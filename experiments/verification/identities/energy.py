"""Rows 40 and 41: densities and energies from denoising autoencoders, and a generator trained by two of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike

from diffusion import EDM, Process
from diffusion.energy import (
    Potential,
    asymmetry,
    density_estimator_loss,
    exact_potential,
    frozen_gap,
    generator_loss,
    multiscale_denoiser,
    multiscale_loss,
    potential_gradient,
    residual_denoiser,
)
from diffusion.oracles import Atoms, GaussianLaw
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.weightings import SNRWeighting, UniformWeighting
from experiments.verification.closed_forms import MASSES, POINTS, normal, square
from experiments.verification.identities.score_matching import GivenNoise, OneTime
from experiments.verification.laws import line
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves, HeatMap

_SIGMA = 0.7
_LEVELS = np.geomspace(0.7, 1.4, 4)


def _noises(count: int) -> tuple[Array, Array, Array]:
    """(x_0, z, mass) for every pair of a data point and a node z of a rule for N(0, I)."""
    z, area = square(8.0, count)
    masses = np.outer(MASSES, area * np.exp(-0.5 * np.sum(z**2, 1)) / (2 * np.pi)).reshape(-1)
    return tuple(jnp.asarray(a) for a in (np.repeat(POINTS, len(z), 0), np.tile(z, (len(POINTS), 1)), masses))  # type: ignore[return-value]


def _kernels(y: np.ndarray, sigma: float) -> np.ndarray:
    """p_k N(y; x_k, σ²I), (b, K); their sum over k is the kernel density estimate."""
    squares = np.sum((y[:, None] - POINTS) ** 2, -1)
    return MASSES * np.exp(-0.5 * squares / sigma**2) / (2 * np.pi * sigma**2)


def _score(y: np.ndarray, parts: np.ndarray, sigma: float) -> np.ndarray:
    return (parts @ POINTS / parts.sum(1, keepdims=True) - y) / sigma**2


def _bent(psi: Potential, theta: Array, y: Array) -> Array:
    """ψ with four changes, θ_i times the i-th of them."""
    changes = jnp.stack([y[:, 0], 0.5 * jnp.sum(y**2, 1), jnp.cos(y[:, 0] + 2 * y[:, 1]), jnp.sin(2 * y[:, 1])])
    return psi(y) + jnp.sum(theta[:, None] * changes, 0)


def _estimator(setting: Setting) -> dict[str, float]:
    """The errors of the potential, of the loss and its slopes at it, and of the library's loss by draws."""
    x_0, z, masses = _noises(81)
    psi = exact_potential(Atoms(POINTS, MASSES), _SIGMA)

    def loss(theta: Array) -> Array:
        process, denoise = Process(EDM(), GivenNoise(z)), residual_denoiser(Partial(_bent, psi, theta))
        times, weighting = OneTime(_SIGMA), UniformWeighting()
        terms = denoising_terms(setting.key(0), process, denoise, x_0, weighting=weighting, times=times)
        return jnp.sum(masses * 2 * terms.loss)

    def size(unit: Array) -> Array:
        slope = potential_gradient(Partial(_bent, _nothing, unit), x_0 + _SIGMA * z)
        return jnp.sqrt(jnp.sum(masses * jnp.sum(slope**2, 1)))

    @jax.jit
    def relative_slopes() -> tuple[Array, Array]:
        value, slopes = jax.value_and_grad(loss)(jnp.zeros(4))
        return value, slopes / (2 * jnp.sqrt(value) * jax.lax.map(size, jnp.eye(4)))

    value, slopes = relative_slopes()

    grid, area = square(8.0, 121)
    parts = _kernels(grid, _SIGMA)
    fisher = area * float(np.sum(parts.sum(1) * np.sum(_score(grid, parts, _SIGMA) ** 2, 1)))
    least = 2 * _SIGMA**2 - _SIGMA**4 * fisher

    @jax.jit
    def by_draws(points: Array) -> tuple[Array, Array]:
        process, times, weighting = Process(EDM()), OneTime(_SIGMA), UniformWeighting()
        denoise = residual_denoiser(psi)
        terms = denoising_terms(setting.key(1), process, denoise, points, weighting=weighting, times=times)
        return density_estimator_loss(setting.key(1), psi, points, _SIGMA), 2 * terms.loss

    return {
        "ψ": relative(jax.jit(psi)(jnp.asarray(grid[::97])), _SIGMA**2 * np.log(_kernels(grid[::97], _SIGMA).sum(1))),
        "a slope of the loss": largest(np.abs(slopes)),
        "the least loss": relative(value, least),
        "the loss by draws": relative(*by_draws(jnp.asarray(POINTS))),
    }


def _nothing(y: Array) -> Array:
    return jnp.zeros(y.shape[0], y.dtype)


def _slopes_by_formula(mean: float, std: float, sigma: float) -> np.ndarray:
    """(KL, ∂KL/∂mean, ∂KL/∂std) of N(mean, std² + σ²) from `line` blurred by σ: ∫ ∂q̂ ln(q̂/p̂), by NumPy."""
    y, law, v = np.linspace(-12.0, 12.0, 2001), line(), std**2 + sigma**2
    total = np.asarray(law.floor) + sigma**2
    gaps = y[:, None] - np.asarray(law.means)[:, 0]
    p, q = normal(gaps, 0.0, total) @ np.asarray(law.weights), normal(y, mean, v)
    changes = [np.ones_like(y), (y - mean) / v, std * ((y - mean) ** 2 / v**2 - 1 / v)]
    log_q = -0.5 * (y - mean) ** 2 / v - 0.5 * np.log(2 * np.pi * v)
    ratio = np.where(q > 1e-200, log_q - np.log(np.maximum(p, 1e-300)), 0.0)
    return np.asarray([(y[1] - y[0]) * np.sum(q * change * ratio) for change in changes])


def _slopes_of_the_generator(means: np.ndarray, std: float, sigma: float) -> np.ndarray:
    """`_slopes_by_formula` from the loss with frozen energies: g = mean + std z, with rules for z and ε."""
    nodes = np.linspace(-8.5, 8.5, 69)
    weights = (nodes[1] - nodes[0]) * normal(nodes)
    z, noise = (jnp.asarray(a.reshape(-1, 1)) for a in np.meshgrid(nodes, nodes, indexing="ij"))
    masses, psi_data = jnp.asarray(np.outer(weights, weights).reshape(-1)), exact_potential(line(), sigma)

    def loss(theta: Array) -> Array:
        # The density of the samples has the generator's parameters too, but no gradient may pass through it.
        psi_model = Partial(_gaussian_potential, theta, sigma)
        return jnp.sum(masses * frozen_gap(psi_data, psi_model, theta[0] + theta[1] * z + sigma * noise, sigma))

    def one(mean: Array) -> Array:
        value, slopes = jax.value_and_grad(loss)(jnp.stack([mean, jnp.asarray(std, mean.dtype)]))
        return jnp.append(value, slopes)

    return np.asarray(jax.jit(lambda m: jax.lax.map(one, m))(jnp.asarray(means)))


def _gaussian_potential(theta: Array, sigma: float, y: Array) -> Array:
    return exact_potential(GaussianLaw(theta[:1], jnp.zeros((1, 0)), jnp.zeros(0), theta[1] ** 2), sigma)(y)


def _noise_of_the_generator(setting: Setting) -> float:
    """The error of `generator_loss` against the gap at g + σε, for the ε that it draws, known from a linear gap."""
    g, sigma = jnp.asarray(np.random.default_rng(2).normal(size=(8, 1))), 0.5
    psi_data, psi_model = exact_potential(line(), sigma), Partial(_gaussian_potential, jnp.asarray([0.2, 0.8]), sigma)

    @jax.jit
    def both() -> tuple[Array, Array]:
        y = generator_loss(setting.key(3), _nothing, Partial(_linear, sigma), g, sigma)[:, None]
        found = generator_loss(setting.key(3), psi_data, psi_model, g, sigma)
        return found, frozen_gap(psi_data, psi_model, y, sigma)

    return relative(*both())


def _linear(sigma: float, y: Array) -> Array:
    return sigma**2 * y[:, 0]


@identity(
    row="40",
    title="A scalar trained to denoise is a log-density, and two of them train a generator",
    latex=r"\mathrm{argmin}_\psi\,\mathbb{E}|\nabla\psi(x+\epsilon)+\epsilon|^2 = \sigma^2\ln\hat p + C,\quad "
    r"\min = d\sigma^2 - \sigma^4\,\mathbb{E}|\nabla\ln\hat p|^2,\quad "
    r"\nabla_\theta\mathrm{KL}(\hat q\|\hat p) = \mathbb{E}[\nabla_\theta(\psi_q-\psi_p)(g_\theta+\epsilon)]/\sigma^2",
    compared="the exact potential with σ² ln of the kernel density; the loss there with its minimum, its slopes in "
    "four directions with 0; KL of a Gaussian generator and its slopes, both energies frozen, with the integral's",
    oracle="three points in the plane, σ = 0.7; two Gaussians on the line, σ = 1/2; sums and integrals by NumPy",
    source="Bigdeli, Lin, Portenier, Dunbar & Zwicker 2020, arXiv:2001.02728",
    bound=Within(1e-10, "the trapezoidal rule is exact here to rounding", roundoffs=2e1),
    functions=(density_estimator_loss, exact_potential, residual_denoiser, generator_loss, frozen_gap),
)
def _denoising_density_estimator(setting: Setting) -> Measured:
    errors = _estimator(setting)
    means, std, sigma = np.linspace(-2.0, 2.5, 31), 0.6, 0.5
    found = _slopes_of_the_generator(means, std, sigma)
    exact = np.asarray([_slopes_by_formula(mean, std, sigma) for mean in means])
    for i, name in enumerate(("KL", "a slope of KL in the mean", "a slope of KL in the width")):
        errors[name] = relative(found[:, i], exact[:, i])
    errors["the generator's loss by draws"] = _noise_of_the_generator(setting)
    lines = {"exact, the mean": exact[:, 1], "exact, the width": exact[:, 2]}
    lines |= {"the mean": found[:, 1], "the width": found[:, 2]}
    return worst_of(errors, Curves(means, lines, "mean of the generator", "slope of KL"))


def _pairs(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Σ_σ w_σ E[x|y, σ], the score of Σ_σ p_σ/σ², the density of noisy data), by Bayes' rule for points and levels."""
    parts = np.stack([_kernels(y, sigma) for sigma in _LEVELS])
    joint = parts / _LEVELS[:, None, None] ** 2
    shares = joint.sum(2) / joint.sum((0, 2))
    scores = np.stack([_score(y, part, sigma) for part, sigma in zip(parts, _LEVELS, strict=True)])
    mean = np.einsum("sbk,kd->bd", joint, POINTS) / joint.sum((0, 2))[:, None]
    return mean, np.einsum("sb,sbd->bd", shares, scores), parts.mean(0).sum(1)


def _slopes_of_the_multiscale_loss(setting: Setting) -> np.ndarray:
    """The slopes in four changes of the field, two of them not gradients, relative to their Cauchy-Schwarz bound."""
    x_0, z, masses = _noises(121)
    best = multiscale_denoiser(Atoms(POINTS, MASSES), _LEVELS)

    def changes(y: Array) -> Array:
        turned = jnp.stack([-y[:, 1], y[:, 0]], 1)
        return jnp.stack([y, turned, jnp.cos(turned), jnp.sin(2 * y)])

    def loss(theta: Array) -> Array:
        def denoise(y: Array, t: ArrayLike) -> Array:
            return best(y, t) + jnp.sum(theta[:, None, None] * changes(y), 0)

        def at_level(sigma: Array) -> Array:
            terms = denoising_terms(
                setting.key(0),
                Process(EDM(), GivenNoise(z)),
                denoise,
                x_0,
                weighting=SNRWeighting(),
                times=OneTime(sigma),
            )
            return jnp.sum(masses * 2 * terms.loss)

        return jnp.mean(jax.lax.map(at_level, jnp.asarray(_LEVELS)))

    def squares(sigma: Array) -> Array:
        return jnp.sum(masses * jnp.sum(changes(x_0 + sigma * z) ** 2, -1), -1) / sigma**2

    @jax.jit
    def relative_slopes() -> Array:
        value, slopes = jax.value_and_grad(loss)(jnp.zeros(4))
        return slopes / (2 * jnp.sqrt(value * jnp.mean(jax.lax.map(squares, jnp.asarray(_LEVELS)), 0)))

    return np.asarray(relative_slopes())


@identity(
    row="41",
    title="One energy for all noise levels: what it denoises to, and the curl that keeps it from doing so",
    latex=r"y - \sigma_0^2\nabla E(y) \approx r(y) = \sum_\sigma w_\sigma(y)\,\mathbb{E}[x|y,\sigma],\quad "
    r"w_\sigma\propto p(\sigma)\,l(\sigma)\,p_\sigma(y),\quad "
    r"J-J^T = \bar s\,(r-y)^T - (r-y)\,\bar s^T,\quad \bar s = \sum_\sigma w_\sigma\nabla\ln p_\sigma",
    compared="the mean over levels with Bayes' rule for pairs of a point and a level; the slopes of the loss there, in "
    "four directions, two of them not gradients, with 0; and ‖J − Jᵀ‖² with that of the formula, so that the field of "
    "the least loss is not a gradient and an energy only approaches it",
    oracle="three points in the plane, four levels from 0.7 to 1.4, l = 1/σ²; sums by NumPy",
    source="Li, Chen & Sommer 2019, arXiv:1910.07762; the curl by differentiating w",
    bound=Within(1e-10, "the trapezoidal rule is exact here to 1e-12", roundoffs=1e2),
    functions=(multiscale_denoiser, multiscale_loss, asymmetry),
)
def _multiscale_denoiser(setting: Setting) -> Measured:
    y, _ = square(3.0, 31)
    best = multiscale_denoiser(Atoms(POINTS, MASSES), _LEVELS)
    mean, score, density = _pairs(y)
    answers, found = jax.jit(lambda at: (best(at, 0.0), asymmetry(lambda v: best(v, 0.0), at)))(jnp.asarray(y))
    step = mean - y
    turned = 2 * (np.sum(score**2, 1) * np.sum(step**2, 1) - np.sum(score * step, 1) ** 2)
    antisymmetric, symmetric = (np.asarray(part, np.float64) for part in (found.antisymmetric, found.symmetric))
    errors = {
        "r(y)": relative(answers, mean),
        "a slope of the loss": largest(np.abs(_slopes_of_the_multiscale_loss(setting))),
        "the curl": relative(antisymmetric, turned),
    }
    curl = float(np.sqrt(np.sum(density * antisymmetric) / np.sum(density * symmetric)))
    most = float(np.sqrt(np.max(antisymmetric / symmetric)))
    local = np.sqrt(antisymmetric / symmetric).reshape(31, 31).T
    axis = np.linspace(-3.0, 3.0, 31)
    worst = worst_of(errors)
    detail = f"‖J − Jᵀ‖/‖J + Jᵀ‖ is {curl:.4f} over noisy data, {most:.3f} at most; {worst.detail}"
    return Measured(worst.error, detail, HeatMap(axis, axis, local, "y₁", "y₂", "‖J − Jᵀ‖/‖J + Jᵀ‖"))
