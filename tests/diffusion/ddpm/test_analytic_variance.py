"""The table of optimal variances against quadrature over a mixture (identity rows 9 and 11)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Cosine, Process, RectifiedFlow, StudentT
from diffusion.ddpm.analytic_variance import covariance_bound, covariance_samples, estimate_optimal_variance
from diffusion.oracles import Atoms, GaussianMixture

MEANS, STDS, WEIGHTS = np.array([[-0.7], [0.6]]), np.array([0.3, 0.5]), np.array([0.4, 0.6])
MIXTURE = GaussianMixture.isotropic(MEANS, STDS, WEIGHTS)
METHODS = ("error", "score", "variance")
CASES = {"vp": (Process(VP()), 0.3), "edm": (Process(EDM()), 0.7), "flow": (Process(RectifiedFlow()), 0.6)}


def nodes():
    """(x_0, ε, weight) of the trapezoidal rule over each component, exact to rounding for analytic functions."""
    line = np.linspace(-9, 9, 101)
    mass = np.exp(-0.5 * line**2) / np.sqrt(2 * np.pi) * (line[1] - line[0])
    xi, eps = (axis.ravel() for axis in np.meshgrid(line, line))
    x_0 = np.concatenate([m + s * xi for m, s in zip(MEANS[:, 0], STDS, strict=True)])
    weight = np.outer(WEIGHTS, np.outer(mass, mass).ravel()).ravel()
    return tuple(jnp.asarray(values) for values in (x_0[:, None], np.tile(eps, 2)[:, None], weight))


@jax.jit
def answers(process, t, x_0, eps, weight):
    """Means over x_0 and ε: the three estimates, the law's own covariance and score, and a worse denoiser's error."""
    denoise = MIXTURE.denoiser(process)
    x_t = process.alpha(t) * x_0 + process.sigma(t) * eps
    bent = 0.1 * jnp.sin(x_t)
    methods = {name: weight @ covariance_samples(process, denoise, x_0, eps, t, name) for name in METHODS}
    return methods | {
        "oracle": weight @ MIXTURE.posterior_variance(process, x_t, t),
        "fisher": weight @ MIXTURE.score(process, x_t, t)[:, 0] ** 2,
        "worse": weight @ covariance_samples(process, lambda x, t: denoise(x, t) + bent, x_0, eps, t, "error"),
        "bent": weight @ bent[:, 0] ** 2,
        "snr": (process.alpha(t) / process.sigma(t)) ** 2,
        "variance_t": process.schedule.variance(t),
    }


@pytest.mark.parametrize("name", CASES)
def test_the_three_estimates_have_one_mean(name, x64):
    """Row 9: E|x_0 − D|², (B²/A²)(1 − E|e|²) and Var[x_0] − Var[D] are E Var[x_0|x_t], below the bounds."""
    process, t = CASES[name]
    it = answers(process, jnp.asarray(t), *nodes())
    for method in METHODS:
        np.testing.assert_allclose(it[method], it["oracle"], rtol=1e-9)
    assert 0 < it["oracle"] < covariance_bound(process, t)


@pytest.mark.parametrize("name", CASES)
def test_the_least_loss_is_what_the_score_leaves(name, x64):
    """Row 11: min E|ε − ε̂|² = d − B² E|s|², and any other denoiser D + h costs (A²/B²) E|h|² more."""
    process, t = CASES[name]
    it = answers(process, jnp.asarray(t), *nodes())
    least = it["snr"] * it["error"]
    np.testing.assert_allclose(least, 1 - it["variance_t"] * it["fisher"], rtol=1e-8)
    np.testing.assert_allclose(it["snr"] * it["worse"] - least, it["snr"] * it["bent"], rtol=1e-8)


def test_the_bounds_hold_for_images():
    """Row 9: for data in [a, b] the covariance is at most ((b − a)/2)², which atoms at the ends attain."""
    process = Process(EDM())
    ends = Atoms(np.array([[-1.0], [1.0]]))
    bound = covariance_bound(process, jnp.asarray([0.1, 50.0]), (-1.0, 1.0))
    np.testing.assert_allclose(bound, [0.01, 1.0], rtol=1e-6)
    vp = Process(VP())
    noise = (vp.sigma(0.5) / vp.alpha(0.5)) ** 2
    np.testing.assert_allclose(covariance_bound(vp, 0.5), noise, rtol=1e-6)
    left = jax.jit(lambda x: ends.posterior_variance(process, x, 50.0))(jnp.zeros((1, 1)))
    np.testing.assert_allclose(left, 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="data_range"):
        covariance_bound(process, 1.0, (1.0, -1.0))


def test_an_estimate_is_right_within_its_error(x64):
    """200 batches of 100: their mean is right to 4 standard errors, and these are the spread of the batches' means."""
    process, times = Process(EDM()), np.array([0.3, 0.7])
    rng = np.random.default_rng(0)
    which = rng.choice(2, p=WEIGHTS, size=(200, 100))
    x_0 = MEANS[which] + STDS[which][..., None] * rng.normal(size=(200, 100, 1))

    @jax.jit
    def run(keys, x_0):
        denoise = MIXTURE.denoiser(process)
        return jax.vmap(lambda key, x: estimate_optimal_variance(key, process, denoise, x, times))(keys, x_0)

    variance, errors = run(jax.random.split(jax.random.key(0), 200), x_0)
    exact = np.array([answers(process, jnp.asarray(t), *nodes())["oracle"] for t in times])
    error = np.sqrt((errors**2).mean(axis=0) / 200)
    assert np.all(np.abs(variance.covariances.mean(axis=0) - exact) < 4 * error)
    assert np.all(error < 0.02 * exact)
    np.testing.assert_allclose(variance.covariances.std(axis=0) / np.sqrt(200), error, rtol=4 / np.sqrt(400))
    np.testing.assert_array_equal(variance.times[0], times)


def test_an_estimate_is_clipped_to_its_bounds(x64):
    """A denoiser that is worse than x_t/α is not believed; neither is a score larger than the noise."""
    process, times = Process(EDM()), np.array([0.1, 3.0])

    @jax.jit
    def run(key, x_0):
        def estimate(factor, **options):
            def denoise(x, t):
                return factor * x

            return estimate_optimal_variance(key, process, denoise, x_0, times, **options).variance.covariances

        return estimate(9.0, data_range=(-1.0, 1.0)), estimate(-9.0, method="score")

    error, score = run(jax.random.key(0), np.random.default_rng(0).normal(size=(100, 2)))
    np.testing.assert_allclose(error, [0.01, 1.0], rtol=1e-12)
    np.testing.assert_array_equal(score, 0.0)


def test_bad_requests_are_refused():
    x_0, key = jnp.ones((3, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match="α, which is 0 at t = 1"):
        estimate_optimal_variance(key, Process(Cosine()), lambda x, t: x, x_0, np.array([0.5, 1.0]), method="score")
    with pytest.raises(ValueError, match="leave out the data's time"):
        estimate_optimal_variance(key, Process(VP()), lambda x, t: x, x_0, np.array([0.0, 0.5]))
    with pytest.raises(TypeError, match="Gaussian noise only"):
        estimate_optimal_variance(key, Process(EDM(), StudentT(3.0)), lambda x, t: x, x_0, np.array([0.5]))
