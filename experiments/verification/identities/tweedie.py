"""Rows 15, 16, 17 and 35: a schedule and its SDE, and what a denoiser reveals of the law of the data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import EDM, VE, VP, Cosine, Process, RectifiedFlow, Schedule, SubVP, score, velocity
from diffusion.dynamics import reverse_sde
from diffusion.oracles import GaussianMixture
from diffusion.oracles.law import Law
from diffusion.prediction import Denoiser, eps_from_x0, target
from diffusion.process import transition
from diffusion.tweedie import posterior_covariance, posterior_covariance_from_score, posterior_trace
from experiments.verification.chosen import OneOf
from experiments.verification.laws import PROCESSES, alpha_and_sigma, chosen, draws, line, mixture, over_processes
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves

_BAYES = "Bayes' rule for three Gaussians and for three points, by NumPy in float64"
_ROUNDING = "closed forms on both sides: what is left is rounding, about 1e-14"
_LINE = np.linspace(-3.0, 3.0, 121)[:, None]
"""The points at which a picture shows a function of x."""


def _closed_forms(schedule: Schedule, t: Any) -> tuple[Any, Any]:
    """(f, g²) of a schedule at t, from the papers."""
    if isinstance(schedule, (VP, SubVP)):
        low, high = schedule.beta_min, schedule.beta_max
        beta, integral = low + t * (high - low), low * t + 0.5 * t**2 * (high - low)
        return -0.5 * beta, beta * (1.0 if isinstance(schedule, VP) else -np.expm1(-2 * integral))
    if isinstance(schedule, VE):
        ratio = schedule.sigma_max / schedule.sigma_min
        return 0 * t, 2 * np.log(ratio) * schedule.sigma_min**2 * ratio ** (2 * t)
    if isinstance(schedule, EDM):
        return 0 * t, 2 * t
    if isinstance(schedule, RectifiedFlow):
        return -1 / (1 - t), 2 * t / (1 - t)
    slope = 0.5 * np.pi * np.tan(0.5 * np.pi * t)
    return -slope, 2 * slope


def _from_the_sde(schedule: Schedule, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α = exp ∫f and σ² = α² ∫ g²/α², from 0 to each t, by quadrature of the closed forms."""
    nodes, weights = np.polynomial.legendre.leggauss(100)

    def integral(function: Any, end: np.ndarray) -> np.ndarray:
        return 0.5 * end * np.sum(weights * function(0.5 * end[..., None] * (nodes + 1)), -1)

    def alpha(end: np.ndarray) -> np.ndarray:
        return np.exp(integral(lambda u: _closed_forms(schedule, u)[0], end))

    return alpha(t), alpha(t) ** 2 * integral(lambda u: _closed_forms(schedule, u)[1] / alpha(u) ** 2, t)


@jax.jit
def _facts_of_schedule(schedule: Schedule, t: jax.Array) -> tuple[jax.Array, ...]:
    return schedule.drift(t), schedule.diffusion_squared(t), schedule.alpha(t), schedule.variance(t)


@identity(
    row="15",
    topics=("schedules",),
    title="The SDE of a schedule, and the schedule of an SDE",
    latex=r"f = \dot\alpha/\alpha,\quad g^2 = (\sigma^2)^{\cdot} - 2f\sigma^2\quad\Leftrightarrow\quad "
    r"\alpha = e^{\int f},\quad \sigma^2 = \alpha^2\int g^2/\alpha^2",
    compared="f and g² by automatic differentiation with the closed forms, and α and σ² with the integrals of those, "
    "at 9 times for six schedules",
    oracle="the closed forms of VP, SubVP, VE, EDM, RectifiedFlow and Cosine, and quadrature with 100 nodes",
    source="Song et al. 2021, arXiv:2011.13456, eq. 29 to 33; Karras et al. 2022, arXiv:2206.00364, appendix B",
    bound=Within(1e-12, _ROUNDING, roundoffs=1.5e2),
    functions=(Schedule.drift, Schedule.diffusion_squared),
)
def _schedule_and_sde(setting: Setting) -> Measured:
    found = {}
    for schedule in (VP(), SubVP(), VE(), EDM(), RectifiedFlow(), Cosine()):
        name = type(schedule).__name__
        t = jnp.asarray(np.linspace(0.02, 0.96, 9) * float(schedule.t_max))
        exact = np.asarray(t, np.float64)
        f, g_squared, alpha, variance = _facts_of_schedule(schedule, t)
        slope, spread = _closed_forms(schedule, exact)
        scale, noise = _from_the_sde(schedule, exact)
        found[f"f of {name}"] = relative(f, slope)
        for what, value, expected in (("g²", g_squared, spread), ("α", alpha, scale), ("σ²", variance, noise)):
            found[f"{what} of {name}"] = relative(np.asarray(value, np.float64) / expected, 1.0)
    t, lines = np.linspace(0.0, 1.0, 101), {}
    for schedule in (VP(), SubVP()):
        name = type(schedule).__name__
        lines[f"exact for {name}"] = _closed_forms(schedule, t)[1]
        lines[name] = np.asarray(jax.jit(schedule.diffusion_squared)(jnp.asarray(t)))
    return worst_of(found, Curves(t, lines, "t", "g²"))


def _laws(setting: Setting) -> dict[str, GaussianMixture]:
    humps = mixture(setting.dim)
    # Points are humps without width: one law to compile for.
    return {"the mixture": humps, "points": GaussianMixture.isotropic(humps.means, 0.0, humps.weights)}


@jax.jit
def _humps(law: Law) -> tuple[jax.Array, jax.Array, jax.Array]:
    c = law.components()
    return jnp.exp(c.log_weights), c.means, c.floor


def _by_bayes(law: Law, process: Process, x: jax.Array, t: float) -> dict[str, np.ndarray]:
    """The score at x, and the covariance of x_0 given x, for isotropic humps m_k with variances v_k."""
    weights, means, variances = (np.asarray(a, np.float64) for a in _humps(law))
    alpha, sigma = alpha_and_sigma(process, t)
    total = alpha**2 * variances + sigma**2
    gaps = np.asarray(x, np.float64)[:, None] - alpha * means
    logits = np.log(weights) - 0.5 * np.sum(gaps**2, -1) / total - 0.5 * law.dim * np.log(total)
    w = np.exp(logits - logits.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    answers = means + (alpha * variances / total)[:, None] * gaps
    mean = np.einsum("bk,bkd->bd", w, answers)
    between = np.einsum("bk,bkd,bke->bde", w, answers - mean[:, None], answers - mean[:, None])
    within = np.einsum("bk,de->bde", w * variances * sigma**2 / total, np.eye(law.dim))
    return {"score": -np.einsum("bk,bkd->bd", w / total, gaps), "covariance": within + between}


@jax.jit
def _score(process: Process, denoise: Denoiser, x: jax.Array, t: jax.Array) -> jax.Array:
    return score(process, denoise)(x, t)


@identity(
    row="16a",
    topics=("denoisers",),
    title="Tweedie's formula: the denoiser is the score",
    latex=r"\nabla\ln p_t(x) = \frac{\alpha\,\mathbb{E}[x_0|x_t=x] - x}{\sigma^2}",
    compared="the score made from the exact denoiser with that of p_t, at 16 draws of p_t, for five processes",
    oracle=_BAYES,
    source="Robbins 1956; Efron 2011; Vincent 2011",
    bound=Within(1e-12, _ROUNDING, roundoffs=1.5e2),
    functions=(score, eps_from_x0),
    answers=True,
)
def _tweedie(setting: Setting) -> Measured:
    laws = _laws(setting)

    def errors(process: Process, t: float) -> dict[str, float]:
        found = {}
        for what, law in laws.items():
            x = draws(law, setting.key(0), process, 16, t)
            got = _score(process, setting.answered(law.denoiser(process)), x, t)
            found[what] = relative(got, _by_bayes(law, process, x, t)["score"])
        return found

    process, x = PROCESSES["VP"][0], jnp.asarray(_LINE)
    denoise, lines = setting.answered(line().denoiser(process)), {}
    for t in (0.1, 0.3):
        lines[f"exact at t = {t}"] = _by_bayes(line(), process, x, t)["score"][:, 0]
        lines[f"at t = {t}"] = np.asarray(_score(process, denoise, x, t))[:, 0]
    return worst_of(over_processes(errors), Curves(_LINE[:, 0], lines, "x", "score"))


@jax.jit
def _second_order(process: Process, denoise: Denoiser, x: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
    return {
        "from the denoiser": posterior_covariance(process, denoise, x, t),
        "from the score": posterior_covariance_from_score(process, score(process, denoise), x, t),
        "the trace": posterior_trace(process, denoise, x, t).value,
    }


@identity(
    row="16b",
    topics=("denoisers",),
    title="Second-order Tweedie: the derivative of the denoiser is a covariance",
    latex=r"\mathrm{Cov}[x_0|x_t=x] = \frac{\sigma^2}{\alpha}\,\partial_x\mathbb{E}[x_0|x_t=x] "
    r"= \frac{\sigma^2 I + \sigma^4\nabla\nabla\ln p_t}{\alpha^2}",
    compared="both derivatives, and the trace, with the covariance at 16 draws of p_t, for five processes",
    oracle=_BAYES,
    source="Meng et al. 2021, arXiv:2111.04726, theorem 1",
    bound=Within(1e-12, _ROUNDING, roundoffs=3e2),
    functions=(posterior_covariance, posterior_covariance_from_score, posterior_trace),
    answers=True,
)
def _second_order_tweedie(setting: Setting) -> Measured:
    laws = _laws(setting)

    def errors(process: Process, t: float) -> dict[str, float]:
        found = {}
        for what, law in laws.items():
            x = draws(law, setting.key(0), process, 16, t)
            exact = _by_bayes(law, process, x, t)["covariance"]
            got = _second_order(process, setting.answered(law.denoiser(process)), x, t)
            found[f"the trace of {what}"] = relative(got.pop("the trace"), np.einsum("bii->b", exact))
            found |= {f"{how} of {what}": relative(value, exact) for how, value in got.items()}
        return found

    process, x, lines = PROCESSES["VP"][0], jnp.asarray(_LINE), {}
    denoise = setting.answered(line().denoiser(process))
    for t in (0.1, 0.3):
        lines[f"exact at t = {t}"] = _by_bayes(line(), process, x, t)["covariance"][:, 0, 0]
        lines[f"at t = {t}"] = np.asarray(_second_order(process, denoise, x, t)["from the denoiser"])[:, 0, 0]
    return worst_of(over_processes(errors), Curves(_LINE[:, 0], lines, "x", "variance of x_0 given x"))


def _data(law: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """(x_0 (n, d), weights (n,)) that stand for the law: its points, or the trapezoidal rule on the line."""
    weights = np.asarray(law.weights)
    if not np.any(law.floor):
        return np.asarray(law.means), weights
    x, std = np.linspace(-5.0, 5.5, 401)[:, None], np.sqrt(law.floor)
    return x, np.exp(-0.5 * ((x - law.means[:, 0]) / std) ** 2) / std @ weights


def _given_x(process: Process, data: tuple[np.ndarray, np.ndarray], x: jax.Array, t: float) -> tuple[Any, Any, Any]:
    """(weights (b, n) of x_0 given x, x_0 (n, d), z (b, n, d)): the pairs that may have led to each x."""
    x_0, prior = data
    alpha, sigma = alpha_and_sigma(process, t)
    z = (np.asarray(x, np.float64)[:, None] - alpha * x_0) / sigma
    logits = np.log(np.maximum(prior, 1e-300)) - 0.5 * np.sum(z**2, -1)
    w = np.exp(logits - logits.max(1, keepdims=True))
    return w / w.sum(1, keepdims=True), x_0, z


@jax.jit
def _conditional_scores(process: Process, x_0: jax.Array, z: jax.Array, x: jax.Array, t: jax.Array) -> Any:
    """The score of x_t given x_0 for each pair: as a network's target, and from the forward step from 0 to t."""
    pairs = z.shape[:2]
    start = jnp.broadcast_to(x_0, z.shape).reshape(-1, x.shape[-1])
    end = jnp.broadcast_to(x[:, None], z.shape).reshape(-1, x.shape[-1])
    wanted = target(process, start, z.reshape(start.shape), t, "score")
    slope = jax.grad(lambda y: jnp.sum(transition(process, start, 0.0, t).log_prob(y)))(end)
    return wanted.reshape(*pairs, -1), slope.reshape(*pairs, -1)


@identity(
    row="17",
    topics=("score-matching",),
    title="The score is the posterior mean of the conditional scores",
    latex=r"\nabla\ln p_t(x) = \mathbb{E}[\nabla\ln p(x_t|x_0)\,|\,x_t=x]",
    compared="the mean over x_0 given x of −z/σ, and of the slope of the forward step, with the score of the exact "
    "denoiser, at 16 draws of p_t, for five processes",
    oracle="three points, summed over, and two Gaussians on the line, by the trapezoidal rule",
    source="Vincent 2011; Song et al. 2021, arXiv:2011.13456, section 3.3",
    bound=Within(1e-12, "sums; the trapezoidal rule is exact for Gaussians, to rounding", roundoffs=3e1),
    functions=(target, transition, score),
    answers=True,
    test="",
)
def _mean_of_conditional_scores(setting: Setting) -> Measured:
    found = {}
    points = _laws(setting)["points"]
    cases = [(f"points on {name}", points, name) for name in PROCESSES]
    for what, law, name in (*cases, ("the line on VP", line(), "VP"), ("the line on EDM", line(), "EDM")):
        process, t = chosen(name), PROCESSES[name][1]
        x = draws(law, setting.key(0), process, 16, t)
        w, x_0, z = _given_x(process, _data(law), x, t)
        got = _score(process, setting.answered(law.denoiser(process)), x, t)
        for values in _conditional_scores(process, jnp.asarray(x_0), jnp.asarray(z), x, t):
            mean = np.einsum("bn,bnd->bd", w, np.asarray(values, np.float64))
            found[what] = largest(found.get(what, 0.0), relative(got, mean))
    return worst_of(found)


@jax.jit
def _flows(process: Process, denoise: Denoiser, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    return velocity(process, denoise)(x, t), reverse_sde(process, denoise, 0.0).drift(x, t)


@identity(
    row="35",
    topics=("flows",),
    title="Flow matching learns the probability-flow ODE",
    latex=r"\mathbb{E}[z - x_0\,|\,x_t=x] = f x - \frac{1}{2}g^2\,\nabla\ln p_t(x),\quad x_t = (1-t)x_0 + t z",
    compared="the velocity with the mean of α'x_0 + σ'z given x, and that with f x − ½g² times the score, at 16 draws "
    "of p_t and three times, for the straight line and the quarter turn",
    oracle="three points, summed over, and two Gaussians on the line, by the trapezoidal rule; α', σ', f, g² by hand",
    source="Lipman et al. 2023, arXiv:2210.02747, theorem 1; Liu et al. 2023, arXiv:2209.03003",
    bound=Within(1e-12, "sums; the trapezoidal rule is exact for Gaussians, to rounding", roundoffs=2.5e2),
    functions=(velocity, reverse_sde),
    answers=True,
    test="",
)
def _flow_matching(setting: Setting) -> Measured:
    found, turn = {}, 0.5 * np.pi
    slopes: dict[Schedule, Any] = {
        RectifiedFlow(): lambda t: (-1.0, 1.0),
        Cosine(): lambda t: (-turn * np.sin(turn * t), turn * np.cos(turn * t)),
    }
    for place, (schedule, slope) in enumerate(slopes.items()):
        process = Process(OneOf(tuple(slopes), np.asarray(place)))
        for what, law in {"points": _laws(setting)["points"], "the line": line()}.items():
            for t in (0.1, 0.4, 0.9):
                x = draws(law, setting.key(0), process, 16, t)
                w, x_0, z = _given_x(process, _data(law), x, t)
                mean = np.einsum("bn,bnd->bd", w, slope(t)[0] * x_0 + slope(t)[1] * z)
                f, g_squared = _closed_forms(schedule, t)
                ode = f * np.asarray(x, np.float64) - 0.5 * g_squared * _by_bayes(law, process, x, t)["score"]
                got = _flows(process, setting.answered(law.denoiser(process)), x, t)
                errors = [relative(value, expected) for value in got for expected in (mean, ode)]
                found[f"{what} on {type(schedule).__name__} at {t}"] = largest(errors)
    return worst_of(found, _velocities(setting))


def _velocities(setting: Setting) -> Curves:
    process, x, lines = Process(RectifiedFlow()), jnp.asarray(_LINE), {}
    for t in (0.1, 0.4, 0.9):
        w, x_0, z = _given_x(process, _data(line()), x, t)
        lines[f"exact at t = {t}"] = np.einsum("bn,bnd->bd", w, z - x_0)[:, 0]
        lines[f"at t = {t}"] = np.asarray(_flows(process, setting.answered(line().denoiser(process)), x, t)[0])[:, 0]
    return Curves(_LINE[:, 0], lines, "x", "velocity")
