"""Langevin dynamics: its bias as it is derived, none for MALA, and a step size that is each sample's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Process, score
from diffusion import keys as keys_lib
from diffusion.oracles import GaussianLaw, GaussianMixture
from samplers import AnnealedLangevin, PredictorCorrector, langevin_step, mala_step, sample, uniform_time
from tests.samplers.programs import marginal

COUNT = 40_000


def draws(seed):
    return keys_lib.sample_keys(jax.random.key(seed), jnp.arange(COUNT))


def standardised(values, expected):
    """(mean − expected)/standard error."""
    return float((np.mean(values) - expected) / (np.std(values) / np.sqrt(len(values))))


def test_unadjusted_langevin_has_the_variance_that_is_derived():
    """On N(0, v): x <- (1 − η/2v) x + √η n, so the variance is v/(1 − η/4v), not v."""
    variance, eta = 0.7, 0.5
    biased = variance / (1 - eta / (4 * variance))

    @jax.jit
    def moved():
        x = jnp.sqrt(biased) * keys_lib.normal(draws(0), (1,))
        return jax.lax.fori_loop(0, 3, lambda i, x: langevin_step(draws(i + 1), x, -x / variance, eta), x)

    squares = np.asarray(moved())[:, 0] ** 2
    assert abs(standardised(squares, biased)) < 4
    assert abs(standardised(squares, variance)) > 4  # the power of the line above


def test_mala_leaves_the_law_alone_at_any_size(mixture):
    """From an exact start, with steps at which the unadjusted dynamics is far off."""
    process = Process(EDM())

    def log_density(x):
        return mixture.log_prob(process, x, 0.0)

    w, m, v = mixture.weights, mixture.means[:, 0], mixture.floor
    moments = (
        (lambda x: x, w @ m),
        (lambda x: x**2, w @ (m**2 + v)),
        (lambda x: np.cos(3 * x), w @ (np.exp(-4.5 * v) * np.cos(3 * m))),
    )

    start = marginal(mixture, jax.random.key(3), process, COUNT, 0.0)

    @jax.jit
    def adjusted(x):
        return jax.lax.fori_loop(0, 5, lambda i, y: mala_step(keys_lib.fold(draws(4), i), y, log_density, 0.4).x, x)

    @jax.jit
    def unadjusted(x):
        gradient = jax.grad(lambda y: jnp.sum(log_density(y)))
        step = lambda i, y: langevin_step(keys_lib.fold(draws(4), i), y, gradient(y), 0.4)  # noqa: E731
        return jax.lax.fori_loop(0, 5, step, x)

    end = np.asarray(adjusted(start))[:, 0]
    for moment, expected in moments:
        assert abs(standardised(moment(end), expected)) < 4
    assert abs(standardised(np.asarray(unadjusted(start))[:, 0] ** 2, moments[1][1])) > 10
    accepted = np.asarray(jax.jit(mala_step, static_argnums=2)(draws(6), start, log_density, 0.4).accepted)
    assert 0.2 < accepted.mean() < 0.95


def test_mala_rejects_what_has_no_density():
    def only_at_one(y):
        return jnp.where(y[:, 0] == 1, 0.0, jnp.nan)

    x = jax.device_put(np.ones((8, 1), np.float32))
    step = jax.jit(mala_step, static_argnums=2)
    out = step(keys_lib.sample_keys(jax.random.key(0), jnp.arange(8)), x, only_at_one, 0.1)
    assert not np.asarray(out.accepted).any()
    np.testing.assert_array_equal(out.x, x)


def test_a_level_of_annealed_langevin_ends_in_its_biased_law():
    """Under EDM at level σ the law is N(0, v + σ²), η = size σ²; a start there stays there."""
    process, variance, sigma, size = Process(EDM()), 0.5, 0.8, 0.6
    law = GaussianLaw.isotropic(np.zeros(1), np.sqrt(variance))
    total = variance + sigma**2
    biased = total / (1 - size * sigma**2 / (4 * total))
    x = jax.device_put(np.sqrt(biased) * np.random.default_rng(0).normal(size=(COUNT, 1)).astype(np.float32))
    sampler = AnnealedLangevin(repeats=3, size=size)
    end = sample(
        jax.random.key(1), process, law.denoiser(process), sampler, np.asarray([sigma, 0.5]), x.shape, x_init=x
    ).x
    assert abs(standardised(np.asarray(end)[:, 0] ** 2, biased)) < 4
    assert abs(standardised(np.asarray(end)[:, 0] ** 2, total)) > 4


@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=repr)
def test_the_corrector_is_the_papers_with_norms_of_its_own(schedule, x64):
    """One Langevin step written out: ε = 2 α (r|n|/|g|)², x + ε g + √(2ε) n, α = 1 − β of the step (1 for EDM).

    For each sample by itself, and no longer than twice the step that noise alone would take.
    """
    process, snr, t, s = Process(schedule), 0.16, 0.42, 0.4
    law = GaussianLaw.isotropic(np.zeros(3), 0.5)
    denoise, x = law.denoiser(process), jax.device_put(np.linspace(-2, 2, 12).reshape(4, 3))
    grid = np.asarray([t, s])

    def run(corrections):
        sampler = PredictorCorrector(corrections=corrections, snr=snr)
        return sample(jax.random.key(0), process, denoise, sampler, grid, x.shape, x_init=x).x

    predicted = run(0)
    keys = keys_lib.fold(keys_lib.sample_keys(jax.random.key(0), jnp.arange(4)), 1)
    noise = np.asarray(keys_lib.normal(keys_lib.fold(keys_lib.fold(keys, 1_000_081), 0), (3,)))
    g = np.asarray(score(process, denoise)(predicted, jnp.asarray(s)))
    alpha, most = float(process.alpha(t) / process.alpha(s)) ** 2, 4 * (snr * float(process.sigma(s))) ** 2
    epsilon = 2 * alpha * (snr * np.linalg.norm(noise, axis=1) / np.linalg.norm(g, axis=1)) ** 2
    assert (epsilon > most).any(), "the bound is met"
    assert (epsilon < most).any(), "and not by all"
    epsilon = np.minimum(epsilon, most)[:, None]
    np.testing.assert_allclose(run(1), predicted + epsilon * g + np.sqrt(2 * epsilon) * noise, rtol=1e-11)


@pytest.mark.parametrize("predictor", ["ancestral", "reverse-diffusion"])
def test_in_the_plane_a_step_is_bounded(predictor):
    """Where the gradient vanishes the paper's step is infinite: 100 steps on VP ended three times too wide."""
    process = Process(VP())
    law = GaussianMixture.isotropic(np.asarray([[-1.0, 0.0], [1.0, 0.0]]), 0.3)
    grid = uniform_time(process, 100)
    x = sample(jax.random.key(0), process, law.denoiser(process), PredictorCorrector(predictor), grid, (2000, 2)).x
    np.testing.assert_allclose(np.std(x, axis=0), np.sqrt([1.09, 0.09]), atol=0.06)


@pytest.mark.parametrize(
    ("sampler", "steps"), [(PredictorCorrector(snr=0.1), 100), (AnnealedLangevin(repeats=25, size=0.1), 50)], ids=repr
)
def test_the_way_down_ends_near_the_law(sampler, steps):
    """In 64 dimensions, where norms hardly vary: mean and spread of a Gaussian law, to the bias of the step size."""
    process, law = Process(EDM()), GaussianLaw.isotropic(np.full(64, 0.3), 0.5)
    grid = np.append(np.geomspace(6.0, 0.02, steps), 0.0)
    x = marginal(law, jax.random.key(1), process, 200, grid[0])
    end = np.asarray(sample(jax.random.key(2), process, law.denoiser(process), sampler, grid, x.shape, x_init=x).x)
    assert abs(end.mean() - 0.3) < 0.02
    assert abs(end.std() - 0.5) < 0.03
