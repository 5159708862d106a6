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
    process, y = Process(schedule), jnp.asarray([[0.3], [-2.0]])
    np.testing.assert_allclose(convert(y, y, 1.0, process, "eps", "score"), -y, rtol=1e-6)
    np.testing.assert_allclose(convert(y, y, 1.0, process, "score", "eps"), -y, rtol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_likelihood_weighting_ends_where_the_signal_does(schedule):
    process = Process(schedule)
    assert float(LikelihoodWeighting().weight(process, 1.0)) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(TypeError, match="Gaussian noise only"):
        LikelihoodWeighting().weight(Process(EDM(), StudentT(2.0)), 1.0)


def test_level_zero_of_the_reverse_family_is_the_velocity_everywhere():
    process, x = Process(RectifiedFlow()), jnp.asarray([[0.3], [-2.0]])
    ode = reverse_sde(process, lambda y, t: 0.5 * y, 0.0)
    np.testing.assert_allclose(ode.drift(x, 1.0), velocity(process, lambda y, t: 0.5 * y)(x, 1.0))
    assert float(ode.diffusion(1.0)) == 0.0


@pytest.mark.parametrize("level", [0.5, 1.5])
def test_the_diffusion_of_the_family_is_level_times_g(level, x64):
    sde = reverse_sde(Process(EDM()), lambda y, t: y, level)
    np.testing.assert_allclose(sde.diffusion(3.0), level * np.sqrt(2 * 3.0), rtol=1e-12)


def test_transfer_goes_up_to_pure_noise():
    there, x = Process(RectifiedFlow()), jnp.ones((2, 3))
    for source in (Process(VP()), Process(EDM())):
        assert np.isfinite(transfer(lambda y, t: jnp.tanh(y), source, there)(x, 1.0)).all()
    with pytest.raises(TypeError, match="the noises differ"):
        transfer(lambda y, t: y, Process(EDM(), StudentT(3.0)), Process(VP(), StudentT(5.0)))


def test_divergence_of_nearly_equal_laws_keeps_its_digits():
    """δ² for standard deviations 1 + δ, in float32, where the closed form has none left."""
    for delta in (1e-4, 1e-3, 9e-3, 2e-2):
        p, q = Normal(jnp.zeros((1, 1)), jnp.float32(1 + delta)), Normal(jnp.zeros((1, 1)), jnp.float32(1))
        exact = np.float64(np.float32(1 + delta)) - 1
        exact = 0.5 * exact * (2 + exact) - np.log1p(exact)
        np.testing.assert_allclose(kl_divergence(p, q)[0], exact, rtol=2e-4)


def test_series_and_closed_form_of_the_divergence_meet(x64):
    for delta in (0.0099999, 0.0100001, -0.0099999, -0.0100001):
        p, q = Normal(jnp.zeros((1, 1)), jnp.asarray(1 + delta)), Normal(jnp.zeros((1, 1)), jnp.asarray(1.0))
        exact = 0.5 * delta * (2 + delta) - np.log1p(delta)
        np.testing.assert_allclose(kl_divergence(p, q)[0], exact, rtol=1e-11)


def test_slopes_of_sigma_at_the_data():
    assert np.isinf(VP().sigma_dot(0.0))
    assert np.isinf(VE().sigma_dot(0.0))
    assert float(EDM().sigma_dot(0.0)) == 1.0
    assert np.isfinite(jax.grad(lambda b: VP(beta_max=b).sigma(0.0))(20.0))


def test_the_chain_holds_its_ends():
    chain = Betas.linear(10)
    assert float(chain.alpha(-1)) == 1.0
    assert float(chain.alpha(12)) == float(chain.alpha(10))


def test_prior_takes_a_time_for_each_sample(x64):
    process, t = Process(EDM()), jnp.asarray([1.0, 4.0])
    x = prior_sample(jax.random.key(0), process, (2, 2), t)
    np.testing.assert_allclose(x[1], 4 * process.noise.sample(jax.random.key(0), (2, 2))[1], rtol=1e-12)
    each = [prior_log_prob(process, x[i : i + 1], t[i])[0] for i in range(2)]
    np.testing.assert_allclose(prior_log_prob(process, x, t), each, rtol=1e-12)


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
    pre, x, times = Preconditioning(kind, 0.7), jnp.ones((2, 3)), jnp.full(2, t)
    scaled, c_noise = network_input(pre, process, x, times)
    alpha, sigma = process.alpha(t), process.sigma(t)
    np.testing.assert_allclose(scaled, x / jnp.sqrt(0.49 * alpha**2 + sigma**2), rtol=1e-12)
    expected = jnp.log(sigma / alpha) / 4 if kind == "edm" else 1000 * t / process.t_max
    np.testing.assert_allclose(c_noise, expected, rtol=1e-12)


def test_edm_weighting_off_its_own_process(x64):
    process, t = Process(VP()), jnp.asarray([0.2, 0.7])
    ratio = process.sigma(t) / process.alpha(t)
    np.testing.assert_allclose(EDMWeighting(0.4).weight(process, t), (ratio**2 + 0.16) / (0.4 * ratio) ** 2, rtol=1e-12)


def test_times_and_noises_of_a_batch_are_independent():
    process, x_0 = Process(VP()), jnp.zeros((20_000, 1))
    seen = {}

    def denoise(x, t):
        seen["z"] = x[:, 0] / process.sigma(t)
        return x

    terms = denoising_terms(jax.random.key(0), process, denoise, x_0, draw="independent")
    for function in (lambda z: z, jnp.abs):
        correlation = np.corrcoef(terms.u, function(seen["z"]))[0, 1]
        assert abs(correlation) < 4 / np.sqrt(20_000)


def test_the_loss_draws_the_processes_own_noise():
    """E z² = 5/3 under Student-t noise with 5 degrees of freedom: the loss of the denoiser x, for data at 0."""
    process, x_0 = Process(EDM(), StudentT(5.0)), jnp.zeros((40_000, 1))
    loss = np.asarray(denoising_terms(jax.random.key(0), process, lambda x, t: x, x_0, weighting=SNRWeighting()).loss)
    assert abs(loss.mean() - 5 / 3) < 4 * loss.std() / np.sqrt(len(loss))
    assert loss.mean() > 1.2  # a Gaussian would give 1


def test_importance_sampling_leaves_the_mean_loss(x64):
    process, x_0 = Process(RectifiedFlow()), jnp.zeros((20_000, 1))
    uneven = ImportanceTime(UniformTime(), jnp.asarray([9.0, 1.0, 4.0, 0.25]))

    def mean_and_error(times):
        terms = denoising_terms(jax.random.key(0), process, lambda x, t: x, x_0, times=times, draw="independent")
        np.testing.assert_allclose(terms.loss, times.correction(terms.u) * terms.uncorrected, rtol=1e-12)
        weight = signal_to_noise(process, terms.t)
        assert np.all(np.asarray(terms.uncorrected) <= np.asarray(weight * terms.t**2) * 30)
        loss = np.asarray(terms.loss)
        return loss.mean(), loss.std() / np.sqrt(len(loss))

    (base, base_error), (other, error) = mean_and_error(UniformTime()), mean_and_error(uneven)
    assert abs(base - other) < 4 * np.hypot(base_error, error)
    np.testing.assert_allclose(ImportanceTime(UniformTime(), jnp.zeros(4)).probabilities(), 0.25)


def test_places_need_the_size_of_the_batch():
    with pytest.raises(ValueError, match="ids and batch_size go together"):
        denoising_terms(jax.random.key(0), Process(VP()), lambda x, t: x, jnp.zeros((2, 1)), ids=jnp.arange(2))
