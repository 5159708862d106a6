"""Moments of linear SDEs against quadrature, Lyapunov's equation and the marginals of every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from jax.tree_util import Partial

from diffusion import EDM, VE, VP, Cosine, Process, RectifiedFlow, SubVP, reverse_sde
from diffusion.fokker_planck import moments

DRIFT = np.array([[-1.0, 3.0, 0.0], [0.0, -2.0, 5.0], [0.0, -0.5, -0.7]])  # far from normal
SPREAD = np.array([[0.3, 0.0], [0.2, 1.0], [0.0, 0.5]])
OFFSET = np.array([1.0, -0.5, 0.2])
MEAN, COVARIANCE = np.array([1.0, 2.0, -1.0]), np.array([[0.3, 0.1, 0.0], [0.1, 0.2, -0.05], [0.0, -0.05, 0.1]])


def linear_moments(*arguments, **options):
    """`moments.linear_moments`, its answer in NumPy: what is compared with it need not be compiled."""
    return jax.device_get(moments.linear_moments(*arguments, **options))


@jax.jit
def _alpha_and_variance(schedule, t):
    return schedule.alpha(t), schedule.variance(t)


def alpha_and_variance(schedule, t):
    return jax.device_get(_alpha_and_variance(schedule, t))


def turning(t):
    """F(t) that does not commute with itself at other times."""
    return jnp.stack([jnp.stack([-1.0 + 0 * t, 3 * jnp.sin(2 * t)]), jnp.stack([t * jnp.cos(t), t - 2])])


def widening(t):
    return jnp.stack([jnp.stack([0.3 + t, 0 * t]), jnp.stack([0.2 * jnp.exp(-t), 1 + 0 * t])])


def pushing(t):
    return jnp.stack([jnp.sin(3 * t), jnp.exp(-t)])


def by_ode(mean, covariance, start, end):
    """m' = F m + c and S' = F S + S Fᵀ + G Gᵀ as they stand, by a Runge-Kutta method of order 8."""
    d = len(mean)

    @jax.jit
    def slope(t, y):
        m, S = y[:d], y[d:].reshape(d, d)
        F, G, c = turning(t), widening(t), pushing(t)
        return jnp.concatenate([F @ m + c, (F @ S + S @ F.T + G @ G.T).reshape(-1)])

    y = np.concatenate([mean, covariance.reshape(-1)])
    y = scipy.integrate.solve_ivp(slope, (start, end), y, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    return y[:d], y[d:].reshape(d, d)


def largest(found, mean, covariance):
    return max(np.max(np.abs(found.means[-1] - mean)), np.max(np.abs(found.covariances[-1] - covariance)))


def test_constant_coefficients_are_exact(x64):
    """e^{Ft} and the integrals of e^{Fs} c and e^{Fs} G Gᵀ e^{Fᵀs}, in one step of any length."""
    times = np.array([0.0, 0.3, 2.0, 11.0])
    got = linear_moments(DRIFT, SPREAD, MEAN, COVARIANCE, times, offset=OFFSET, steps=1)

    def grown(s):
        flow = scipy.linalg.expm(DRIFT * s)
        return np.column_stack([flow @ OFFSET, flow @ SPREAD @ SPREAD.T @ flow.T])

    for k, t in enumerate(times):
        flow, added = scipy.linalg.expm(DRIFT * t), scipy.integrate.quad_vec(grown, 0, t, epsabs=1e-13)[0]
        np.testing.assert_allclose(got.means[k], flow @ MEAN + added[:, 0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(got.covariances[k], flow @ COVARIANCE @ flow.T + added[:, 1:], rtol=0, atol=1e-12)
    assert np.all(got.error < 1e-13)


def test_long_times_and_stiff_drifts_end_in_lyapunovs_equation(x64):
    """Rates from 1 to 1e6, where e^{−Fᵀt} overflows."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    drift = turn @ np.array([[-1.0, 0.0, 2e4], [0.0, -1e3, 0.0], [0.0, 0.0, -1e6]]) @ turn.T
    spread = np.array([0.3, 1.0, 0.5])
    got = linear_moments(drift, spread, MEAN, COVARIANCE, np.array([0.0, 1.0, 1e3]), offset=OFFSET, steps=1)
    stationary = scipy.linalg.solve_continuous_lyapunov(drift, -np.diag(spread**2))
    np.testing.assert_allclose(got.covariances[-1], stationary, rtol=0, atol=1e-8 * np.abs(stationary).max())
    np.testing.assert_allclose(got.means[-1], -np.linalg.solve(drift, OFFSET), rtol=1e-8)
    assert np.all(np.linalg.eigvalsh(got.covariances) > 0)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [(VP(), 1.0), (SubVP(), 1.0), (VE(), 1.0), (EDM(), 80.0), (Cosine(), 0.9), (RectifiedFlow(), 0.9)],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_the_forward_sde_of_every_process_has_its_marginals(schedule, end, x64):
    """m = α m_0, S = α² S_0 + σ² I, from t = 0 on, where VP and SubVP are stiff in √t."""
    times = np.linspace(0.0, end, 6)
    mean, covariance = MEAN[:2], COVARIANCE[:2, :2]

    def diffusion(t):
        return jnp.sqrt(schedule.diffusion_squared(t))

    got = linear_moments(schedule.drift, diffusion, mean, covariance, times, steps=16)
    alpha, variance = alpha_and_variance(schedule, times)
    expected = alpha[:, None, None] ** 2 * covariance + variance[:, None, None] * np.eye(2)
    np.testing.assert_allclose(got.means, alpha[:, None] * mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.covariances, expected, rtol=1e-9, atol=1e-9)


def test_the_error_is_of_order_six_and_estimated(x64):
    """Against another method; F(t) and F(s) do not commute, so every term of Magnus's exponent counts."""
    mean, covariance = MEAN[:2], COVARIANCE[:2, :2]
    expected = by_ode(mean, covariance, 0.0, 2.0)
    errors, estimates = [], []
    for steps in (4, 8, 16):
        got = linear_moments(turning, widening, mean, covariance, np.array([0.0, 2.0]), offset=pushing, steps=steps)
        errors.append(largest(got, *expected))
        estimates.append(got.error[-1])
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 6, atol=0.2)
    np.testing.assert_allclose(estimates, errors, rtol=0.2)


def test_time_passes_in_any_portions(x64):
    """The semigroup: 0 -> 2 -> 3 is 0 -> 3, and the times asked for change nothing."""
    mean, covariance = MEAN[:2], COVARIANCE[:2, :2]

    def run(mean, covariance, times):
        return linear_moments(turning, widening, mean, covariance, np.asarray(times), offset=pushing, steps=32)

    once, twice = run(mean, covariance, [0.0, 1.5, 3.0]), run(mean, covariance, [0.0, 0.7, 2.0])
    rest = run(twice.means[-1], twice.covariances[-1], [2.0, 2.1, 3.0])
    np.testing.assert_allclose(rest.means[-1], once.means[-1], rtol=1e-7)
    np.testing.assert_allclose(rest.covariances[-1], once.covariances[-1], rtol=1e-7)


def test_numbers_and_diagonals_are_matrices(x64):
    times = np.array([0.0, 0.8])
    eye = np.eye(3)
    numbers = linear_moments(-0.7, 0.4, MEAN, COVARIANCE, times, offset=0.3)
    matrices = linear_moments(-0.7 * eye, 0.4 * eye, MEAN, COVARIANCE, times, offset=np.full(3, 0.3))
    decay = np.exp(-0.7 * 0.8)
    np.testing.assert_allclose(numbers.means[-1], decay * MEAN + 0.3 / 0.7 * (1 - decay), rtol=1e-13)
    added = 0.4**2 / (2 * 0.7) * (1 - decay**2)
    np.testing.assert_allclose(numbers.covariances[-1], decay**2 * COVARIANCE + added * eye, rtol=1e-13)
    for a, b in zip(numbers, matrices, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)
    diagonal = np.array([0.1, 0.2, 0.3])
    for a, b in zip(
        linear_moments(DRIFT, diagonal, MEAN, COVARIANCE, times),
        linear_moments(DRIFT, np.diag(diagonal), MEAN, COVARIANCE, times),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def offset_of(sde, t):
    return sde.drift(jnp.zeros((1, 2)), t)[0]


def slope_of(sde, t):
    return (sde.drift(jnp.eye(2), t) - offset_of(sde, t)).T


def wiener(process, x, t):
    """The denoiser of N(MEAN, COVARIANCE) in the first two axes; the oracle's takes far longer to compile."""
    variances, basis = np.linalg.eigh(COVARIANCE[:2, :2])
    alpha, sigma = process.alpha(t), process.sigma(t)
    gains = alpha * variances / (alpha**2 * variances + sigma**2)
    return MEAN[:2] + ((x - alpha * MEAN[:2]) @ basis * gains) @ basis.T


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0])
def test_the_reverse_family_runs_backwards(level, x64):
    """Descending times, F and c read off the reverse drift of Gaussian data: p_T comes back to p_t."""
    process = Process(VP())
    sde = reverse_sde(process, Partial(wiener, process), level)

    times = np.linspace(0.8, 0.1, 8)
    alpha, variance = alpha_and_variance(process.schedule, times)
    means = alpha[:, None] * MEAN[:2]
    covariances = alpha[:, None, None] ** 2 * COVARIANCE[:2, :2] + variance[:, None, None] * np.eye(2)
    drift, offset = Partial(slope_of, sde), Partial(offset_of, sde)
    got = linear_moments(drift, sde.diffusion, means[0], covariances[0], times, offset=offset, steps=16)
    np.testing.assert_allclose(got.means, means, rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.covariances, covariances, rtol=0, atol=1e-8)


def test_moments_have_slopes(x64):
    """d/dθ of the variance of dx = −θ x dt + dw, through jit and reverse-mode differentiation."""
    times = np.array([0.0, 0.8])

    def variance(theta):
        return moments.linear_moments(-theta, 1.0, np.zeros(1), np.full((1, 1), 2.0), times).covariances[-1, 0, 0]

    def exact(theta):
        return 2 * jnp.exp(-1.6 * theta) - jnp.expm1(-1.6 * theta) / (2 * theta)

    both = jax.jit(lambda theta: [jax.value_and_grad(one)(theta) for one in (variance, exact)])
    (value, slope), (exact_value, exact_slope) = both(1.3)
    np.testing.assert_allclose(value, exact_value, rtol=1e-13)
    np.testing.assert_allclose(slope, exact_slope, rtol=1e-11)


def test_what_does_not_fit_is_refused():
    mean, covariance, times = np.zeros(2), np.eye(2), np.array([0.0, 1.0])
    with pytest.raises(ValueError, match=r"drift has shape \(3, 3\) for a mean of 2 numbers; give \(\), or \(2, 2\)"):
        linear_moments(DRIFT, 1.0, mean, covariance, times)
    with pytest.raises(ValueError, match=r"spread has shape \(3,\)"):
        linear_moments(1.0, np.ones(3), mean, covariance, times)
    with pytest.raises(ValueError, match=r"offset has shape \(3,\)"):
        linear_moments(1.0, 1.0, mean, covariance, times, offset=lambda t: t * jnp.ones(3))
    with pytest.raises(ValueError, match="steps = 0; at least 1"):
        linear_moments(1.0, 1.0, mean, covariance, times, steps=0)
    with pytest.raises(ValueError, match=r"times .* must be finite"):
        linear_moments(1.0, 1.0, mean, covariance, np.array([0.0, np.inf]))
