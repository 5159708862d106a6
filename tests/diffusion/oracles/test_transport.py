"""One dimension, where all can be integrated: Bayes' rule by brute force, distribution functions, the flow map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import EDM, VP, Gaussian, Process, RectifiedFlow, StudentT, velocity
from diffusion.oracles import Atoms, GaussianLaw, GaussianMixture, StudentTMixture, flow_map_1d, quantile

pytestmark = pytest.mark.usefixtures("x64")

WEIGHTS, MEANS, SCALES = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.4, 0.7])
MIXTURE = GaussianMixture.isotropic(MEANS[:, None], SCALES, WEIGHTS)
STUDENT = StudentTMixture(MEANS[:, None], SCALES, 3.0, WEIGHTS)
ATOMS = Atoms(MEANS[:, None], WEIGHTS)
NOISES = {"gauss": Gaussian(), "cauchy": StudentT(1.0), "student": StudentT(6.0)}


# These programs run once or twice: compiling them well costs more than running them.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@quick_jit
def evaluate(law, process, x, t):
    return {
        "log_prob": law.log_prob(process, x, t),
        "denoised": law.denoiser(process)(x, t)[:, 0],
        "score": law.score(process, x, t)[:, 0],
        "variance": law.posterior_variance(process, x, t),
        "cdf": law.cdf(process, x, t),
    }


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("law", "kind"), [(MIXTURE, scipy.stats.norm), (STUDENT, scipy.stats.t)], ids=["mixture", "student"]
)
def test_bayes_rule_by_brute_force(law, kind, noise):
    """p_t, its score, E[x_0|x], Var[x_0|x] and F_t as integrals over x_0 of SciPy's densities."""
    t, x, law_noise = 0.4, np.array([-9.0, -1.2, 0.4, 2.0, 5.0]), NOISES[noise]
    alpha, sigma = 1 - t, t
    theta, step = np.linspace(-28, 28, 24001, retstep=True)
    x_0, density_of = np.sinh(theta), functools.partial(scipy.stats.t.pdf, df=3.0 if law is STUDENT else np.inf)
    components = [density_of((x_0 - m) / s) / s for m, s in zip(MEANS, SCALES, strict=True)]
    prior = WEIGHTS @ np.stack(components) * np.cosh(theta) * step
    z = (x[:, None] - alpha * x_0) / sigma
    df = law_noise.df if isinstance(law_noise, StudentT) else np.inf
    pull = -(1 + 1 / df) * z / (1 + z**2 / df)
    joint = prior * scipy.stats.t.pdf(z, df) / sigma
    density = joint.sum(1)
    mean = joint @ x_0 / density
    expected = {
        "log_prob": np.log(density),
        "denoised": mean,
        "score": (joint * pull).sum(1) / sigma / density,
        "variance": (joint * (x_0 - mean[:, None]) ** 2).sum(1) / density,
        "cdf": scipy.stats.t.cdf(z, df) @ prior,
    }
    got = evaluate(law, Process(RectifiedFlow(), law_noise), jnp.asarray(x)[:, None], t)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=1e-9, err_msg=key)


cdf = quick_jit(lambda law, process, x, t: law.cdf(process, x, t))


def test_distribution_functions_in_closed_form():
    """Student data without noise, points under Student noise, Cauchy under Cauchy, both tails of a Gaussian."""
    x = jnp.array([[-40.0], [-0.3], [1.0], [40.0]])
    clean = cdf(STUDENT, Process(RectifiedFlow()), x, 0.0)
    student = WEIGHTS @ np.stack([scipy.stats.t(3.0, m, s).cdf(x[:, 0]) for m, s in zip(MEANS, SCALES, strict=True)])
    np.testing.assert_allclose(clean, student, rtol=1e-10)
    noisy = cdf(ATOMS, Process(RectifiedFlow(), StudentT(2.0)), x, 0.4)
    points = WEIGHTS @ np.stack([scipy.stats.t(2.0, 0.6 * m, 0.4).cdf(x[:, 0]) for m in MEANS])
    np.testing.assert_allclose(noisy, points, rtol=1e-10)
    cauchy = StudentTMixture(np.zeros((1, 1)), np.array([0.6]), 1.0)  # row 28: of scale γ + t
    spread = cdf(cauchy, Process(EDM(), StudentT(1.0)), x, 2.0)
    np.testing.assert_allclose(spread, scipy.stats.cauchy(0.0, 2.6).cdf(x[:, 0]), rtol=1e-10)
    below, above = GaussianLaw.isotropic([0.5], 2.0).log_cdf(Process(EDM()), x, 1.5)
    exact = scipy.stats.norm(0.5, 2.5)
    np.testing.assert_allclose(below, exact.logcdf(x[:, 0]), rtol=1e-9)
    np.testing.assert_allclose(above, exact.logsf(x[:, 0]), rtol=1e-9)


def test_smallest_error_of_the_noise_prediction():
    """Row 11: min L_t = E|ε − E[ε|x_t]|² = d − σ²E|∇ln p_t|² = (α²/σ²) E Var[x_0|x_t]."""
    process, t = Process(VP()), 0.25
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    nodes, masses = np.polynomial.hermite_e.hermegauss(80)
    x_0 = (MEANS[:, None] + SCALES[:, None] * nodes)[:, :, None]
    mass = WEIGHTS[:, None, None] * masses[:, None] * masses / (2 * np.pi)
    x = alpha * x_0 + sigma * nodes
    got = {key: np.asarray(v).reshape(x.shape) for key, v in evaluate(MIXTURE, process, x.reshape(-1, 1), t).items()}
    loss = np.sum(mass * (nodes - (x - alpha * got["denoised"]) / sigma) ** 2)
    assert loss == pytest.approx(1 - sigma**2 * np.sum(mass * got["score"] ** 2), abs=1e-8)
    assert loss == pytest.approx((alpha / sigma) ** 2 * np.sum(mass * got["variance"]), abs=1e-8)


flow = quick_jit(flow_map_1d)
X = np.array([[-3.0], [-0.4], [0.1], [2.5]])


@quick_jit
def runge_kutta(law, process, x, t, s):
    """The probability-flow ODE from t to s by the fourth-order rule, 400 steps uniform in √t."""
    times, drift = jnp.linspace(jnp.sqrt(t), jnp.sqrt(s), 401) ** 2, velocity(process, law.denoiser(process))

    def step(x, ends):
        now, after = ends
        h = after - now

        def stage(carry, row):  # the drift compiles once, not four times
            (slope, total), (share, weight) = carry, row
            slope = drift(x + share * h * slope, now + share * h)
            return (slope, total + weight * slope), None

        rows = np.array([0.0, 0.5, 0.5, 1.0]), np.array([1.0, 2.0, 2.0, 1.0])
        total = jax.lax.scan(stage, (0 * x, 0 * x), rows)[0][1]
        return x + h / 6 * total, None

    return jax.lax.scan(step, x, (times[:-1], times[1:]))[0]


@pytest.mark.parametrize(
    ("process", "t", "s"),
    [(Process(VP()), 0.9, 0.02), (Process(VP()), 0.02, 0.9), (Process(EDM(), StudentT(3.0)), 4.0, 0.05)],
    ids=["decode", "encode", "pfgm++"],
)
def test_flow_map_is_the_flow_of_the_velocity(process, t, s):
    ode = runge_kutta(MIXTURE, process, X, t, s)
    np.testing.assert_allclose(flow(MIXTURE, process, X, t, s), ode, rtol=1e-7)


@quick_jit
def flow_derivative(law, process, x, t, s, dx, ds):
    return jax.jvp(lambda x, s: flow_map_1d(law, process, x, t, s), (x, s), (dx, ds))[1]


def test_flow_map_inverts_and_carries_the_density():
    """Φ_{s→t} Φ_{t→s} = id, monotone, ∂Φ/∂x = p_t(x)/p_s(Φ(x)), and ∂Φ/∂s is the velocity."""
    process, x, t, s = Process(VP()), jnp.asarray(X), 0.7, 0.1
    y = flow(MIXTURE, process, x, t, s)
    assert np.all(np.diff(y[:, 0]) > 0)
    np.testing.assert_allclose(flow(MIXTURE, process, y, s, t), x, rtol=1e-11)
    ratio = jnp.exp(MIXTURE.log_prob(process, x, t) - MIXTURE.log_prob(process, y, s))
    by_x = flow_derivative(MIXTURE, process, x, t, s, jnp.ones_like(x), 0.0)
    np.testing.assert_allclose(by_x[:, 0], ratio, rtol=1e-9)
    by_s = flow_derivative(MIXTURE, process, x, t, s, jnp.zeros_like(x), 1.0)
    np.testing.assert_allclose(by_s, velocity(process, MIXTURE.denoiser(process))(y, s), rtol=1e-9)


def test_flow_map_stretches_a_gaussian():
    """x_t ~ N(αm, V): x ↦ α_s m + √(V_s/V_t)(x − α_t m), also 15 standard deviations out."""
    law, process, t = GaussianMixture.isotropic([[0.5], [0.5]], 2.0), Process(VP()), 0.3
    z, alpha = np.array([[-15.0], [-1.0], [0.3], [15.0]]), process.alpha(t)
    x = alpha * 0.5 + jnp.sqrt(4 * alpha**2 + process.sigma(t) ** 2) * z
    np.testing.assert_allclose(flow(law, process, x, t, 0.0), 0.5 + 2.0 * z, rtol=1e-9)


def test_quantiles_and_basins_of_attraction():
    """F_t⁻¹ inverts F_t; and at σ = 0 all mass below the quantile 0.3 has gone to the first point (row 32)."""
    process, levels, invert = Process(EDM()), jnp.array([1e-9, 0.299, 0.301, 0.99]), quick_jit(quantile)
    x = invert(ATOMS, process, levels, 10.0)
    np.testing.assert_allclose(cdf(ATOMS, process, x, 10.0), levels, rtol=1e-12)
    np.testing.assert_allclose(invert(ATOMS, process, levels, 0.0)[:, 0], MEANS[[0, 0, 1, 1]], rtol=1e-12)
