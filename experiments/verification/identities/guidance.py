"""Row 24, false statement N7: the law that guidance samples."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import VP, Process, score
from diffusion.oracles import GaussianLaw, GaussianMixture
from diffusion.prediction import Denoiser
from experiments.verification.closed_forms import normal
from experiments.verification.laws import PROCESSES, alpha_and_sigma, chosen, draws
from experiments.verification.registry import Measured, OffBy, Setting, Within, identity, largest, refuted, relative
from experiments.verification.report.plots import Curves
from samplers.guidance import classifier_free_guidance, classifier_guidance, tilt

_WEIGHTS = np.asarray([0.3, 0.7])


def _two_classes(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(means (2, d), the covariance (d, d) that both classes share)."""
    rng = np.random.default_rng(4)
    root = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return rng.normal(size=(2, dim)), 0.2 * np.eye(dim) + 0.5 * root @ root.T


def _log_ratio(process: Process, means: jax.Array, covariance: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    """ln p(second class | x_t): a logistic regression, since the Gaussians share their covariance."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    total = alpha**2 * covariance + sigma**2 * jnp.eye(len(covariance))
    slope = jnp.linalg.solve(total, alpha * (means[1] - means[0]))
    middle = 0.5 * alpha * (means[0] + means[1])
    logit = jnp.dot(x - middle, slope, precision="highest") + jnp.log(_WEIGHTS[1] / _WEIGHTS[0])
    return jax.nn.log_sigmoid(logit)


@jax.jit
def _score(process: Process, denoise: Denoiser, x: jax.Array, t: jax.Array) -> jax.Array:
    return score(process, denoise)(x, t)


@identity(
    row="24",
    title="An exact classifier leads to its class",
    latex=r"\nabla\ln p_t(x) + \nabla\ln p(y|x_t=x) = \nabla\ln p_t(x|y)",
    compared="the score of the guided denoiser of two classes with that of the second class alone, at 16 points and "
    "scale 1, on VP, EDM and RectifiedFlow",
    oracle="two Gaussians of one full covariance: the classifier is logistic regression, the score linear, by NumPy",
    source="Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.1; Song et al. 2021, arXiv:2011.13456, eq. 14",
    bound=Within(1e-12, "closed forms on both sides: what is left is rounding", roundoffs=6e1),
    functions=(classifier_guidance, tilt),
    answers=True,
)
def _classifier_guidance(setting: Setting) -> Measured:
    means, covariance = _two_classes(setting.dim)
    law, worst, curves = GaussianMixture.full(means, np.stack([covariance] * 2), _WEIGHTS), 0.0, None
    for name in ("VP", "EDM", "RectifiedFlow"):
        process, t = chosen(name), PROCESSES[name][1]
        classifier = Partial(_log_ratio, process, jnp.asarray(means), jnp.asarray(covariance))
        guided = classifier_guidance(process, setting.answered(law.denoiser(process)), classifier)
        x = draws(law, setting.key(0), process, 16, t)
        alpha, sigma = alpha_and_sigma(process, t)
        total = alpha**2 * covariance + sigma**2 * np.eye(setting.dim)
        exact = -np.linalg.solve(total, (np.asarray(x, np.float64) - alpha * means[1]).T).T
        worst = largest(worst, relative(_score(process, guided, x, t), exact))
        if name == "VP":
            curves = _between(
                lambda x, process=process, guided=guided, t=t: _score(process, guided, x, t), means, total, alpha
            )
    return Measured(worst, plot=curves)


def _between(guided: Callable[[jax.Array], jax.Array], means: np.ndarray, total: np.ndarray, alpha: float) -> Curves:
    """The components of the scores along the line from one class to the other."""
    s, apart = np.linspace(-0.6, 1.6, 16), alpha * (means[1] - means[0])
    x = alpha * means[0] + s[:, None] * apart
    scores = [-np.linalg.solve(total, (x - alpha * mean).T).T for mean in means]
    logs = [0.5 * np.sum((x - alpha * mean) * score, 1) for mean, score in zip(means, scores, strict=True)]
    second = 1 / (1 + _WEIGHTS[0] / _WEIGHTS[1] * np.exp(logs[0] - logs[1]))
    both = (1 - second[:, None]) * scores[0] + second[:, None] * scores[1]
    parts = {"exact: of the second class": scores[1], "guided": np.asarray(guided(jnp.asarray(x))), "not guided": both}
    unit = apart / np.linalg.norm(apart)
    lines = {name: part @ unit for name, part in parts.items()}
    return Curves(s, lines, "from the first class (0) to the second (1)", "score along the line, VP")


def _gaussian_score(x: np.ndarray, process: Process, t: float, mean: float, variance: float) -> np.ndarray:
    """The score at t for data that are N(mean, variance) in each coordinate."""
    alpha, sigma = alpha_and_sigma(process, t)
    return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)


@identity(
    row="N7",
    title="Classifier-free guidance samples the tilted density",
    latex=r"(1-w)\nabla\ln p_t(x) + w\,\nabla\ln p_t(x|y) = \nabla\ln q_t(x),\quad "
    r"q_0 \propto p_0^{1-w}\,p_0(\cdot|y)^w",
    compared="the score of the guided denoiser for w = 3 with that of the tilted density after the same noise, at 16 "
    "draws of p_t on VP; where w is 0 or 1 they agree",
    oracle="p_0 = N(0, 1) and p_0(·|y) = N(0.8, 1/4) in each coordinate, so that all are Gaussian, by NumPy",
    source="Bradley & Nakkiran 2024, arXiv:2408.09000; Ho & Salimans 2022, arXiv:2207.12598, section 3.2",
    bound=OffBy(
        0.5, "noise and tilting do not commute; the guided score itself is as it should be to rounding, or this fails"
    ),
    functions=(classifier_free_guidance,),
)
def _cfg_samples_the_tilted_density(setting: Setting) -> Measured:
    process, t, mean, variance = Process(VP()), 0.3, 0.8, 0.25
    ones = np.ones(setting.dim)
    conditional, free = (GaussianLaw.isotropic(m * ones, std) for m, std in ((mean, variance**0.5), (0.0, 1.0)))
    x = draws(free, setting.key(0), process, 16, t)
    points, false, right = np.asarray(x, np.float64), {}, 0.0
    for w in (0.0, 1.0, 3.0):
        guided = classifier_free_guidance(conditional.denoiser(process), free.denoiser(process), w)
        found = _score(process, guided, x, t)
        parts = [_gaussian_score(points, process, t, *law) for law in ((0.0, 1.0), (mean, variance))]
        right = largest(right, relative(found, (1 - w) * parts[0] + w * parts[1]))
        precision = 1 - w + w / variance
        false[w] = relative(found, _gaussian_score(points, process, t, w * mean / variance / precision, 1 / precision))
    right = largest(right, false[0.0], false[1.0])
    error = refuted(setting, false[3.0], right)
    return Measured(error, f"what is right is off by {right:.0e}", _where_guidance_ends(mean, variance))


def _where_guidance_ends(mean: float, variance: float) -> Curves:
    """The densities for w = 3: the ODE with the guided score is linear and leads from σ = ∞ to N(m(1 + 2v), v³)."""
    x, w = np.linspace(-1.0, 2.5, 201), 3.0
    precision = 1 - w + w / variance
    laws = {
        "exact tilted density": (w * mean / variance / precision, 1 / precision),
        "what guidance samples": (mean * (1 + 2 * variance), variance**3),
        "w = 1": (mean, variance),
    }
    lines = {name: normal(x, m, v) for name, (m, v) in laws.items()}
    return Curves(x, lines, "x", "density")
