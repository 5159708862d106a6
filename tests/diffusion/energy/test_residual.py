"""Potentials, their denoisers and their scores; whether a field is a gradient; what densities are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import norm

from diffusion import EDM, Process, score
from diffusion import keys as keys_lib
from diffusion.energy import (
    anomaly_score,
    asymmetry,
    energy,
    exact_potential,
    log_density,
    log_density_ratio,
    potential_gradient,
    residual_denoiser,
    smoothed_score,
)
from diffusion.oracles import Atoms, GaussianMixture

SIGMA = 0.6
LAWS = {
    "mixture": GaussianMixture.isotropic(
        np.asarray([[-1.0, 0.3], [0.7, -0.2], [0.1, 1.2]]), np.asarray([0.3, 0.5, 0.4])
    ),
    "atoms": Atoms(np.asarray([[-1.0, 0.3], [0.7, -0.2], [0.1, 1.2]]), np.asarray([0.2, 0.3, 0.5])),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_the_exact_potential_is_that_of_the_exact_denoiser(law, x64):
    """y + ∇ψ = E[x|y, σ], ∇ψ/σ² = ∇ln p̂, and ψ/σ² = ln p̂ itself: for finite data, of their kernel density."""
    process, y = Process(EDM()), np.random.default_rng(0).normal(size=(7, 2))

    @jax.jit
    def measure(y):
        psi = exact_potential(law, SIGMA)
        exact = law.denoiser(process)(y, SIGMA), law.score(process, y, SIGMA), law.log_prob(process, y, SIGMA)
        scores = smoothed_score(psi, SIGMA)(y), score(process, residual_denoiser(psi))(y, SIGMA)
        denoised = residual_denoiser(psi)(y, 123.0)  # whatever the time
        return exact, denoised, scores, log_density(psi, SIGMA)(y), energy(psi, SIGMA)(y), psi(y)

    (mean, slope, log_p), denoised, scores, found, negative, values = jax.device_get(measure(y))
    np.testing.assert_allclose(denoised, mean, rtol=1e-11)
    np.testing.assert_allclose(scores[0], slope, rtol=1e-11)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-11)
    np.testing.assert_allclose(found, log_p, rtol=1e-12)
    np.testing.assert_allclose(negative, -log_p, rtol=1e-12)
    if isinstance(law, Atoms):
        gaps = y[:, None] - law.points
        kernels = np.exp(-0.5 * np.sum(gaps**2, -1) / SIGMA**2) / (2 * np.pi * SIGMA**2)
        np.testing.assert_allclose(values, SIGMA**2 * np.log(kernels @ law.weights), rtol=1e-12)


def test_a_potential_of_any_event_shape_crosses_jit_without_compiling_again(x64):
    """ψ = −½ k |y|² has the denoiser (1 − k) y; k is a leaf."""
    traces = []

    @jax.jit
    def answer(denoise, y):
        traces.append(1)
        return denoise(y, 0.5)

    y, slope = np.random.default_rng(1).normal(size=(3, 4, 4, 2)), jax.jit(potential_gradient)
    for k in (0.3, 0.8):
        psi = Partial(quadratic, np.float64(k))
        np.testing.assert_allclose(slope(psi, y), -k * y, rtol=1e-12)
        np.testing.assert_allclose(answer(residual_denoiser(psi), y), (1 - k) * y, rtol=1e-12)
    assert len(traces) == 1


def quadratic(k, y):
    return -0.5 * k * jnp.sum(y**2, axis=(1, 2, 3))


def test_the_asymmetry_of_a_linear_field_is_that_of_its_matrix(x64):
    """Exactly from all directions; from one probe for each x on average, within 4 standard errors."""
    b = np.random.default_rng(0).normal(size=(6, 6))
    expected = [np.sum((b - b.T) ** 2), np.sum((b + b.T) ** 2)]
    x = np.zeros((4000, 3, 2))

    def field(y):
        return (y.reshape(len(y), -1) @ b.T).reshape(y.shape)

    @jax.jit
    def measure(x, key):
        exact = asymmetry(field, x[:2])
        return exact, exact.ratio, asymmetry(field, x, keys_lib.as_keys(key, 4000))

    exact, ratio, estimates = jax.device_get(measure(x, jax.random.key(1)))
    np.testing.assert_allclose(exact, np.outer(expected, [1, 1]), rtol=1e-12)
    np.testing.assert_allclose(ratio, np.sqrt(expected[0] / expected[1]), rtol=1e-12)
    for values, one in zip(estimates, expected, strict=True):
        assert abs(values.mean() - one) < 4 * values.std() / np.sqrt(len(values)) < 0.1 * one


def test_a_residual_denoiser_has_no_curl_and_a_network_of_scores_has(x64):
    """Conservative by construction: the Jacobian is a Hessian, and I."""
    rng = np.random.default_rng(2)
    a, c = rng.normal(size=(8, 3)), rng.normal(size=8)
    b, x = rng.normal(size=(8, 3)), rng.normal(size=(5, 3))

    def psi(y):
        return jnp.tanh(y @ a.T) @ c

    @jax.jit
    def ratios(x):
        fields = (lambda y: residual_denoiser(psi)(y, 1.0)), (lambda y: y + jnp.tanh(y @ a.T) @ b)
        return [asymmetry(field, x).ratio for field in fields]

    of_denoiser, of_network = map(float, ratios(x))
    assert of_denoiser < 1e-15
    assert of_network > 0.1


def test_a_ratio_of_densities_is_that_of_the_laws_up_to_a_constant(x64):
    process, y = Process(EDM()), np.random.default_rng(3).normal(size=(9, 2))
    a, b = LAWS.values()

    @jax.jit
    def gap(y):
        ratio = log_density_ratio(lambda x: exact_potential(a, SIGMA)(x) + 0.4, exact_potential(b, SIGMA), SIGMA)
        return ratio(y) - (a.log_prob(process, y, SIGMA) - b.log_prob(process, y, SIGMA))

    np.testing.assert_allclose(gap(y), 0.4 / SIGMA**2, rtol=1e-10)


def test_anomaly_scores_find_outliers_as_well_as_the_density_does():
    """They order as −ln p̂ does; p̂ = N(0, s²) against N(m, s²) has the AUROC Φ(c)² + Φ(−c)², c = m/(s√2)."""
    count, m, s = 4000, 1.5, 1.0
    law = GaussianMixture.isotropic(np.zeros((1, 1)), np.sqrt(s**2 - SIGMA**2))
    inside, outside = np.random.default_rng(0).normal([[[0.0]], [[m]]], size=(2, count, 1)).astype(np.float32)
    scores = jax.jit(anomaly_score, static_argnums=1)
    score_in, score_out = (np.asarray(scores(exact_potential(law, SIGMA), SIGMA, y)) for y in (inside, outside))
    ranks = np.searchsorted(np.sort(score_in), score_out) / count  # of each outlier among the others
    other = np.searchsorted(np.sort(score_out), score_in) / count
    c = m / (s * np.sqrt(2))
    exact = float(norm.cdf(c) ** 2 + norm.cdf(-c) ** 2)
    error = np.sqrt((ranks.var() + other.var()) / count)
    assert abs(ranks.mean() - exact) < 4 * error
    assert ranks.mean() - 0.5 > 10 * error
    kde = Atoms(np.random.default_rng(4).normal(size=(50, 2)))
    y = (np.random.default_rng(5).normal(size=(200, 2)) * 3).astype(np.float32)
    expected = -np.asarray(kde.log_prob(Process(EDM()), jnp.asarray(y), SIGMA))
    found = np.asarray(scores(exact_potential(kde, SIGMA), SIGMA, y))
    np.testing.assert_array_equal(np.argsort(found), np.argsort(expected))


@pytest.mark.parametrize(
    "function", [smoothed_score, energy, log_density, lambda psi, s: exact_potential(LAWS["atoms"], s)]
)
def test_a_noise_level_that_is_none_is_refused(function):
    with pytest.raises(ValueError, match=r"sigma = 0\.0; a noise level must be positive"):
        function(quadratic, 0.0)
