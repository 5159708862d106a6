"""Rows 1 to 4: the accumulated noise of a chain, the predictions made from it, and its reversed steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import Betas, Process, convert, posterior, transition
from diffusion.ddpm.losses import merge_noises, simplified_loss, two_noise_loss
from diffusion.oracles.law import Law
from diffusion.prediction import Kind, target
from diffusion.process import posterior_coefficients
from experiments.verification.closed_forms import (
    STEPS,
    Levels,
    chain_levels,
    levels,
    normal_log_prob,
    one_step,
    reverse_coefficients,
    shared,
)
from experiments.verification.laws import mixture
from experiments.verification.registry import (
    Measured,
    Setting,
    Within,
    WithinChance,
    identity,
    largest,
    relative,
    worst_of,
)
from experiments.verification.report.plots import Curves, settling

TOPICS = ("chain", "ddpm")

_CLOSED = "α and σ of seven schedules in closed form, in NumPy's float64"


@jax.jit
def _levels(process: Process, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    return process.alpha(t), process.schedule.variance(t)


@identity(
    row="1a",
    title="The noises of a chain add up to unit variance",
    latex=r"A_t = a_1 \cdots a_t,\quad B_t^2 = a_t^2 B_{t-1}^2 + b_t^2\quad\Rightarrow\quad A_t^2 + B_t^2 = 1",
    compared="A and B² with what 1000 steps have added, and A² + B² with 1, for the linear chain, cosine and ramp",
    oracle="the recursion, step by step, from the one-step variances of the papers",
    source="Ho et al. 2020, arXiv:2006.11239, eq. 4; Su 2022, the first post on diffusion models",
    bound=Within(1e-12, "a thousand products, each rounded", roundoffs=50),
    functions=(Betas.alpha, Betas.variance),
    test="tests/diffusion/ddpm/test_chains.py",
)
def _chain_accumulates(setting: Setting) -> Measured:
    t = np.arange(1, 1001)
    u = np.cos(np.pi / 2 * (np.arange(1001) / 1000 + 0.008) / 1.008) ** 2
    chains = {
        "linear": (Betas.linear(1000), np.linspace(1e-4, 0.02, 1000)),
        "cosine": (Betas.cosine(1000), np.minimum(1 - u[1:] / u[:-1], 0.999)),
        "ramp": (Betas.ramp(1000), 0.02 * t / 1000),
    }
    found, lines = {}, {}
    for name, (chain, betas) in chains.items():
        alpha, variance = map(np.asarray, _levels(Process(chain), t))
        known = chain_levels(betas, t)
        errors = (alpha / known.alpha, variance / known.sigma**2, alpha.astype(float) ** 2 + variance)
        found[name] = largest(float(np.max(np.abs(each - 1))) for each in errors)
        lines |= {f"exact, {name}": known.alpha, f"A, {name}": alpha}
    return worst_of(found, Curves(t, lines, "t", "A"))


@jax.jit
def _steps(process: Process, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    law = transition(process, jnp.ones((times.size - 1, 1)), times[:-1], times[1:])
    return law.mean[:, 0], law.std[:, 0]


@identity(
    row="1b",
    title="Many steps have the law of one jump",
    latex=r"x_t = a\,x_s + b\,\varepsilon_t\ \mathrm{repeated}\quad\Rightarrow\quad x_t = A_t\,x_0 + B_t\,\varepsilon",
    compared="products of the steps' factors and sums of their variances with A and B², over 20 steps",
    oracle=_CLOSED,
    source="Song et al. 2021, arXiv:2011.13456, appendix B; Kingma et al. 2021, arXiv:2107.00630, appendix A",
    bound=Within(1e-12, "twenty products, each rounded", roundoffs=200),
    functions=(transition,),
)
def _steps_make_a_jump(setting: Setting) -> Measured:
    found = {}
    for name, (process, _, _) in STEPS.items():
        times = np.arange(0, 41, 2) if name == "chain" else 0.98 * float(process.t_max) * np.linspace(0, 1, 21)
        scales, stds = (np.asarray(part, np.float64) for part in _steps(shared(name), times))
        known, alpha, variance = levels(name, times[1:]), 1.0, 0.0
        for k, (scale, std) in enumerate(zip(scales, stds, strict=True)):
            alpha, variance = scale * alpha, scale**2 * variance + std**2
            off = largest(abs(alpha / known.alpha[k] - 1), abs(variance / known.sigma[k] ** 2 - 1))
            found[name] = largest(found.get(name, 0.0), float(off))
    return worst_of(found)


@jax.jit
def _conversions(
    process: Process, answers: dict[Kind, jax.Array], x: jax.Array, x_0: jax.Array, z: jax.Array, t: jax.Array
) -> dict[Kind, dict[str, jax.Array]]:
    """Every kind of prediction, made from each of the others and from its definition."""
    kinds = list(answers)
    made: dict[Kind, dict[str, jax.Array]] = {kind: {"x_0 and z": target(process, x_0, z, t, kind)} for kind in kinds}
    for source in kinds:
        for kind in kinds:
            made[kind][source] = convert(answers[source], x, t, process, source, kind)
    return made


@identity(
    row="2",
    title="Five predictions are one",
    latex=r"y = p\,x_0 + q\,z:\quad x_0\,(1,0),\quad \varepsilon\,(0,1),\quad s\,(0,-\frac{1}{\sigma}),\quad "
    r"v\,(-\sigma,\alpha),\quad u\,(\dot\alpha,\dot\sigma)",
    compared="each of x_0, ε, score, v and velocity, computed from each of the five, with its definition, on four "
    "processes",
    oracle="p and q from α, σ and their slopes in closed form, in NumPy's float64",
    source="Salimans & Ho 2022, arXiv:2202.00512, appendix D; Lipman et al. 2023, arXiv:2210.02747",
    bound=Within(1e-12, "two equations in two unknowns, with a determinant far from 0", roundoffs=150),
    functions=(convert, target),
)
def _predictions(setting: Setting) -> Measured:
    rng, found = np.random.default_rng(0), {}
    x_0, z = rng.normal(size=(2, 3, setting.dim))
    for name in ("VP", "VE", "RectifiedFlow", "chain"):
        process, s, t = STEPS[name]
        times = np.asarray([s, 0.5 * (s + t), t])
        known = Levels(*(part[:, None] for part in levels(name, times)))
        answers: dict[Kind, np.ndarray] = {
            "x0": x_0,
            "eps": z,
            "score": -z / known.sigma,
            "v": known.alpha * z - known.sigma * x_0,
        }
        if name != "chain":
            answers["velocity"] = known.alpha_dot * x_0 + known.sigma_dot * z
        made = _conversions(process, answers, known.alpha * x_0 + known.sigma * z, x_0, z, times)
        for kind, sources in made.items():
            for source, value in sources.items():
                found[f"{kind} from {source}, {name}"] = relative(value, answers[kind])
    return worst_of(found)


@jax.jit
def _two_noises(
    process: Process, denoise: Partial, x_0: jax.Array, eps_s: jax.Array, eps_step: jax.Array, x_t: jax.Array, st: tuple
) -> tuple:
    merged = merge_noises(process, eps_s, eps_step, *st)
    return *merged, two_noise_loss(process, denoise, x_0, eps_s, eps_step, *st), denoise(x_t, st[1])


@identity(
    row="3a",
    title="One noise does the work of two",
    latex=r"B\varepsilon = a B_-\bar\varepsilon_- + b\,\varepsilon_t:\quad \mathbb{E}_\omega|\varepsilon_t - "
    r"\frac{b}{B}e|^2 = \frac{b^2}{B^2}|\varepsilon - e|^2 + d\,\frac{a^2B_-^2}{B^2}",
    compared="the two-noise loss, averaged over the other noise ω, with the one-noise loss; the merged noises with "
    "ε and ω",
    oracle="the rotation and both sides in NumPy, a and b by division and subtraction; 2d points for the mean",
    source="Su 2022, the first post on diffusion models; Ho et al. 2020, eq. 14",
    bound=Within(1e-12, "a quadratic function of ω, whose mean over those points is exact", roundoffs=30),
    functions=(merge_noises, two_noise_loss),
)
def _variance_reduction(setting: Setting) -> Measured:
    d, found = setting.dim, {}
    x_0, eps = np.random.default_rng(0).normal(size=(2, 1, d)) * np.ones((2 * d, 1))
    omega = np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
    for name in ("VP", "chain"):
        process, s, t = STEPS[name]
        before, after = levels(name, s), levels(name, t)
        a, b = one_step(before, after)
        eps_s = (a * before.sigma * eps + b * omega) / after.sigma
        eps_step = (b * eps - a * before.sigma * omega) / after.sigma
        x_t = after.alpha * x_0 + after.sigma * eps
        denoise = mixture(d).denoiser(process)
        merged, other, loss, denoised = _two_noises(process, denoise, x_0, eps_s, eps_step, x_t, (s, t))
        error = np.sum((eps - (x_t - after.alpha * np.asarray(denoised)) / after.sigma) ** 2, axis=-1)[0]
        expected = ((b / after.sigma) ** 2 * error) + d * (a * before.sigma / after.sigma) ** 2
        turned = largest(relative(merged, eps), relative(other, omega))
        found[name] = largest(turned, relative(np.mean(np.asarray(loss, np.float64)), expected))
    return worst_of(found)


@jax.jit
def _losses(key: jax.Array, process: Process, law: Law, denoise: Partial, st: tuple) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key, 4)
    x_0 = law.sample(keys[0], 40_000)
    eps_s, eps_step = (jax.random.normal(each, x_0.shape) for each in keys[1:3])
    two = two_noise_loss(process, denoise, x_0, eps_s, eps_step, *st)
    return two, simplified_loss(keys[3], process, denoise, x_0, st[1])


@identity(
    row="3b",
    title="The simplified loss, and the constant that it drops",
    latex=r"\mathbb{E}|\varepsilon_t - \frac{b}{B}e|^2 = \frac{b^2}{B^2}\,\mathbb{E}|\varepsilon - e|^2 "
    r"+ d\,\frac{a^2B_-^2}{B^2}",
    compared="the means of the two losses over 40,000 independent draws each, on a chain",
    oracle="any law and any denoiser, here a mixture with its own; a, b and B by recursion",
    source="Su 2022, the first post on diffusion models; Ho et al. 2020, eq. 14",
    bound=WithinChance(
        "4 standard errors of the difference of two means, exceeded in one run of 16,000 by chance", detects=0.06
    ),
    functions=(two_noise_loss, simplified_loss),
    answers=True,
)
def _variance_reduction_sampled(setting: Setting) -> Measured:
    (process, _, t), s = STEPS["chain"], 15
    before, after = levels("chain", s), levels("chain", t)
    a, b = one_step(before, after)
    law, share = mixture(setting.dim), setting.dim * (b / after.sigma) ** 2
    constant = setting.dim * (a * before.sigma / after.sigma) ** 2 * (1 + setting.seeded)
    denoise = setting.answered(law.denoiser(process))
    two, one = (np.asarray(part, np.float64) for part in _losses(setting.key(0), process, law, denoise, (s, t)))
    error = np.sqrt((two.var() + share**2 * one.var()) / two.size)
    off = two.mean() - share * one.mean() - constant
    plot = settling({"of the two sides": two - share * one - constant}, "|mean difference|")
    return Measured(float(abs(off) / error), f"{off:.2g} of {two.mean():.3g}, standard error {error:.2g}", plot)


@jax.jit
def _posterior_log_prob(process: Process, x_s: jax.Array, x_t: jax.Array, x_0: jax.Array, st: tuple) -> jax.Array:
    return posterior(process, x_t, x_0, *st).log_prob(x_s)


@identity(
    row="4a",
    title="The noising step reversed, given the data",
    latex=r"p(x_s|x_t,x_0) = \frac{p(x_t|x_s)\,p(x_s|x_0)}{p(x_t|x_0)} = "
    r"\mathcal{N}(\frac{a B_-^2 x_t + A_- b^2 x_0}{B^2},\ \frac{B_-^2b^2}{B^2})",
    compared="its log-density at 64 points with the sum of the three log-densities, on seven processes",
    oracle=f"Bayes' rule for three Gaussian densities; {_CLOSED}",
    source="Ho et al. 2020, arXiv:2006.11239, eq. 6 and 7",
    bound=Within(1e-12, "logarithms of densities, with nothing that cancels", roundoffs=50),
    functions=(posterior,),
)
def _posterior(setting: Setting) -> Measured:
    rng, found, d = np.random.default_rng(0), {}, setting.dim
    for name, (_, s, t) in STEPS.items():
        before, after = levels(name, s), levels(name, t)
        x_0, x_s, x_t = rng.normal(size=(3, 64, d)) * np.asarray([1, before.sigma, after.sigma])[:, None, None]
        log_prob = _posterior_log_prob(shared(name), x_s, x_t, x_0, (s, t))
        found[name] = relative(log_prob, _ratio(before, after, x_s, x_t, x_0))
    return worst_of(found, _posterior_curves())


def _ratio(before: Levels, after: Levels, x_s: np.ndarray, x_t: np.ndarray, x_0: np.ndarray) -> np.ndarray:
    a, b = one_step(before, after)
    forward = normal_log_prob(x_t, a * x_s, b) + normal_log_prob(x_s, before.alpha * x_0, before.sigma)
    return forward - normal_log_prob(x_t, after.alpha * x_0, after.sigma)


def _posterior_curves() -> Curves:
    process, s, t = STEPS["RectifiedFlow"]
    before, after = levels("RectifiedFlow", s), levels("RectifiedFlow", t)
    x, lines = np.linspace(-1.5, 2, 120)[:, None], {}
    for x_t in (-1.0, 0.5, 2.0):
        there, x_0 = np.full_like(x, x_t), np.full_like(x, 0.8)
        lines[f"exact, x_t = {x_t:g}"] = np.exp(_ratio(before, after, x, there, x_0))
        lines[f"x_t = {x_t:g}"] = np.exp(_posterior_log_prob(process, x, there, x_0, (s, t)))
    return Curves(x[:, 0], lines, "x_s", "p(x_s | x_t, x_0 = 0.8)")


@identity(
    row="4b",
    title="The reversed step in the notation of the chain",
    latex=r"\tilde\mu_t = \frac{a_t B_{t-1}^2}{B_t^2}x_t + \frac{A_{t-1}b_t^2}{B_t^2}x_0,\quad "
    r"\tilde\beta_t = \frac{B_{t-1}^2 b_t^2}{B_t^2}",
    compared="both factors and the variance with the formulas, at t = 2, ..., 40 of a ramp",
    oracle="a, b, A and B from the one-step variances by recursion",
    source="Ho et al. 2020, arXiv:2006.11239, eq. 7; Su 2022, the third post on diffusion models",
    bound=Within(1e-12, "a few products and quotients of what the recursion gives", roundoffs=150),
    functions=(posterior_coefficients,),
    test="tests/diffusion/ddpm/test_chains.py",
)
def _posterior_coefficients(setting: Setting) -> Measured:
    t = np.arange(1, 41)
    known = levels("chain", np.arange(41))
    c_t, c_0, added = np.transpose(list(reverse_coefficients(known)))
    found = [np.asarray(part) for part in jax.jit(posterior_coefficients)(STEPS["chain"][0], t - 1, t)]
    exact = (c_t, c_0, known.sigma[:-1] ** 2 * added / known.sigma[1:] ** 2)
    # At t = 1 two of the three are 0, and the library must return exactly 0.
    error = largest(float(np.max(np.abs(f - e) / np.where(e > 0, e, 1))) for f, e in zip(found, exact, strict=True))
    names = ("factor of x_t", "factor of x_0", "variance")
    lines = {f"exact {name}": value for name, value in zip(names, exact, strict=True)}
    return Measured(error, plot=Curves(t, lines | dict(zip(names, found, strict=True)), "t", ""))
