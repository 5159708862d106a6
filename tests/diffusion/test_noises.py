"""The laws of z, and that a sample depends on its own key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from diffusion import EDM, Gaussian, Process, StudentT, perturb
from diffusion import keys as keys_lib

log_prob = jax.jit(lambda noise, z: noise.log_prob(z))


@pytest.mark.parametrize("df", [1.0, 3.0, 128.0])
@pytest.mark.parametrize("d", [1, 5])
def test_student_t_density(df, d, x64):
    z = 3 * np.random.default_rng(0).normal(size=(7, d))
    exact = scipy.stats.multivariate_t(np.zeros(d), np.eye(d).tolist(), df=df).logpdf(z)
    np.testing.assert_allclose(log_prob(StudentT(df), z), np.atleast_1d(exact), rtol=1e-12)


def test_gaussian_density_sums_over_the_event(x64):
    z = np.random.default_rng(0).normal(size=(4, 2, 3))
    exact = scipy.stats.norm.logpdf(z).sum((1, 2))
    np.testing.assert_allclose(log_prob(Gaussian(), z), exact, rtol=1e-12)


@pytest.mark.parametrize("df", [1.0, 2.0, 8.0, 128.0, 2048.0, 3e6])
def test_student_t_radius_has_its_exact_law(df):
    """|z|²/d ~ F(d, df): a Kolmogorov-Smirnov test in float32, as it is used; also without a single ∞ at df = 1."""
    z = np.asarray(StudentT(df).sample(jax.random.key(1), (20_000, 6)), np.float64)
    assert np.isfinite(z).all()
    # 1.95/√n is the 0.1% point of the KS statistic.
    assert scipy.stats.kstest((z**2).sum(1) / 6, scipy.stats.f(6, df).cdf).statistic < 1.95 / np.sqrt(20_000)


@pytest.mark.parametrize("df", [1.0, 2.0, 8.0, 128.0, 2048.0, 3e6])
def test_student_t_has_its_scale_and_its_tails(df):
    """df |g|²/|z|² ~ χ²_df for the g of the same key, in float32: the common factor alone, clipped nowhere.

    At df = 3e6 its spread is 6e-4, and the rounding of the logarithm it is drawn by a thousandth of that.
    """
    key, n = jax.random.key(1), 20_000
    z = np.asarray(StudentT(df).sample(key, (n, 1)), np.float64)[:, 0]
    g = np.asarray(keys_lib.normal(keys_lib.fold(keys_lib.as_keys(key, n), 0), (1,)), np.float64)[:, 0]
    chi_squared = df * (g / z) ** 2
    assert scipy.stats.kstest(chi_squared, scipy.stats.chi2(df).cdf).statistic < 1.95 / np.sqrt(n)
    wrong = scipy.stats.kstest(chi_squared, scipy.stats.chi2(df, loc=0.05 * np.sqrt(2 * df)).cdf)
    assert wrong.statistic > 1.95 / np.sqrt(n) or df == 1
    # The 1e-3 quantile of χ² from both sides: the longest draws are there, as many as there should be.
    share = np.mean(chi_squared < scipy.stats.chi2(df).ppf(1e-3))
    assert abs(share - 1e-3) < 4 * np.sqrt(1e-3 / n)
    assert np.unique(z).size > 0.99 * n


@pytest.mark.parametrize("df", [1.0, 2048.0, 3e6, 1e9])
@pytest.mark.parametrize("d", [2, 3072, 100_000])
def test_student_t_density_in_float32(df, d):
    """Against SciPy in float64, relative to the size of its terms, d and ln p; a difference of ln Γ is off by nats."""
    z = np.float32(np.random.default_rng(0).normal(size=(3, d)) * np.array([[0.1], [1.0], [30.0]]))
    square = np.sum(np.float64(z) ** 2, 1)
    a, b = df / 2, d / 2
    constant = scipy.special.gammaln(a + b) - scipy.special.gammaln(a) - b * np.log(np.pi * df)
    if df > 1e6:  # where float64 cancels too: ln Γ(a + b)/(Γ(a) aᵇ) is the sum of ln(1 + k/a), k < b, for even d
        constant = np.sum(np.log1p(np.arange(d // 2) / a)) - b * np.log(2 * np.pi)
    exact = constant - 0.5 * (df + d) * np.log1p(square / df)
    found = np.asarray(log_prob(StudentT(df), z), np.float64)
    assert np.max(np.abs(found - exact) / (d + np.abs(exact))) < 1e-6


def test_student_t_is_gaussian_in_the_limit_at_rate_one_over_df(x64):
    z = np.random.default_rng(2).normal(size=(5, 3))
    limit, *near = (np.asarray(log_prob(noise, z)) for noise in (Gaussian(), *map(StudentT, (1e3, 1e4, 1e5))))
    errors = [np.max(np.abs(one - limit)) for one in near]
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 10, rtol=0.02)


def test_student_t_kernel_is_pfgmpp(x64):
    """Density of x = y + σz ∝ (|x − y|² + σ² D)^{−(d + D)/2} with D = df."""
    d, big_d, sigma = 3, 5.0, 0.7
    y, z = np.zeros((4, d)), np.random.default_rng(3).normal(size=(4, d))
    x = np.asarray(jax.jit(perturb)(Process(EDM(), StudentT(big_d)), y, z, sigma))
    kernel = -(d + big_d) / 2 * np.log(np.sum((x - y) ** 2, 1) + sigma**2 * big_d)
    difference = np.asarray(log_prob(StudentT(big_d), (x - y) / sigma)) - kernel
    np.testing.assert_allclose(difference, difference[0], rtol=1e-12)


@pytest.mark.parametrize("noise", [Gaussian(), StudentT(3.0)], ids=["gaussian", "student-t"])
def test_a_draw_depends_on_its_own_key_alone(noise):
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(6))
    together = np.asarray(noise.sample(keys, (6, 2, 2)))
    np.testing.assert_array_equal(noise.sample(keys[3:5], (2, 2, 2)), together[3:5])
    np.testing.assert_array_equal(noise.sample(jax.random.key(0), (6, 2, 2)), together)


def test_keys_for_another_batch_are_refused():
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(3))
    with pytest.raises(ValueError, match="for a batch of 4"):
        Gaussian().sample(keys, (4, 2))


def test_df_must_be_positive():
    with pytest.raises(ValueError, match="df = 0"):
        StudentT(0)


@pytest.mark.parametrize(("df", "d"), [(1.0, 3), (5.0, 2)])
def test_the_scale_is_what_bayes_rule_says_of_it(df, d, x64):
    """1/scale² = E[g | z] for z | g ~ N(0, I/g), g ~ χ²_df/df, by quadrature over g."""
    z = np.random.default_rng(0).normal(size=(5, d)) * np.asarray([[0.1], [1.0], [3.0], [10.0], [100.0]])
    log_g = np.linspace(-30, 8, 8001)[:, None]
    g, square = np.exp(log_g), np.sum(z**2, 1)
    density = np.exp(scipy.stats.chi2.logpdf(df * g, df) + log_g + 0.5 * d * log_g - 0.5 * g * square)
    mean = (density * g).sum(0) / density.sum(0)
    scale = jax.jit(lambda noise, z: noise.scale(z))
    np.testing.assert_allclose(np.asarray(scale(StudentT(df), z)) ** -2.0, mean, rtol=1e-8)
    np.testing.assert_array_equal(scale(Gaussian(), z), np.ones(5))
