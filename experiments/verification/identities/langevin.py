"""Rows 42 and 43, false statements N5 and N6: the laws that Langevin dynamics and its kernels leave alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from diffusion import EDM, VP, Process, score
from diffusion import keys as keys_lib
from diffusion.fokker_planck import FokkerPlanck, log_density_residual
from diffusion.oracles import Atoms, GaussianLaw
from diffusion.prediction import Denoiser
from experiments.verification.closed_forms import POINTS, normal, square
from experiments.verification.laws import alpha_and_sigma
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
from experiments.verification.report.plots import Curves, HeatMap
from samplers.langevin import PredictorCorrector, langevin_step, mala_step
from samplers.sample import sample

_STATES = np.linspace(-3.0, 4.0, 15)
_STEP = 1.5
_LIFT = 160
"""The dimension of the space around the line: large enough that the noise of every key is long enough."""
LogDensity = Callable[[Array], Array]


@identity(
    row="42a",
    topics=("langevin", "energy"),
    title="The bias of unadjusted Langevin dynamics",
    latex=r"x \leftarrow x - \frac{\eta}{2v}x + \sqrt{\eta}\,\xi\quad\Rightarrow\quad "
    r"\mathrm{Var}\,x = \frac{v}{1-\eta/4v}",
    compared="the fixed point b²/(1 − a²) of the variance, x ← a x + b ξ read off from the step, with the formula, for "
    "12 steps η from 0.1 v to 3.8 v",
    oracle="N(0, v) with another v in each coordinate",
    source="Roberts & Tweedie 1996, section 1.4; Vempala & Wibisono 2019, arXiv:1903.08568",
    bound=Within(1e-12, "closed forms on both sides; 1 − a² costs a digit", roundoffs=1.5e2),
    functions=(langevin_step,),
)
def _langevin_bias(setting: Setting) -> Measured:
    v, ratios = np.linspace(0.5, 2.0, setting.dim), np.linspace(0.1, 3.8, 12)
    variances, sizes = jnp.asarray(np.tile(v, 12))[:, None], jnp.asarray(np.outer(ratios, v).reshape(-1))
    keys = keys_lib.sample_keys(setting.key(0), jnp.arange(len(sizes)))

    @jax.jit
    def from_0_and_1() -> tuple[Array, ...]:
        starts = jnp.zeros((len(sizes), 1)), jnp.ones((len(sizes), 1))
        ends = (langevin_step(keys, x, -x / variances, sizes) for x in starts)
        return *ends, keys_lib.normal(keys, (1,))

    from_0, from_1, noise = (np.asarray(part, np.float64)[:, 0] for part in from_0_and_1())
    kept, added = from_1 - from_0, from_0 / noise
    found = (added**2 / (1 - kept**2)).reshape(12, -1) / v
    exact = 1 / (1 - ratios / 4)
    lines = {"exact": exact, "unadjusted Langevin": found[:, 0], "the target": np.ones(12)}
    error = relative(found / exact[:, None], 1.0)
    return Measured(error, plot=Curves(ratios, lines, "η/v", "variance/v", log_y=True))


def _log_density(x: Array) -> Array:
    """ln of two unequal humps on the line, not normalised."""
    humps = [jnp.log(w / s) - 0.5 * ((x - m) / s) ** 2 for w, m, s in ((0.4, -1.0, 0.6), (0.6, 1.5, 0.8))]
    return jnp.logaddexp(*humps)


def _without_slope(x: Array) -> Array:
    """`_log_density` without a gradient, so that MALA becomes the random walk of Metropolis."""
    return jax.lax.stop_gradient(_log_density(x))


def _nothing(x: Array) -> Array:
    return jnp.zeros_like(x)


def _by_hand(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, ∇ln p), not normalised."""
    parts = np.stack([0.4 * normal(x, -1.0, 0.6**2), 0.6 * normal(x, 1.5, 0.8**2)]) * np.sqrt(2 * np.pi)
    slopes = np.stack([-(x + 1.0) / 0.6**2, -(x - 1.5) / 0.8**2])
    return parts.sum(0), (parts * slopes).sum(0) / parts.sum(0)


def _proposals(slope: np.ndarray) -> np.ndarray:
    """q(y|x) between the states, with one row for each x."""
    ahead = _STATES[:, None] + 0.5 * _STEP * slope[:, None]
    return normal(_STATES, ahead, _STEP)


def _acceptance(setting: Setting, log_density: LogDensity, slope: np.ndarray) -> np.ndarray:
    """The probability that `mala_step` accepts y from x, for all states x (rows) and y, found by querying it.

    If the density depends only on e·z, for a unit vector e in many dimensions, MALA moves e·z as on the line, with the
    noise e·n; turning e brings the proposal to y for any n. A jump added to ln p everywhere but at x changes only the
    odds: acceptance sets in at the jump ln u − ln(ratio), and without a density at ln u.
    """
    x, y = (a.reshape(-1) for a in np.meshgrid(_STATES, _STATES, indexing="ij"))
    keys = keys_lib.sample_keys(setting.key(0), jnp.arange(len(x)))
    free = _free(keys, len(x))
    noise = np.asarray(free, np.float64) / np.sqrt(_STEP)
    if abs(np.mean(noise**2) - 1) > 4 * np.sqrt(2 / noise.size):
        raise ArithmeticError(f"the proposals' noise has the variance {np.mean(noise**2):.3f}; q(y|x) needs 1.")
    along = (y - x - 0.5 * _STEP * np.repeat(slope, len(_STATES))) / np.sqrt(_STEP)
    length = np.sqrt(np.sum(noise**2, 1))
    across = np.eye(1, _LIFT) - noise[:, :1] * noise / length[:, None] ** 2
    across /= np.sqrt(np.sum(across**2, 1))[:, None]
    cosine = along / length
    direction = jnp.asarray(cosine[:, None] * noise / length[:, None] + np.sqrt(1 - cosine**2)[:, None] * across)
    start = jnp.asarray(x)[:, None] * direction
    onsets = [np.asarray(_onset(law, keys, start, direction), np.float64) for law in (_nothing, log_density)]
    return np.exp(np.minimum(onsets[0] - onsets[1], 0.0)).reshape(len(_STATES), -1)


@functools.partial(jax.jit, static_argnums=1)
def _free(keys: Array, count: int) -> Array:
    """A step from 0 where there is no density."""
    return mala_step(keys, jnp.zeros((count, _LIFT)), lambda z: jnp.zeros(len(z)), _STEP).x


@functools.partial(jax.jit, static_argnums=0)
def _onset(log_density: LogDensity, keys: Array, start: Array, direction: Array) -> Array:
    """The smallest jump with which each step is accepted, by bisection."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)

        def jumped(z: Array) -> Array:
            moved = jnp.any(z != start, axis=-1)
            return log_density(jnp.sum(z * direction, -1)) + jnp.where(moved, middle, 0.0)

        accepted = mala_step(keys, start, jumped, _STEP).accepted
        return jnp.where(accepted, low, middle), jnp.where(accepted, middle, high)

    ends = jnp.full(len(start), -100.0), jnp.full(len(start), 100.0)
    low, high = jax.lax.fori_loop(0, 62, halve, ends)
    return 0.5 * (low + high)


@identity(
    row="42b",
    topics=("langevin", "energy"),
    title="MALA has no bias: detailed balance",
    latex=r"p(x)\,q(y|x)\,a(x,y) = \min(p(x)\,q(y|x),\,p(y)\,q(x|y)) = p(y)\,q(x|y)\,a(y,x)",
    compared="p(x) q(y|x) times the acceptance probability found by querying `mala_step`, with that minimum, "
    "for 15 × 15 pairs, each relative to itself",
    oracle="two Gaussians on the line and the Gaussian proposal, by NumPy",
    source="Metropolis et al. 1953; Hastings 1970; Roberts & Tweedie 1996, section 1.4",
    bound=Within(1e-12, "the exponents are sums over 160 dimensions, found by bisection to rounding", roundoffs=2e3),
    functions=(mala_step,),
)
def _mala_detailed_balance(setting: Setting) -> Measured:
    p, slope = _by_hand(_STATES)
    chances = _acceptance(setting, _log_density, slope)
    forth = p[:, None] * _proposals(slope)
    error = relative(forth * chances / np.minimum(forth, forth.T), 1.0)
    plot = HeatMap(_STATES, _STATES, chances.T, "x", "y", "probability of acceptance")
    return Measured(error, f"accepted with probability {chances.min():.1e} to {chances.max():g}", plot)


def _gibbs(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """(the probabilities of three points, the kernel that draws x_t given x_0 and then x_0 given x_t)."""
    weights, process, t = np.asarray([0.1, 0.3, 0.6]), Process(VP()), 0.3
    z, area = square(9.0, 91)
    alpha, sigma = alpha_and_sigma(process, t)
    x = alpha * POINTS[:, None] + sigma * z
    answers = Atoms(POINTS, weights).denoiser(process)(jnp.asarray(x.reshape(-1, 2)), t)
    # E[x_0 | x] lies in the triangle of the points: its barycentric coordinates are their probabilities.
    corners, ones = np.concatenate([POINTS, np.ones((3, 1))], 1), np.ones((len(answers), 1))
    given = np.linalg.solve(corners.T, np.concatenate([np.asarray(answers, np.float64), ones], 1).T)
    masses = area * np.exp(-0.5 * np.sum(z**2, 1)) / (2 * np.pi)
    return weights, np.einsum("n,jkn->kj", masses, given.reshape(3, 3, -1))


def _kernel(proposals: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """The transition probabilities between the states; a move that is not proposed or not accepted is a stay."""
    moves = proposals * chances * (_STATES[1] - _STATES[0])
    moves -= np.diag(np.diag(moves))
    return moves + np.diag(1 - moves.sum(1))


@identity(
    row="43",
    topics=("langevin", "energy"),
    title="Metropolis, MALA and Gibbs leave the law alone",
    latex=r"\sum_x \pi(x)\,K(x\to y) = \pi(y)",
    compared="π with πK, for the random walk of Metropolis and MALA on 15 states, with acceptance probabilities found "
    "by querying `mala_step`, and for Gibbs between x_0 and x_t on three points, x_0 given x_t from the denoiser",
    oracle="the law of the states, summed over; x_t by the trapezoidal rule",
    source="Metropolis et al. 1953; Roberts & Tweedie 1996, section 1.4; Geman & Geman 1984",
    bound=Within(1e-12, "sums of a few numbers; acceptance probabilities are known to about 1e-14", roundoffs=1e2),
    functions=(mala_step, Atoms),
)
def _invariant_kernels(setting: Setting) -> Measured:
    p, slope = _by_hand(_STATES)
    p /= p.sum()
    kernels = {
        "MALA": _kernel(_proposals(slope), _acceptance(setting, _log_density, slope)),
        "random walk": _kernel(_proposals(0 * slope), _acceptance(setting, _without_slope, 0 * slope)),
    }
    found = {name: relative(p @ kernel, p) for name, kernel in kernels.items()}
    weights, gibbs = _gibbs(setting)
    found["Gibbs"] = relative(weights @ gibbs, weights)
    unadjusted = _kernel(_proposals(slope), np.ones((len(p), len(p))))
    plot = _approach(p, {**kernels, "unadjusted": unadjusted})
    return worst_of(found, plot)


def _approach(p: np.ndarray, kernels: dict[str, np.ndarray]) -> Curves:
    lines = {}
    for name, kernel in kernels.items():
        law, gaps = np.eye(1, len(p))[0], []
        for _ in range(61):
            gaps.append(largest(0.5 * float(np.sum(np.abs(law - p))), 1e-17))
            law = law @ kernel
        lines[name] = gaps
    return Curves(np.arange(61), lines, "steps", "distance to the law", log_y=True)


def _loss(theta: Array) -> Array:
    """The loss (b,) of coupled double wells."""
    return jnp.sum(0.25 * theta**4 - 0.5 * theta**2, -1) + 0.3 * jnp.sum(theta[:, 1:] * theta[:, :-1], -1)


def _downhill(theta: Array, t: Array) -> Array:
    del t
    return -jax.grad(lambda y: jnp.sum(_loss(y)))(theta)


def _constant(level: float, theta: Array, t: Array) -> Array:
    del t
    return jnp.asarray(level, theta.dtype)


def _exponent(factor: float, theta: Array, t: Array) -> Array:
    del t
    return -factor * _loss(theta)


@identity(
    row="N5",
    title="Gradient descent with noise σ dW samples exp(−L/σ²)",
    latex=r"d\theta = -\nabla L\,dt + \sigma\,dW\quad\Rightarrow\quad p(\theta) \propto e^{-L/\sigma^2}",
    compared="the Fokker-Planck residual of that SDE with 0 at 16 points, over the largest |ΔL|; for exp(−2L/σ²) "
    "it is 0",
    oracle="coupled double wells, L = Σ (θ⁴/4 − θ²/2) + 0.3 Σ θ_i θ_{i+1}, σ = 0.8",
    source="Welling & Teh 2011, eq. 3, where the step is ½ε and the noise √ε; Risken 1989, section 5.2",
    bound=OffBy(0.1, "half the temperature; with exp(−2L/σ²) the equation holds to rounding, or this fails"),
    functions=(log_density_residual,),
)
def _noisy_descent_has_temperature_sigma_squared(setting: Setting) -> Measured:
    sigma = 0.8
    theta = jnp.asarray(np.random.default_rng(5).normal(size=(16, setting.dim)))
    equation = FokkerPlanck(Partial(_downhill), Partial(_constant, sigma))
    curvature = float(np.max(np.abs(np.sum(3 * np.asarray(theta, np.float64) ** 2 - 1, -1))))
    false, right = (
        float(np.max(np.abs(_residual(equation, Partial(_exponent, factor / sigma**2), theta)))) / curvature
        for factor in (1.0, 2.0)
    )
    return Measured(refuted(setting, false, right), f"with 2L/σ² it is {right:.0e}", _simulated(sigma))


@jax.jit
def _residual(equation: FokkerPlanck, ln_p: Partial, theta: Array) -> Array:
    return log_density_residual(equation, ln_p, theta, 0.0).value


def _simulated(sigma: float) -> Curves:
    """The histogram of 4,000 particles after 1,000 steps of 0.02 in one double well, by NumPy."""
    rng, theta, dt = np.random.default_rng(6), np.zeros(4000), 0.02
    for _ in range(1000):
        theta = theta - dt * (theta**3 - theta) + sigma * np.sqrt(dt) * rng.normal(size=theta.shape)
    edges = np.linspace(-2.2, 2.2, 45)
    x, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    loss = 0.25 * x**4 - 0.5 * x**2
    lines = {"exact, exp(−2L/σ²)": np.exp(-2 * loss / sigma**2), "exp(−L/σ²)": np.exp(-loss / sigma**2)}
    lines = {name: values / np.sum(values * width) for name, values in lines.items()}
    lines["4000 particles"] = np.histogram(theta, edges)[0] / (len(theta) * width)
    return Curves(x, lines, "θ", "density")


@jax.jit
def _with_batch_means(key: Array, process: Process, denoise: Denoiser, x: Array, t: float, snr: float) -> Array:
    """A step of Song et al.'s Langevin corrector, with a step size from means over the batch."""
    keys = keys_lib.sample_keys(key, jnp.arange(len(x)))
    slope, noise = score(process, denoise)(x, t), keys_lib.normal(keys, x.shape[1:], x.dtype)
    norms = [jnp.mean(jnp.sqrt(jnp.sum(value**2, -1))) for value in (noise, slope)]
    return langevin_step(keys, x, slope, 4 * (snr * norms[0] / norms[1]) ** 2)


@identity(
    row="N6",
    title="A corrector may set its step by norms over the batch",
    latex=r"\epsilon = 2\,(r\,\overline{|z|}\,/\,\overline{|\nabla\ln p_t|})^2\quad"
    r"\mathrm{leaves\ each\ sample\ a\ function\ of\ its\ own\ seed}",
    compared="the step of sample 0 with its step beside neighbours three times as far out: with means over the batch "
    "it changes; with a step that is fixed, as in `PredictorCorrector`, it does not change by a single bit",
    oracle="the same sample, x and noise alike, in another batch",
    source="Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5",
    bound=OffBy(0.1, "a mean over four samples moves with three of them; the corrector here does not, or this fails"),
    functions=(PredictorCorrector,),
)
def _batch_norms_leave_samples_alone(setting: Setting) -> Measured:
    process, t, snr = Process(EDM()), 1.2, 0.16
    denoise = GaussianLaw.isotropic(np.zeros(setting.dim), 0.5).denoiser(process)
    x = np.random.default_rng(7).normal(size=(4, setting.dim)) + 1.0
    factors = (1.0, 1.5, 2.0, 3.0)
    batches = [x * np.asarray([1.0, far, far, far])[:, None] for far in factors]

    def ours(points: np.ndarray, ratio: float) -> np.ndarray:
        corrector = PredictorCorrector(snr=ratio)
        grid, start = np.asarray([2.0, t]), jnp.asarray(points)
        return np.asarray(sample(setting.key(1), process, denoise, corrector, grid, start.shape, x_init=start).x)[0]

    own, larger = [ours(batch, snr) for batch in batches], ours(x, 2 * snr)
    means = [_with_batch_means(setting.key(1), process, denoise, batch, t, snr) for batch in batches]
    theirs = [np.asarray(end)[0] for end in means]
    right = np.array_equal(own[0], own[-1]) and not np.array_equal(own[0], larger)
    error = relative(theirs[-1] - x[0], theirs[0] - x[0]) if right else 0.0
    ends = {"norms of its own": own, "means over the batch": theirs}
    lines = {name: [np.linalg.norm(end - x[0]) for end in each] for name, each in ends.items()}
    plot = Curves(factors, lines, "how far out its neighbours are", "length of sample 0's step")
    return Measured(error, "ours is the same" if right else "ours is not the same", plot)
