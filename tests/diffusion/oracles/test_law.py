"""The oracles against what does not come from them: autodiff, brute-force integrals, SciPy, samples, limits."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import (
    EDM,
    VE,
    VP,
    Cosine,
    Gaussian,
    Process,
    RectifiedFlow,
    Schedule,
    StudentT,
    SubVP,
    velocity,
)
from diffusion.oracles import Atoms, Dirac, GaussianLaw, GaussianMixture, StudentTMixture
from diffusion.oracles.components import posterior
from diffusion.pytree import pytree

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULES = (VP(), Cosine(), SubVP(), VE(sigma_max=5.0), EDM(sigma_max=5.0), RectifiedFlow())
NOISES = {"gauss": (Gaussian(),), "student": (StudentT(1.0), StudentT(5.0))}
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.4], [0.8, -0.3]])
COVARIANCES = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]]])
LAWS = {
    "atoms": Atoms(MEANS, WEIGHTS),
    "low-rank": GaussianMixture.low_rank(MEANS, np.array([[[0.5], [-0.7]], [[1.0], [0.2]]]), [0.3, 0.4], WEIGHTS),
    "full": GaussianMixture.full(MEANS, COVARIANCES, WEIGHTS),
    "student": StudentTMixture(MEANS[:1], np.array([0.6]), 3.0),
    "cauchy": StudentTMixture(MEANS[:1], np.array([0.6]), 1.0),
}
GAUSS, STUDENT = Gaussian(), StudentT(3.0)
POINTS = np.array([[0.3, -0.5], [-2.5, 1.5], [0.5, 4.0]])

# These programs run once or twice: compiling them well costs more than running them.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytree
class Tangent(Schedule):
    """α and σ linear in t − ½: what any schedule is near one time, in one compilation for all."""

    a: float
    s: float
    a_dot: float = 0.0
    s_dot: float = 0.0

    def alpha(self, t):
        return self.a + self.a_dot * (jnp.asarray(t) - 0.5)

    def sigma(self, t):
        return self.s + self.s_dot * (jnp.asarray(t) - 0.5)


@functools.cache
def tangents():
    """A `Tangent` to every schedule, early in every other one and late in the rest."""
    times = [(s, fraction * s.t_max) for s, fraction in zip(SCHEDULES, itertools.cycle((0.15, 0.6)))]
    rows = jax.jit(lambda: [(s.alpha(t), s.sigma(t), s.alpha_dot(t), s.sigma_dot(t)) for s, t in times])()
    return [Tangent(*(float(value) for value in row)) for row in rows]


def at(alpha, sigma, noise, *slopes):
    return Process(Tangent(alpha, sigma, *slopes), noise)


def answers(law, process, x, t):
    return {
        "log_prob": law.log_prob(process, x, t),
        "denoised": law.denoiser(process)(x, t),
        "score": law.score(process, x, t),
        "covariance": law.posterior_covariance(process, x, t),
    }


evaluate = quick_jit(answers)


def displaced(law, process, x, t):
    beside, gap = law.log_prob_and_displacement(process, x, t)
    return {"gap": gap, "log_prob beside the gap": beside}


def differentiate(law, process, x):
    """∇ln p and ∂E[x_0|x]/∂x at every x (t = ½), the residual of the continuity equation and the size of its terms."""
    schedule, t = process.schedule, jnp.full(len(x), 0.5)

    def says(x, t):
        return law.log_prob(process, x, t), law.denoiser(process)(x, t)

    def along(dx, dt):
        return jax.jvp(says, (x, t), (jnp.broadcast_to(dx, x.shape), jnp.broadcast_to(dt, t.shape)))

    (_, denoised), (slopes, turns) = jax.vmap(along, out_axes=(None, -1))(jnp.eye(3)[:, :2], jnp.eye(3)[:, 2])
    rate = schedule.s_dot / schedule.s  # v = α' E[x_0|x] + σ' (x − α E[x_0|x])/σ
    pull = schedule.a_dot - rate * schedule.a
    velocity, divergence = pull * denoised + rate * x, pull * jnp.trace(turns[..., :2], axis1=1, axis2=2) + 2 * rate
    moved = velocity * slopes[:, :2]
    return {
        "gradient": slopes[:, :2],
        "jacobian": turns[..., :2],
        "continuity": slopes[:, 2] + divergence + moved.sum(1),
        "size": 1 + jnp.abs(slopes[:, 2]) + jnp.abs(moved).sum(1),
    }


@quick_jit
def evaluate_and_differentiate(law, processes, x):
    """`answers`, `displaced` and `differentiate` for one after the other of the stacked processes."""

    def one(process):
        return answers(law, process, x, 0.5) | displaced(law, process, x, 0.5) | differentiate(law, process, x)

    return jax.lax.map(one, processes)


@functools.cache
def facts(name, noise):
    """What `evaluate_and_differentiate` says at POINTS for every schedule, in one axis; also α, σ and x."""
    pairs = list(itertools.product(tangents(), NOISES[noise]))
    processes = [at(schedule.a, schedule.s, it, schedule.a_dot, schedule.s_dot) for schedule, it in pairs]
    found = evaluate_and_differentiate(LAWS[name], jax.tree.map(lambda *leaves: np.stack(leaves), *processes), POINTS)
    facts = {key: np.concatenate(np.asarray(value)) for key, value in found.items()}
    alphas, sigmas = ([[getattr(schedule, field)] for schedule, _ in pairs] for field in ("a", "s"))
    return facts | {
        "x": np.tile(POINTS, (len(pairs), 1)),
        "alpha": np.repeat(alphas, len(POINTS), axis=0),
        "sigma": np.repeat(sigmas, len(POINTS), axis=0),
    }


every_law = pytest.mark.parametrize("name", LAWS)
every_noise = pytest.mark.parametrize("noise", NOISES)


@every_noise
@every_law
def test_continuity_equation(name, noise):
    """∂_t ln p + ∇·v + v·∇ln p = 0: the denoiser moves the density, whatever the noise."""
    f = facts(name, noise)
    assert np.max(np.abs(f["continuity"]) / f["size"]) < 1e-10


@every_noise
@every_law
def test_score_is_gradient_of_log_prob(name, noise):
    f = facts(name, noise)
    np.testing.assert_allclose(f["score"], f["gradient"], rtol=1e-10, atol=1e-10)


@every_law
def test_tweedie_first_and_second_order(name):
    """E[x_0|x] = (x + σ²∇ln p)/α and Cov[x_0|x] = (σ²/α) ∂E[x_0|x]/∂x, which is (σ²/α²)(I + σ²∇²ln p)."""
    f = facts(name, "gauss")
    tweedie = (f["x"] + f["sigma"] ** 2 * f["gradient"]) / f["alpha"]
    np.testing.assert_allclose(f["denoised"], tweedie, rtol=1e-11, atol=1e-11)
    second = (f["sigma"] ** 2 / f["alpha"])[..., None] * f["jacobian"]
    np.testing.assert_allclose(f["covariance"], second, rtol=1e-10, atol=1e-10)


def test_at_time_zero_it_is_the_data_law():
    x, process = np.array([[0.2, -0.7], [1.5, 2.0], [0.0, 9.0]]), at(1.0, 0.0, StudentT(2.0))
    full = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    )
    student = scipy.stats.multivariate_t.logpdf(x, MEANS[0], 0.36 * np.eye(2), 3.0)  # pyright: ignore[reportArgumentType]
    for name, expected in (("full", np.log(full)), ("student", student)):
        got = evaluate(LAWS[name], process, x, 0.5)
        np.testing.assert_allclose(got["log_prob"], expected, rtol=1e-11)
        np.testing.assert_allclose(got["denoised"], x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got["covariance"], 0, atol=1e-12)


moments_of = quick_jit(lambda law: (law.mean, law.covariance))
log_prob_of_noise = quick_jit(lambda noise, z: noise.log_prob(z))


@every_noise
@every_law
def test_ends_of_time(name, noise):
    """σ = 0: the nearest point of the support. α = 0: nothing is known but the prior."""
    law, x = LAWS[name], np.array([[0.1, -0.2], [-1.0, 0.4], [1e3, 2e3]])
    mean, covariance = (law.means[0], None) if name in ("cauchy", "student") else moments_of(law)
    for law_noise in NOISES[noise]:
        clean = evaluate(law, at(1.0, 0.0, law_noise), x, 0.5)
        assert all(not np.any(np.isnan(value)) for value in clean.values())
        support = MEANS[[1, 0, 1]] if name == "atoms" else x
        if name == "atoms" and noise == "student":  # off the atoms, the weights become powers of the distance
            powers = WEIGHTS * np.linalg.norm(x[:, None] - MEANS, axis=-1).clip(1e-30) ** -(2 + law_noise.df)
            support = powers / powers.sum(1, keepdims=True) @ MEANS
        np.testing.assert_allclose(clean["denoised"], support, rtol=1e-9, atol=1e-12)
        pure = evaluate(law, at(0.0, 2.0, law_noise), x, 0.5)
        np.testing.assert_allclose(pure["denoised"], np.broadcast_to(mean, x.shape), rtol=0, atol=1e-10)
        prior = np.asarray(log_prob_of_noise(law_noise, x / 2)) - 2 * math.log(2)
        np.testing.assert_allclose(pure["log_prob"], prior, rtol=1e-10)
        if covariance is not None:
            np.testing.assert_allclose(pure["covariance"], np.broadcast_to(covariance, (3, 2, 2)), rtol=0, atol=1e-10)


@every_noise
@pytest.mark.parametrize(
    ("name", "dtype"), [(n, "float64") for n in LAWS] + [("full", "float32"), ("cauchy", "float32")]
)
def test_far_away_nothing_overflows(name, noise, dtype):
    x = np.array([[1e3, -2e3], [1e8, 0], [-1.0, 1.0]], dtype)
    x[2] *= 1e12 if dtype == "float32" else 1e40
    for law_noise in NOISES[noise]:
        for alpha, sigma in ((1.0, 1e-5), (0.5, 3.0), (1e-4, 80.0)):
            got = evaluate(LAWS[name], at(alpha, sigma, law_noise), x, 0.5)
            assert all(np.all(np.isfinite(value)) and value.dtype == dtype for value in got.values())


def test_far_away_denoisers():
    """Gaussian noise far out points at the extreme atom; heavy-tailed noise says nothing; a Gaussian shrinks."""
    x = np.array([[3e3, -4e3]] * 3)
    points = np.array([[1.0, 0.0], [0.0, -1.0]])
    law = Atoms(points, WEIGHTS)
    np.testing.assert_allclose(evaluate(law, at(1.0, 2.0, Gaussian()), x, 0.5)["denoised"], points[[1] * 3], atol=1e-12)
    blind = evaluate(law, at(1.0, 2.0, StudentT(1.0)), x, 0.5)["denoised"]
    np.testing.assert_allclose(blind, [WEIGHTS @ points] * 3, rtol=0, atol=2e-3)
    law = GaussianMixture.isotropic(MEANS, [0.4, 0.7], WEIGHTS)
    wide = law.means[1] + 0.49 / 4.49 * (x - law.means[1])
    np.testing.assert_allclose(evaluate(law, at(1.0, 2.0, Gaussian()), x, 0.5)["denoised"], wide, rtol=1e-12)


log_prob = quick_jit(lambda law, process, x, t: law.log_prob(process, x, t))


@every_noise
def test_density_integrates_to_one_in_the_plane(noise):
    theta, step = np.linspace(-18, 18, 121, retstep=True)
    u, w = np.meshgrid(theta, theta)
    mass = log_prob(LAWS["full"], at(0.7, 1.5, NOISES[noise][-1]), np.sinh(np.stack([u, w], -1)).reshape(-1, 2), 0.5)
    assert np.sum(np.exp(mass) * np.cosh(u).ravel() * np.cosh(w).ravel()) * step**2 == pytest.approx(1, abs=1e-6)


@every_noise
def test_score_is_the_posterior_mean_of_conditional_scores(noise):
    """∇ln p_t(x) = E[∇_x ln p(x | x_0) | x], the weights by Bayes' rule from the noise's own density."""
    alpha, sigma = 0.8, 0.6
    for law_noise in NOISES[noise]:
        process = at(alpha, sigma, law_noise)

        def conditional(x, law_noise=law_noise):
            return law_noise.log_prob((x - alpha * MEANS) / sigma) - 2 * math.log(sigma)

        both = quick_jit(jax.vmap(lambda x: (conditional(x), jax.jacfwd(conditional)(x))))
        conditionals, slopes = (np.asarray(value) for value in both(POINTS))
        got = {key: np.asarray(value) for key, value in evaluate(LAWS["atoms"], process, POINTS, 0.5).items()}
        for i, (logs, slope) in enumerate(zip(conditionals, slopes, strict=True)):
            joint = WEIGHTS * np.exp(logs)
            posterior = joint / joint.sum()
            np.testing.assert_allclose(got["log_prob"][i], np.log(joint.sum()), rtol=1e-12)
            np.testing.assert_allclose(got["denoised"][i], posterior @ MEANS, rtol=1e-12)
            score = posterior @ slope
            np.testing.assert_allclose(got["score"][i], score, rtol=1e-12)


def same(a, b, x, noises=(GAUSS, STUDENT), rtol=1e-10, turn=None):
    """Assert that laws `a` at x and `b` at `turn` x say the same."""
    turn = np.eye(x.shape[1]) if turn is None else turn
    for noise in noises:
        first, second = (evaluate(law, at(0.8, 0.6, noise), y, 0.5) for law, y in ((a, x), (b, x @ turn.T)))
        for key, value in first.items():
            value = np.asarray(value)
            value = value @ turn.T if key in ("denoised", "score") else value
            value = turn @ value @ turn.T if key == "covariance" else value
            np.testing.assert_allclose(second[key], value, rtol=rtol, atol=rtol, err_msg=key)


def test_the_same_law_said_differently():
    """Low rank, full and isotropic covariances; one component; one point; the order and the units of the components."""
    x, factors = POINTS, np.array([[[0.5], [-0.7]], [[1.0], [0.2]]])
    dense = factors @ factors.swapaxes(1, 2) + np.array([0.09, 0.16])[:, None, None] * np.eye(2)
    same(LAWS["low-rank"], GaussianMixture.full(MEANS, dense, WEIGHTS), x)
    isotropic = GaussianMixture.isotropic(MEANS, [0.4, 0.7], WEIGHTS)
    same(isotropic, GaussianMixture.full(MEANS, np.eye(2) * np.array([0.16, 0.49])[:, None, None], WEIGHTS), x)
    same(LAWS["full"], GaussianMixture.full(MEANS[::-1], COVARIANCES[::-1], 50 * WEIGHTS[::-1]), x)
    one, alone = GaussianLaw.full(MEANS[0], COVARIANCES[0]), GaussianMixture.full(MEANS[:1], COVARIANCES[:1])
    jax.tree.map(np.testing.assert_array_equal, one.components(), alone.components())
    jax.tree.map(np.testing.assert_array_equal, Dirac(MEANS[0]).components(), Atoms(MEANS[:1]).components())


def test_rotations_carry_over():
    turn = scipy.stats.special_ortho_group.rvs(2, random_state=0)
    turned = GaussianMixture.full(MEANS @ turn.T, turn @ COVARIANCES @ turn.T, WEIGHTS)
    same(LAWS["full"], turned, POINTS, turn=turn)


@quick_jit
def evaluate_vectors(law, process, x):
    return law.log_prob(process, x, 0.5), law.denoiser(process)(x, 0.5), law.score(process, x, 0.5)


@pytest.mark.parametrize("d", [1, 8, 784])
def test_integral_over_precision_is_the_closed_form(d):
    """Atoms under Student-t noise, and Cauchy data under Cauchy noise, through the rule and without it."""
    rng = np.random.default_rng(d)
    points, x = rng.normal(size=(2, d)), rng.normal(size=(3, d)) * np.array([[1.0], [30.0], [3000.0]])

    def compare(integrated, closed):
        for value, exact in zip(integrated, closed, strict=True):
            np.testing.assert_allclose(value, exact, rtol=1e-10, atol=1e-10)

    atoms, narrow = Atoms(points, WEIGHTS), GaussianMixture.isotropic(points, 0.0, WEIGHTS)
    for df in (0.5, 1.0, 8.0, 100.0):
        process = at(0.8, 0.6, StudentT(df))
        compare(evaluate_vectors(narrow, process, x), evaluate_vectors(atoms, process, x))
    if d > 8:
        return  # two integrals at once would take long
    law, process = StudentTMixture(points, np.array([0.4, 2.0]), 1.0, WEIGHTS), at(0.8, 0.6, StudentT(1.0))
    said = quick_jit(
        lambda x: (law.log_prob(process, x, 0.5), law.denoiser(process)(x, 0.5), law.score(process, x, 0.5))
    )
    closed = said(x)
    compare(evaluate_vectors(law, process, x), closed)  # where df is traced, the closed form is not taken


def test_cauchy_stays_cauchy():
    """Row 28: under PFGM Cauchy(γ) becomes Cauchy(γ + t), and the flow is x/(t + γ)."""
    x, gamma, t, process = np.array([[0.7, -3.0, 1.0]]), 0.6, 2.5, Process(EDM(), StudentT(1.0))
    law = StudentTMixture(np.zeros((1, 3)), np.array([gamma]), 1.0)
    flow = velocity(process, law.denoiser(process))

    @quick_jit
    def say(flow, x, t):
        exact = StudentT(1.0).log_prob(x / (gamma + t)) - 3 * jnp.log(gamma + t)
        return law.log_prob(process, x, t), exact, flow(x, t)

    log_p, exact, moved = say(flow, x, t)
    np.testing.assert_allclose(log_p, exact, rtol=1e-13)
    np.testing.assert_allclose(moved, x / (t + gamma), rtol=1e-13)


def test_student_noise_becomes_gaussian_at_rate_one_over_df():
    noises = Gaussian(), StudentT(1e4), StudentT(2e4)
    limit, *near = (evaluate(LAWS["full"], at(0.8, 0.6, noise), POINTS, 0.5) for noise in noises)
    for key, value in limit.items():
        gaps = [np.asarray(one[key]) - np.asarray(value) for one in near]
        np.testing.assert_allclose(gaps[0] / gaps[1], 2, rtol=5e-3, err_msg=key)


@pytest.mark.parametrize(("d", "tolerance"), [(64, 2e-5), (784, 2e-4)])
def test_float32_in_high_dimension(d, tolerance):
    rng = np.random.default_rng(d)
    means, process = rng.normal(size=(3, d)), at(0.8, 0.6, StudentT(128.0))
    law = GaussianMixture.low_rank(means, rng.normal(size=(3, d, 2)), [0.3, 0.5, 1.0])
    x = 0.8 * means + rng.normal(size=(3, d))
    exact = evaluate_vectors(law, process, x)
    single = evaluate_vectors(law, process, x.astype(np.float32))
    for value, got in zip(exact, single, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, value, rtol=tolerance, atol=tolerance)


def weights_by_numpy(points, x, df, sigma):
    """The posterior of the atoms in float64: softmax of −½(d + df) ln(1 + |x − y|²/(df σ²))."""
    square = np.sum((np.float64(x) - points) ** 2, axis=1)
    logits = -0.5 * (points.shape[1] + df) * np.log1p(square / (df * sigma**2))
    return np.exp(logits - logits.max()) / np.sum(np.exp(logits - logits.max()))


@jax.jit
def mean_and_gap(law, process, x):
    return law.denoiser(process)(x, 0.5), law.displacement(process, x, 0.5)


@pytest.mark.parametrize(("d", "df"), [(2, 3e6), (784, 2048.0), (100_000, 1.0), (100_000, 2048.0)])
def test_atoms_under_heavy_tails_in_float32(d, df):
    """Means and displacements at 1e-6 to 1e12 times the size of the data, where each ln p is rounded to 0.1."""
    rng = np.random.default_rng(0)
    points = np.asarray(rng.normal(size=(8, d)) / np.sqrt(d), np.float32).astype(np.float64)
    toward = rng.normal(size=d) / np.sqrt(d)
    law = Atoms(points)
    for sigma in (1e-6, 1.0, 1e3):
        x = (points[3] + np.array([1e-6, 1e-3, 1.0, 1e2, 1e4, 1e8, 1e12])[:, None] * toward).astype(np.float32)
        mean, gap = (np.asarray(value) for value in mean_and_gap(law, at(1.0, np.float32(sigma), StudentT(df)), x))
        assert mean.dtype == gap.dtype == np.float32
        for i, one in enumerate(x):
            weights = weights_by_numpy(points, one, df, np.float64(np.float32(sigma)))
            exact = weights @ (np.float64(one) - points)
            assert np.linalg.norm(mean[i] - weights @ points) < 3e-5
            assert np.linalg.norm(gap[i] - exact) < 3e-5 * np.hypot(np.linalg.norm(exact), sigma * np.sqrt(df))


displacement = quick_jit(lambda law, process, x: law.displacement(process, x, 0.5))


@every_noise
@every_law
def test_the_displacement_is_what_the_denoiser_leaves(name, noise):
    """x − α E[x_0|x], with the density beside it."""
    f = facts(name, noise)
    np.testing.assert_allclose(f["gap"], f["x"] - f["alpha"] * f["denoised"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(f["log_prob beside the gap"], f["log_prob"], rtol=1e-12)


CENTRE = np.asarray([[2.0, -1.0, 0.5]])


@pytest.mark.parametrize(
    ("law", "noise", "share"),
    [
        (GaussianMixture.isotropic(CENTRE, np.asarray([1.5])), Gaussian(), lambda s: s**2),
        (GaussianMixture.full(CENTRE, 2.25 * np.eye(3)[None]), Gaussian(), lambda s: s**2),
        (StudentTMixture(CENTRE, np.asarray([1.5]), df=1.0), StudentT(1.0), lambda s: s),
    ],
    ids=["isotropic", "full", "Cauchy"],
)
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0])
def test_the_displacement_of_a_wide_law_in_float32(law, noise, share, sigma):
    """y σ²/(γ² + σ²) from N(m, γ²I), y σ/(γ + σ) from Cauchy data, to the last digits where σ/γ is below them."""
    x = np.asarray([[3.0, 2.0, -4.0]], np.float32)
    found = displacement(law, at(1.0, np.float32(sigma), noise), x)
    exact = np.float64(x - CENTRE) * share(sigma) / (share(1.5) + share(sigma))
    np.testing.assert_allclose(found, exact, rtol=2e-6)


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0])
def test_the_displacement_of_a_full_covariance_in_float32(sigma):
    """Q σ²/(λ + σ²) Qᵀ y, where y − Q Qᵀ y is nothing but rounding."""
    widths, q = np.asarray([2.25, 1.0, 0.5]), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    law = GaussianMixture.full(CENTRE, (q * widths @ q.T)[None])
    x = np.asarray([[3.0, 2.0, -4.0]], np.float32)
    found = displacement(law, at(1.0, np.float32(sigma), Gaussian()), x)
    np.testing.assert_allclose(found[0], q * (sigma**2 / (widths + sigma**2)) @ q.T @ (x - CENTRE)[0], rtol=1e-5)


@pytest.mark.parametrize("noise", [Gaussian(), StudentT(1.0), StudentT(8.0)], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 1e-16])
def test_the_displacement_of_points_in_float32_where_there_is_next_to_no_noise(noise, sigma):
    """x − x_k to the nearest point, of heavy tails Σ w (x − x_k), w ∝ |x − x_k|^−(d + df); σ² is 0 as a number."""
    points, x = np.asarray([[1.0, 0.0], [-3.0, 2.0]]), np.asarray([[0.9, 0.2]])
    found = displacement(Atoms(points), at(1.0, np.float32(sigma), noise), x.astype(np.float32))
    order = 2 + noise.df if isinstance(noise, StudentT) else 99.0  # so that the nearest point has it all
    weights = np.linalg.norm(x - points, axis=1) ** -order
    np.testing.assert_allclose(found[0], weights / weights.sum() @ (x - points), rtol=1e-5)


@every_noise
def test_blocks_of_components_are_as_one(noise):
    """Logits relative to one component merge as absolute ones do."""
    points = np.random.default_rng(0).normal(size=(50, 3))
    law, x = Atoms(points, np.arange(1.0, 51.0)), np.asarray([[0.3, -0.5, 1.0], [40.0, 3.0, 0.0]])

    @quick_jit
    def in_blocks(law, process, x):
        closed, c = isinstance(process.noise, StudentT), law.components()
        return [posterior(c, process, x, 0.5, closed, "full", size, True) for size in (2**19, 25)]

    for law_noise in NOISES[noise]:
        whole, parts = in_blocks(law, at(0.8, 0.6, law_noise), x)
        for field in ("log_prob", "mean", "score", "second", "gap"):
            np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), rtol=1e-11, atol=1e-12)
