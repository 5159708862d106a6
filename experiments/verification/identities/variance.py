"""Rows 8 to 11: the best variance of a reversed step, and the least loss of a noise prediction."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from diffusion import EDM, Process, eps_from_x0, perturb, score
from diffusion.ddpm.analytic_variance import Method, covariance_bound, covariance_samples
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.elbo import elbo_term
from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Optimal, ReverseVariance, optimal_variance, step
from diffusion.oracles import GaussianLaw
from experiments.verification.closed_forms import STEPS, atoms_variance, levels, line_moments, one_step
from experiments.verification.laws import line
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves

TOPICS = ("variance", "ddpm")

_QUADRATURE = "two Gaussians on the line; p_t, its score and Var[x_0|x_t] in NumPy, integrated over x_t"


@identity(
    row="8a",
    title="The best variance of a step, from the loss of a noise prediction",
    latex=r"\sigma_t^2 = \frac{M_t}{d},\quad M_t = \frac{b^2}{a^2}\left[\frac{b^2}{B^2}L_t + "
    r"d\,\frac{a^2B_-^2}{B^2}\right],\quad L_t = \mathbb{E}|\varepsilon - e|^2",
    compared="the library's variance with M/d at t = 2, ..., 40 of a ramp, for arbitrary L and for the L of a law",
    oracle=f"a, b, A and B by recursion; for the curve {_QUADRATURE}",
    source="Su 2022, the seventh post on diffusion models; Bao et al. 2022, arXiv:2201.06503, theorem 1",
    bound=Within(1e-12, "a few products and quotients", roundoffs=200),
    functions=(optimal_variance,),
)
def _optimal_variance(setting: Setting) -> Measured:
    t = np.arange(2, 41)
    before, after = levels("chain", t - 1), levels("chain", t)
    a, b = one_step(before, after)
    fisher = np.asarray([line_moments(*level)[1] for level in zip(after.alpha, after.sigma, strict=True)])
    lines = {"exact bound, from below": (before.sigma / after.sigma) ** 2, "exact bound, from above": 1 / a**2}
    error = 0.0
    for name, loss in {"any L": np.linspace(0.1, 2, t.size), "two humps": 1 - after.sigma**2 * fisher}.items():
        expected = b**2 / a**2 * (b**2 / after.sigma**2 * loss + a**2 * before.sigma**2 / after.sigma**2)
        covariance = (after.sigma / after.alpha) ** 2 * loss
        found = np.asarray(jax.jit(optimal_variance)(STEPS["chain"][0], covariance, t - 1, t), np.float64)
        error = largest(error, float(np.max(np.abs(found / expected - 1))))
        if name == "two humps":
            lines[f"the best for {name}"] = found / b**2
    return Measured(error, plot=Curves(t, lines, "t", "variance of the step backwards / β"))


@jax.jit
def _terms_and_slopes(shifts: jax.Array, best: jax.Array, x_0: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The ELBO's terms for k = 1, 2 and their slopes in ln E|x_0 − D|²/d, at `shifts` from the best value."""
    process, times = Process(EDM()), np.asarray([0.0, 0.5, 2.0])

    def term(shift: jax.Array, k: jax.Array) -> jax.Array:
        chain = GeneratorChain(process, Partial(_sine), times, Optimal(times[1:], best * jnp.exp(shift)))
        return jnp.mean(elbo_term(chain, x_0, x[k - 1], k))

    return jax.vmap(jax.vmap(jax.value_and_grad(term), (0, None)), (None, 0))(shifts, jnp.arange(1, 3))


def _sine(x: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sin(x)


@identity(
    row="8b",
    title="The best variance makes −ELBO least, for any data and any denoiser",
    latex=r"\frac{\partial}{\partial\sigma_t^2}\,\mathbb{E}\,\mathrm{KL}(p(x_{t-1}|x_t,x_0)\,\Vert\,"
    r"\mathcal{N}(\mu_t,\sigma_t^2 I)) = 0\quad\mathrm{at}\quad\sigma_t^2 = M_t/d",
    compared="the end of a Newton step in ln E|x_0 − D|² from the mean square error over 50 points with its start",
    oracle="the mean square error in NumPy, for Student-t data and the denoiser sin x",
    source="Bao et al. 2022, arXiv:2201.06503, theorem 1; Su 2022, the seventh post on diffusion models",
    bound=Within(1e-12, "automatic derivatives; the slope is 0 to rounding", roundoffs=50),
    functions=(elbo_term, Optimal),
    test="tests/diffusion/ddpm/test_reverse_steps.py",
)
def _optimal_variance_elbo(setting: Setting) -> Measured:
    x_0, x_1, x_2 = np.random.default_rng(0).standard_t(4, size=(3, 50, setting.dim))
    best = np.mean((x_0 - np.sin([x_1, x_2])) ** 2, axis=(1, 2))
    shifts = np.append(np.linspace(-1, 1.5, 41), [0.0, -0.1, 0.1])
    terms, slopes = map(np.asarray, _terms_and_slopes(shifts, best, x_0, np.stack([x_1, x_2])))
    curvature = (slopes[:, -1] - slopes[:, -2]) / 0.2
    lines = {f"k = {k}": term[:41] - term[41] for k, term in enumerate(terms, start=1)}
    plot = Curves(np.exp(shifts[:41]), lines, "covariance / best", "−ELBO above its least, in nats", log_x=True)
    return Measured(float(np.max(np.abs(slopes[:, 41] / curvature))), plot=plot)


_TIMES = {"VP": np.linspace(0.05, 0.5, 8), "EDM": np.geomspace(0.1, 5, 8), "RectifiedFlow": np.linspace(0.1, 0.8, 8)}


def _nodes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x_0, ε, weight) of the trapezoidal rule over each hump and the noise."""
    axis = np.linspace(-8, 8, 73)
    mass = np.exp(-0.5 * axis**2) / np.sqrt(2 * np.pi) * (axis[1] - axis[0])
    xi, eps = (part.ravel() for part in np.meshgrid(axis, axis))
    weight = np.outer(mass, mass).ravel()
    x_0 = np.concatenate([-1 + 0.3 * xi, 1.5 + 0.5 * xi])
    return x_0[:, None], np.tile(eps, 2)[:, None], np.concatenate([0.35 * weight, 0.65 * weight])


@jax.jit
def _means(process: Process, denoise: Partial, times: jax.Array, nodes: tuple) -> dict[str, jax.Array]:
    """The means of the three estimates, and of |ε − e|², |s|² and −s·ε, at each time."""
    x_0, eps, weight = nodes

    def at(t: jax.Array) -> dict[str, jax.Array]:
        x_t = perturb(process, x_0, eps, t)
        denoised = denoise(x_t, t)

        def answer(x: jax.Array, t: ArrayLike) -> jax.Array:
            return denoised

        found = {name: covariance_samples(process, answer, x_0, eps, t, name) for name in get_args(Method)}
        found["loss"] = jnp.sum((eps - eps_from_x0(process, x_t, denoised, t)) ** 2, axis=-1)
        slope = score(process, answer)(x_t, t)
        found |= {"fisher": jnp.sum(slope**2, axis=-1), "slope": -jnp.sum(slope * eps, axis=-1)}
        return {name: weight @ values for name, values in found.items()}

    return jax.lax.map(at, times)


def _by_quadrature(setting: Setting, name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(the library's means, NumPy's E Var[x_0|x_t] and 1 − σ² E|s|²) at the times of `_TIMES`."""
    process, times = STEPS[name][0], _TIMES[name]
    denoise, known = setting.answered(line().denoiser(process)), levels(name, times)
    covariance, fisher = np.transpose([line_moments(*pair) for pair in zip(known.alpha, known.sigma, strict=True)])
    found = {key: np.asarray(value, np.float64) for key, value in _means(process, denoise, times, _nodes()).items()}
    return found, {"covariance": covariance, "loss": 1 - known.sigma**2 * fisher}


@identity(
    row="9a",
    title="What is left of the data's variance, three ways",
    latex=r"\frac{1}{d}\mathbb{E}\,\mathrm{tr\,Cov}[x_0|x_t] = \frac{1}{d}\mathbb{E}|x_0 - D|^2 = "
    r"\frac{B^2}{A^2}(1 - \frac{1}{d}\mathbb{E}|e|^2) = \frac{1}{d}(\mathrm{Var}[x_0] - \mathrm{Var}[D])",
    compared="the means of the three estimates over x_0 and ε with E Var[x_0|x_t], at 8 times of 3 processes",
    oracle=_QUADRATURE,
    source="Bao et al. 2022, arXiv:2201.06503, theorem 1; Su 2022, the seventh post on diffusion models",
    bound=Within(1e-9, "the trapezoidal rule on Gaussians converges faster than any power of its step", roundoffs=150),
    functions=(covariance_samples,),
    answers=True,
)
def _analytic_variance(setting: Setting) -> Measured:
    errors = {}
    for name in _TIMES:
        found, exact = _by_quadrature(setting, name)
        for method in ("error", "score", "variance"):
            errors[f"{method}, {name}"] = relative(found[method], exact["covariance"])
    return worst_of(errors)


@identity(
    row="11",
    title="The least loss of a noise prediction is what the score leaves",
    latex=r"\min_e L_t = d - B^2\,\mathbb{E}|\nabla\ln p_t|^2",
    compared="E|ε − e|², and 1 − B² E|s|² and 1 + B E[s·ε] with the library's score, with the right side",
    oracle=_QUADRATURE,
    source="Vincent 2011, eq. 11; Su 2022, the seventh post on diffusion models",
    bound=Within(1e-8, "the trapezoidal rule on Gaussians converges faster than any power of its step", roundoffs=80),
    functions=(eps_from_x0, score),
    answers=True,
    test="tests/diffusion/ddpm/test_analytic_variance.py",
)
def _least_loss(setting: Setting) -> Measured:
    errors, lines = {}, {}
    for name in _TIMES:
        found, exact = _by_quadrature(setting, name)
        sigma = levels(name, _TIMES[name]).sigma
        library = 1 - sigma**2 * found["fisher"]
        errors[f"the loss, {name}"] = relative(found["loss"], exact["loss"])
        errors[f"the score, {name}"] = relative(library, exact["loss"])
        errors[f"the score and the noise, {name}"] = relative(1 - sigma * found["slope"], exact["loss"])
        if name == "VP":
            lines = {"exact": exact["loss"], "E|ε − e|²": found["loss"], "1 − B² E|s|²": library}
    return worst_of(errors, Curves(_TIMES["VP"], lines, "t, on VP", "least loss"))


@identity(
    row="9b",
    title="The bounds between which the best variance lies",
    latex=r"0\leq\frac{1}{d}\mathbb{E}\,\mathrm{tr\,Cov}[x_0|x_t]\leq\min(\frac{B^2}{A^2},\,\frac{(u-l)^2}{4})"
    r"\quad\Rightarrow\quad \tilde\beta_t\leq\sigma_t^2\leq b^2/a^2",
    compared="the bound with its formula; the best variance at both ends with β̃ and b²/a²; two laws with the bound",
    oracle="recursion for the chain; E Var[x_0|x_t] of ±1 and of numbers uniform on [−1, 1], by quadrature",
    source="Bao et al. 2022, arXiv:2201.06503, theorem 2",
    bound=Within(1e-12, "the bounds are attained, by one point and by an infinitely wide Gaussian", roundoffs=150),
    functions=(covariance_bound, FixedSmall),
)
def _variance_bounds(setting: Setting) -> Measured:
    t = np.arange(2, 41)
    before, after = levels("chain", t - 1), levels("chain", t)
    wide, images, *ends = (np.asarray(part, np.float64) for part in _ends(STEPS["chain"][0], t))
    free, (a, b) = (after.sigma / after.alpha) ** 2, one_step(before, after)
    least = (before.sigma * b / after.sigma) ** 2
    expected, found = (free, np.minimum(free, 1), (b / a) ** 2, least, least), (wide, images, *ends)
    errors = [float(np.max(np.abs(f / e - 1))) for f, e in zip(found, expected, strict=True)]
    lines = {"exact bound, any data": free, "exact bound, data in [−1, 1]": np.minimum(free, 1)}
    for name, points in {"±1": np.asarray([-1.0, 1.0]), "uniform": np.linspace(-1, 1, 257)}.items():
        left = np.asarray([atoms_variance(points, *level) for level in zip(after.alpha, after.sigma, strict=True)])
        errors.append(float(np.max(left / found[1] - 1)))
        lines[f"left of {name}"] = left
    return Measured(largest(errors), plot=Curves(t, lines, "t", "E Var[x_0 | x_t]", log_y=True))


@jax.jit
def _ends(process: Process, t: jax.Array) -> tuple[jax.Array, ...]:
    """The bounds for any data and for images, and the step's variance at the first bound, at 0 and for one point."""
    wide, images = covariance_bound(process, t), covariance_bound(process, t, (-1.0, 1.0))
    largest, least = (optimal_variance(process, covariance, t - 1, t) for covariance in (wide, 0.0))
    return wide, images, largest, least, FixedSmall().variance(process, t - 1, t)


_DATA_STD = 0.7


@jax.jit
def _reverse(process: Process, kind: ReverseVariance, denoise: Partial, x: jax.Array, s: jax.Array, t: jax.Array):
    law = step(process, kind, denoise(x, t), x, s, t)
    return law.mean, law.std[:, 0]


def _table(name: str, times: np.ndarray) -> Optimal:
    known = levels(name, times)
    return Optimal(times, 1 / (1 / _DATA_STD**2 + (known.alpha / known.sigma) ** 2))


def _denoiser(setting: Setting, process: Process, center: np.ndarray) -> Partial:
    return setting.answered(GaussianLaw.isotropic(center, _DATA_STD).denoiser(process))


@identity(
    row="10a",
    title="The analytic reverse step is the true one",
    latex=r"\mathcal{N}(\mu_t(x_t,\,\mathbb{E}[x_0|x_t]),\ \sigma_t^2 I) = p(x_{t-1}|x_t)"
    r"\quad\mathrm{for}\quad x_0\sim\mathcal{N}(m, vI)",
    compared="mean and standard deviation with those of x_s given x_t, at 4 steps each of VP and of a chain",
    oracle="the joint law of (x_s, x_t), conditioned by hand",
    source="Bao et al. 2022, arXiv:2201.06503, theorem 1; Su 2022, the seventh post on diffusion models",
    bound=Within(1e-12, "closed forms on both sides", roundoffs=20),
    functions=(step, Optimal),
    answers=True,
    test="tests/diffusion/ddpm/test_chains.py",
)
def _analytic_kernel(setting: Setting) -> Measured:
    found, rng = {}, np.random.default_rng(0)
    center = rng.normal(size=setting.dim)
    for name in ("VP", "chain"):
        process, low, high = STEPS[name]
        times = np.arange(low, high + 1, 3.0)[:5] if name == "chain" else np.linspace(low, high, 5)
        (s, t), x = (times[:-1], times[1:]), rng.normal(size=(4, setting.dim))
        mean, std = _reverse(process, _table(name, t), _denoiser(setting, process, center), x, s, t)
        before, after = levels(name, s), levels(name, t)
        shared = after.alpha / before.alpha * (before.alpha**2 * _DATA_STD**2 + before.sigma**2)
        first, last = (level.alpha**2 * _DATA_STD**2 + level.sigma**2 for level in (before, after))
        gain = (shared / last)[:, None]
        expected = before.alpha[:, None] * center + gain * (x - after.alpha[:, None] * center)
        found[f"the mean, {name}"] = relative(mean, expected)
        found[f"the spread, {name}"] = float(np.max(np.abs(std / np.sqrt(first - shared**2 / last) - 1)))
    return worst_of(found)


@identity(
    row="10b",
    title="An isotropic Gaussian is generated exactly in any number of steps",
    latex=r"p(x_{t-1}|x_t)\ \mathrm{analytic},\ x_T\sim p_T\quad\Rightarrow\quad x_t\sim p_t\quad"
    r"\mathrm{for\ any}\ T",
    compared="mean and variance after 1, 2, 4, ..., 64 steps of VP from t = 1 to 0.05 with those of p_t",
    oracle="moments carried through the affine steps in NumPy; with β and β̃ the variance is wrong, at order 1",
    source="Bao et al. 2022, arXiv:2201.06503; Su 2022, the seventh post on diffusion models",
    bound=Within(1e-12, "one product for each step", roundoffs=40),
    functions=(step, Optimal),
    answers=True,
    test="tests/diffusion/ddpm/test_chains.py",
)
def _exact_at_any_length(setting: Setting) -> Measured:
    lengths, center, process = 2 ** np.arange(7), 0.6 * np.ones(setting.dim), STEPS["VP"][0]
    grids = [np.linspace(0.05, 1.0, n + 1) for n in lengths]
    s, t = np.concatenate([g[:-1] for g in grids]), np.concatenate([g[1:] for g in grids])
    denoise, lines = _denoiser(setting, process, center), {}
    table = _table("VP", np.unique(np.concatenate(grids)))
    for name, kind in {"β": FixedLarge(), "the posterior's": FixedSmall(), "the best": table}.items():
        ends = (np.zeros((s.size, setting.dim)), np.ones((s.size, setting.dim)))
        (at_0, std), (at_1, _) = (_reverse(process, kind, denoise, x, s, t) for x in ends)
        affine = np.transpose(np.asarray([at_0[:, 0], at_1[:, 0] - at_0[:, 0], std], np.float64))
        lines[name] = [_carried(part) for part in np.split(affine, np.cumsum(lengths)[:-1])]
    return Measured(largest(lines["the best"]), plot=Curves(lengths, lines, "steps", "relative error", True, True))


def _carried(steps: np.ndarray) -> float:
    """The larger error of mean and variance at the end, after the steps (offset, slope, std), started at the prior."""
    top, end = levels("VP", 1.0), levels("VP", 0.05)
    mean, variance = 0.6 * top.alpha, (_DATA_STD * top.alpha) ** 2 + top.sigma**2
    for offset, slope, std in steps[::-1]:
        mean, variance = offset + slope * mean, slope**2 * variance + std**2
    exact = (_DATA_STD * end.alpha) ** 2 + end.sigma**2
    return float(largest(abs(mean / (0.6 * end.alpha) - 1), abs(variance / exact - 1), 1e-17))
