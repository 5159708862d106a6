"""Steps of a Gaussian process, forward and backward (identity rows 1 and 4), and the prior."""

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
    Process,
    RectifiedFlow,
    StudentT,
    SubVP,
    kl_divergence,
    perturb,
    posterior,
    prior_log_prob,
    prior_sample,
    transition,
)
from diffusion.process import posterior_coefficients, transition_coefficients

SCHEDULES = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow(), Betas.linear(100)]


def name(schedule):
    return type(schedule).__name__


def three_times(schedule):
    return tuple(round(u * schedule.t_max, 3) for u in (0.2, 0.5, 0.9))


@jax.jit
def _measure(process, s, u, t, x_0, x_s, x_t):
    pairs = {"first": (s, u), "second": (u, t), "whole": (s, t), "from the data": (0.0, t)}
    coefficients = {name: transition_coefficients(process, *pair) for name, pair in pairs.items()}
    marginal_s, marginal_t = transition(process, x_0, 0.0, s), transition(process, x_0, 0.0, t)
    bayes = transition(process, x_s, s, t).log_prob(x_t) + marginal_s.log_prob(x_s) - marginal_t.log_prob(x_t)
    backward = posterior(process, x_t, x_0, s, t).log_prob(x_s)
    return coefficients | {"marginal": (process.alpha(t), process.sigma(t)), "posterior": (backward, bayes)}


@pytest.fixture(scope="module", params=SCHEDULES, ids=name)
def measured(request):
    """The coefficients of steps between three times of a schedule, its marginal at the last, and Bayes' rule."""
    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    with jax.enable_x64(True):
        return jax.device_get(_measure(Process(request.param), *three_times(request.param), *x))


def test_two_steps_have_the_law_of_one(measured):
    (first, first_variance), (second, second_variance) = measured["first"], measured["second"]
    whole, whole_variance = measured["whole"]
    np.testing.assert_allclose(first * second, whole, rtol=1e-12)
    np.testing.assert_allclose(second**2 * first_variance + second_variance, whole_variance, rtol=1e-11)


def test_a_step_from_the_data_is_the_marginal(measured):
    alpha, sigma = measured["marginal"]
    np.testing.assert_allclose(measured["from the data"], [alpha, sigma**2], rtol=1e-12)


def test_posterior_is_the_ratio_of_densities(measured):
    """Bayes, row 4: ln p(x_s|x_t, x_0) = ln p(x_t|x_s) + ln p(x_s|x_0) − ln p(x_t|x_0)."""
    np.testing.assert_allclose(*measured["posterior"], rtol=1e-10)


def test_posterior_is_ddpms(x64):
    """Ho et al. 2020, eq. 7, with their ᾱ = α² and β̃."""

    @jax.jit
    def measure(chain, t):
        return (chain.alpha(t), chain.alpha(t - 1), chain.beta(t)), posterior_coefficients(Process(chain), t - 1, t)

    (now, before, beta), (c_t, c_0, variance) = jax.device_get(measure(Betas.linear(50), 30))
    bar, bar_before = now**2, before**2
    np.testing.assert_allclose(c_0, np.sqrt(bar_before) * beta / (1 - bar), rtol=1e-10)
    np.testing.assert_allclose(c_t, np.sqrt(1 - beta) * (1 - bar_before) / (1 - bar), rtol=1e-10)
    np.testing.assert_allclose(variance, (1 - bar_before) / (1 - bar) * beta, rtol=1e-10)


posterior_in_one = jax.jit(posterior)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_posterior_at_the_data_is_x0(schedule):
    x_0, x_t = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    law = jax.device_get(posterior_in_one(Process(schedule), x_t, x_0, 0.0, schedule.t_max / 2))
    np.testing.assert_array_equal(law.mean, x_0)
    assert np.max(law.std) == 0.0


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=name)
def test_posterior_from_pure_noise_forgets_it(schedule):
    x_0, x_t = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    process = Process(schedule)
    law = posterior_in_one(process, x_t, x_0, 0.4, 1.0)
    np.testing.assert_allclose(law.mean, np.asarray(process.alpha(0.4)) * x_0, rtol=1e-6)
    np.testing.assert_allclose(law.std, process.sigma(0.4), rtol=1e-6)


def test_times_may_differ_within_a_batch(x64):
    process = Process(VP())
    x, z = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    s, t = np.full(3, 0.05), np.asarray([0.1, 0.5, 0.9])

    @jax.jit
    def measure(x, z, s, t):
        return perturb(process, x, z, t), transition(process, x, s, t).log_prob(z)

    together, each = measure(x, z, s, t), [measure(x[i : i + 1], z[i : i + 1], s[i], t[i]) for i in range(3)]
    for whole, parts, rtol in zip(together, zip(*each, strict=True), (1e-14, 1e-12), strict=True):
        np.testing.assert_allclose(whole, np.concatenate(parts), rtol=rtol)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("df", [None, 3.0])
def test_prior_density_and_samples_agree(schedule, df):
    """E[exp(ln p(x; reference) − ln p(x))] = 1 under the prior, for a reference of half the width."""
    process = Process(schedule) if df is None else Process(schedule, StudentT(df))
    x = prior_sample(jax.random.key(0), process, (20_000, 1))
    width = process.schedule.prior_std(process.t_max) / 2
    gaps = [np.asarray(value) for value in (process.noise.log_prob(x / width), prior_log_prob(process, x))]
    ratio = np.exp(gaps[0] - np.log(width) - gaps[1])
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error
    assert error < 0.02  # the power: a factor 1.1 in the width would be seen


def test_prior_follows_the_users_sigma_max():
    for schedule, std in ((EDM(sigma_max=10.0), 10.0), (VE(sigma_max=7.0), 7.0), (VP(), 1.0), (RectifiedFlow(), 1.0)):
        x = prior_sample(jax.random.key(0), Process(schedule), (4000, 4))
        assert abs(np.std(np.asarray(x)) / std - 1) < 4 / np.sqrt(2 * 16_000)


def test_steps_exist_for_gaussian_noise_only():
    x = jnp.zeros((1, 2))
    with pytest.raises(TypeError, match="Gaussian noise only, and the noise is StudentT"):
        transition(Process(VP(), StudentT(2.0)), x, 0.1, 0.2)


def test_kl_divergence_against_its_definition(x64):
    """KL = E_p[ln p − ln q] by Gauss-Hermite quadrature, exact for quadratics."""
    p, q = Normal(np.asarray([[0.3]]), np.asarray(0.5)), Normal(np.asarray([[-0.2]]), np.asarray(0.8))
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)

    @jax.jit
    def measure(p, q, x):
        logs = p.log_prob(x), Normal(jnp.broadcast_to(q.mean, x.shape), q.std).log_prob(x)
        return logs, kl_divergence(p, q)[0], kl_divergence(p, p), p.entropy()[0]

    (ours, theirs), found, none, entropy = jax.device_get(measure(p, q, 0.3 + 0.5 * nodes[:, None]))
    np.testing.assert_allclose(found, (weights * (ours - theirs)).sum() / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(none, 0.0, atol=1e-15)
    np.testing.assert_allclose(entropy, -(weights * ours).sum() / weights.sum(), rtol=1e-12)
