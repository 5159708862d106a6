"""Langevin dynamics: its bias as it is derived, none for MALA, and a step size that is each sample's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Process, RectifiedFlow
from diffusion import keys as keys_lib
from diffusion.oracles import GaussianLaw
from diffusion.pytree import as_partial
from samplers import AnnealedLangevin, PredictorCorrector, karras, langevin_step, mala_step, sample, uniform_time
from tests.samplers.programs import coefficients, marginal

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
def test_a_step_of_the_predictor_and_one_of_the_corrector_written_out(schedule, x64):
    """(2 − α_{t|s}) x + σ_{t|s}² g + σ_{t|s} n, then x + ½η g + √η n with η = 4 (snr σ_s)², on one draw each."""
    process, snr, t, s = Process(schedule), 0.16, 0.42, 0.4
    law = GaussianLaw.isotropic(np.zeros(3), 0.5)
    denoise, x = law.denoiser(process), np.linspace(-2, 2, 12).reshape(4, 3)
    (a_t, s_t), (a_s, s_s) = ([float(v) for v in coefficients(process, jnp.asarray(u))] for u in (t, s))

    def run(corrections):
        sampler = PredictorCorrector(corrections=corrections, snr=snr)
        start = jax.device_put(x)
        return sample(jax.random.key(0), process, denoise, sampler, np.asarray([t, s]), x.shape, x_init=start).x

    keys = keys_lib.fold(keys_lib.sample_keys(jax.random.key(0), jnp.arange(4)), 1)
    first = np.asarray(keys_lib.normal(keys, (3,)))
    second = np.asarray(keys_lib.normal(keys_lib.fold(keys_lib.fold(keys, 1_000_081), 0), (3,)))
    kept, spread = a_t / a_s, s_t**2 - (a_t / a_s * s_s) ** 2
    predicted = (2 - kept) * x - spread * x / (0.25 * a_t**2 + s_t**2) + np.sqrt(spread) * first
    np.testing.assert_allclose(run(0), predicted, rtol=1e-10)
    eta = 4 * (snr * s_s) ** 2
    corrected = predicted - 0.5 * eta * predicted / (0.25 * a_s**2 + s_s**2) + np.sqrt(eta) * second
    np.testing.assert_allclose(run(1), corrected, rtol=1e-10)


@pytest.mark.parametrize("snr", [0.3, 0.6])
def test_corrections_leave_a_line_and_a_plane_with_the_variance_that_is_derived(snr):
    """V/(1 − (snr σ)²/V), in every dimension: what starts in that law is in it after three corrections."""
    sampler, variance = PredictorCorrector("ancestral", corrections=3, snr=snr), 1 + 0.3**2
    biased = variance / (1 - snr**2 / variance)
    for size in (1, 2):
        law = GaussianLaw.isotropic(np.zeros(size), 0.3)
        process, step = Process(EDM()), jax.jit(sampler._correct)
        start = jnp.sqrt(biased) * keys_lib.normal(draws(size), (size,))
        end = step(draws(size + 7), start, jnp.float32(1.0), process, as_partial(law.denoiser(process)))
        squares = np.asarray(end).ravel() ** 2
        assert abs(standardised(squares, biased)) < 4
        assert abs(standardised(squares, variance)) > 4


@pytest.mark.parametrize("predictor", ["ancestral", "reverse-diffusion"])
def test_corrections_keep_a_narrow_law_on_the_line(predictor):
    """N(0, 0.3²) of one number, in the relative variance: by steps of norms of its own it ended 1.4 times as wide."""
    process, law = Process(EDM()), GaussianLaw.isotropic(np.zeros(1), 0.3)
    sampler, grid = PredictorCorrector(predictor, corrections=3), karras(process, 150)
    end = sample(jax.random.key(0), process, law.denoiser(process), sampler, grid, (8000, 1)).x
    error = np.sqrt(2 / 8000)
    assert abs(np.var(end) / 0.09 - 1) < 4 * error + 0.03


@pytest.mark.parametrize("predictor", ["ancestral", "reverse-diffusion"])
def test_a_gradient_from_no_signal_is_that_of_differences(predictor, x64):
    """From α = 0, where α_{t|s} = 0 and no square root may meet its infinite slope."""
    process = Process(RectifiedFlow())

    @jax.jit
    def value(w):
        grid, start = uniform_time(process, 4), np.ones((2, 1))
        denoise = Partial(lambda w, x, t: w * jnp.tanh(x), w)
        return sample(
            jax.random.key(0), process, denoise, PredictorCorrector(predictor), grid, (2, 1), x_init=start
        ).x.sum()

    slope = (value(0.7 + 1e-5) - value(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.7), slope, rtol=1e-7)


def test_a_step_of_no_size_has_a_gradient():
    size = jax.grad(lambda eta: langevin_step(draws(0)[:2], jnp.ones((2, 1)), jnp.ones((2, 1)), eta).sum())(0.0)
    assert size == 1.0


def test_annealed_langevin_carries_x_down_by_the_ratio_of_alphas(x64):
    """(α_s/α_t) times what the steps at t leave; at α = 0 there is nothing to scale."""
    sampler, x = AnnealedLangevin(repeats=2, size=0.3), np.linspace(-1, 2, 6).reshape(3, 2)
    for schedule, t, s in ((VP(), 0.5, 0.3), (RectifiedFlow(), 1.0, 0.6)):
        process = Process(schedule)
        (a_t, s_t), (a_s, _) = ([float(v) for v in coefficients(process, jnp.asarray(u))] for u in (t, s))
        keys = keys_lib.fold(keys_lib.sample_keys(jax.random.key(0), jnp.arange(3)), 1)
        expected = x
        for i in range(2):
            noise = np.asarray(keys_lib.normal(keys_lib.fold(keys, i), (2,)))
            slope = (a_t * 0.5 - expected) / s_t**2
            expected = expected + 0.15 * s_t**2 * slope + np.sqrt(0.3) * s_t * noise
        expected = expected * (a_s / a_t if a_t > 0 else 1.0)
        found = sample(jax.random.key(0), process, _half, sampler, np.asarray([t, s]), x.shape, x_init=jnp.asarray(x)).x
        np.testing.assert_allclose(found, expected, rtol=1e-11)


def _half(x, t):
    """A denoiser that says ½, whatever it sees."""
    return 0 * x + 0.5


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
