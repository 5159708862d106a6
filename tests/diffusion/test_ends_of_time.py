"""Where α = 0, σ = 0 or two laws nearly agree: limits that are finite must come out finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import (
    EDM,
    VE,
    VP,
    Betas,
    Cosine,
    Normal,
    Preconditioning,
    Process,
    RectifiedFlow,
    StudentT,
    convert,
    kl_divergence,
    prior_log_prob,
    prior_sample,
    reverse_sde,
    transfer,
    velocity,
)
from diffusion.prediction import network_input
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import ImportanceTime, UniformTime
from diffusion.score_matching.weightings import EDMWeighting, LikelihoodWeighting, SNRWeighting, signal_to_noise


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_noise_and_score_are_each_other_without_a_signal(schedule):
    process, y = Process(schedule), np.float32([[0.3], [-2.0]])
    pairs = ("eps", "score"), ("score", "eps")
    for found in jax.jit(lambda y: [convert(y, y, 1.0, process, *pair) for pair in pairs])(y):
        np.testing.assert_allclose(found, -y, rtol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_likelihood_weighting_ends_where_the_signal_does(schedule):
    process = Process(schedule)
    weight = jax.jit(lambda t: LikelihoodWeighting().weight(process, t))
    assert float(weight(1.0)) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(TypeError, match="Gaussian noise only"):
        LikelihoodWeighting().weight(Process(EDM(), StudentT(2.0)), 1.0)


def test_level_zero_of_the_reverse_family_is_the_velocity_everywhere():
    process = Process(RectifiedFlow())

    @jax.jit
    def measure(x):
        ode = reverse_sde(process, lambda y, t: 0.5 * y, 0.0)
        return ode.drift(x, 1.0), velocity(process, lambda y, t: 0.5 * y)(x, 1.0), ode.diffusion(1.0)

    drift, expected, diffusion = measure(np.float32([[0.3], [-2.0]]))
    np.testing.assert_allclose(drift, expected)
    assert float(diffusion) == 0.0


@pytest.mark.parametrize("level", [0.5, 1.5])
def test_the_diffusion_of_the_family_is_level_times_g(level, x64):
    sde = reverse_sde(Process(EDM()), lambda y, t: y, level)
    np.testing.assert_allclose(jax.jit(sde.diffusion)(3.0), level * np.sqrt(2 * 3.0), rtol=1e-12)


def test_transfer_goes_up_to_pure_noise():
    there, x = Process(RectifiedFlow()), np.ones((2, 3), np.float32)
    for source in (Process(VP()), Process(EDM())):
        moved = jax.jit(transfer(lambda y, t: jnp.tanh(y), source, there))
        assert np.isfinite(np.asarray(moved(x, 1.0))).all()
    with pytest.raises(TypeError, match="the noises differ"):
        transfer(lambda y, t: y, Process(EDM(), StudentT(3.0)), Process(VP(), StudentT(5.0)))


divergence = jax.jit(kl_divergence)


def test_divergence_of_nearly_equal_laws_keeps_its_digits():
    """δ² for standard deviations 1 + δ, in float32, where the closed form has none left."""
    for delta in (1e-4, 1e-3, 9e-3, 2e-2):
        p, q = (Normal(np.zeros((1, 1), np.float32), np.float32(std)) for std in (1 + delta, 1))
        exact = np.float64(np.float32(1 + delta)) - 1
        exact = 0.5 * exact * (2 + exact) - np.log1p(exact)
        np.testing.assert_allclose(divergence(p, q), [exact], rtol=2e-4)


def test_series_and_closed_form_of_the_divergence_meet(x64):
    for delta in (0.0099999, 0.0100001, -0.0099999, -0.0100001):
        p, q = (Normal(np.zeros((1, 1)), np.asarray(std)) for std in (1 + delta, 1.0))
        exact = 0.5 * delta * (2 + delta) - np.log1p(delta)
        np.testing.assert_allclose(divergence(p, q), [exact], rtol=1e-11)


def test_slopes_of_sigma_at_the_data():
    slopes = jax.jit(lambda t: [schedule.sigma_dot(t) for schedule in (VP(), VE(), EDM())])
    np.testing.assert_array_equal(slopes(0.0), [np.inf, np.inf, 1.0])
    assert np.isfinite(float(jax.jit(jax.grad(lambda b: VP(beta_max=b).sigma(0.0)))(20.0)))


def test_the_chain_holds_its_ends():
    chain = Betas.linear(10)
    assert float(chain.alpha(-1)) == 1.0
    assert float(chain.alpha(12)) == float(chain.alpha(10))


def test_prior_takes_a_time_for_each_sample(x64):
    process = Process(EDM())

    @jax.jit
    def measure(key, t):
        x = prior_sample(key, process, (2, 2), t)
        each = [prior_log_prob(process, x[i : i + 1], t[i])[0] for i in range(2)]
        return x, process.noise.sample(key, (2, 2)), prior_log_prob(process, x, t), each

    x, z, together, each = jax.device_get(measure(jax.random.key(0), np.asarray([1.0, 4.0])))
    np.testing.assert_allclose(x[1], 4 * z[1], rtol=1e-12)
    np.testing.assert_allclose(together, each, rtol=1e-12)


@pytest.mark.parametrize(
    ("process", "kind", "t"),
    [
        (Process(VP()), "edm", 0.4),
        (Process(Betas.linear(50)), "eps", 20.0),
        (Process(RectifiedFlow()), "velocity", 0.4),
    ],
    ids=["vp", "chain", "flow"],
)
def test_what_the_network_sees(process, kind, t, x64):
    """x/√(α²σ_d² + σ²), and ln(σ/α)/4 or the time on the scale 0..1000."""
    x = np.ones((2, 3))

    @jax.jit
    def measure(x, t):
        seen = network_input(Preconditioning(kind, 0.7), process, x, jnp.full(2, t))
        return seen, process.alpha(t), process.sigma(t)

    (scaled, c_noise), alpha, sigma = jax.device_get(measure(x, t))
    np.testing.assert_allclose(scaled, x / np.sqrt(0.49 * alpha**2 + sigma**2), rtol=1e-12)
    expected = np.log(sigma / alpha) / 4 if kind == "edm" else 1000 * t / process.t_max
    np.testing.assert_allclose(c_noise, expected, rtol=1e-12)


def test_edm_weighting_off_its_own_process(x64):
    process = Process(VP())
    measure = jax.jit(lambda t: (process.sigma(t) / process.alpha(t), EDMWeighting(0.4).weight(process, t)))
    ratio, weight = jax.device_get(measure(np.asarray([0.2, 0.7])))
    np.testing.assert_allclose(weight, (ratio**2 + 0.16) / (0.4 * ratio) ** 2, rtol=1e-12)


def test_times_and_noises_of_a_batch_are_independent():
    process, x_0 = Process(VP()), np.zeros((20_000, 1), np.float32)

    @jax.jit
    def draw(key, x_0):
        seen = []

        def denoise(x, t):
            seen.append(x[:, 0] / process.sigma(t))
            return x

        return denoising_terms(key, process, denoise, x_0, draw="independent").u, seen[0]

    u, z = jax.device_get(draw(jax.random.key(0), x_0))
    for values in (z, np.abs(z)):
        correlation = np.corrcoef(u, values)[0, 1]
        assert abs(correlation) < 4 / np.sqrt(20_000)


def test_the_loss_draws_the_processes_own_noise():
    """E z² = 5/3 under Student-t noise with 5 degrees of freedom: the loss of the denoiser x, for data at 0."""
    process, x_0 = Process(EDM(), StudentT(5.0)), np.zeros((40_000, 1), np.float32)
    terms = jax.jit(lambda key, x_0: denoising_terms(key, process, lambda x, t: x, x_0, weighting=SNRWeighting()))
    loss = np.asarray(terms(jax.random.key(0), x_0).loss)
    assert abs(loss.mean() - 5 / 3) < 4 * loss.std() / np.sqrt(len(loss))
    assert loss.mean() > 1.2  # a Gaussian would give 1


def test_importance_sampling_leaves_the_mean_loss(x64):
    process, x_0 = Process(RectifiedFlow()), np.zeros((20_000, 1))
    uneven = ImportanceTime(UniformTime(), np.asarray([9.0, 1.0, 4.0, 0.25]))

    @jax.jit
    def draw(times, key, x_0):
        terms = denoising_terms(key, process, lambda x, t: x, x_0, times=times, draw="independent")
        return terms, times.correction(terms.u), signal_to_noise(process, terms.t)

    def mean_and_error(times):
        terms, correction, weight = jax.device_get(draw(times, jax.random.key(0), x_0))
        np.testing.assert_allclose(terms.loss, correction * terms.uncorrected, rtol=1e-12)
        assert np.all(terms.uncorrected <= weight * terms.t**2 * 30)
        return terms.loss.mean(), terms.loss.std() / np.sqrt(len(terms.loss))

    (base, base_error), (other, error) = mean_and_error(UniformTime()), mean_and_error(uneven)
    assert abs(base - other) < 4 * np.hypot(base_error, error)
    np.testing.assert_allclose(jax.jit(ImportanceTime(UniformTime(), np.zeros(4)).probabilities)(), 0.25)


def test_places_need_the_size_of_the_batch():
    with pytest.raises(ValueError, match="ids and batch_size go together"):
        denoising_terms(jax.random.key(0), Process(VP()), lambda x, t: x, jnp.zeros((2, 1)), ids=jnp.arange(2))
