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


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_two_steps_have_the_law_of_one(schedule, x64):
    process, (s, u, t) = Process(schedule), three_times(schedule)
    first, first_variance = transition_coefficients(process, s, u)
    second, second_variance = transition_coefficients(process, u, t)
    whole, whole_variance = transition_coefficients(process, s, t)
    np.testing.assert_allclose(first * second, whole, rtol=1e-12)
    np.testing.assert_allclose(second**2 * first_variance + second_variance, whole_variance, rtol=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_a_step_from_the_data_is_the_marginal(schedule, x64):
    process, (_, _, t) = Process(schedule), three_times(schedule)
    scale, variance = transition_coefficients(process, 0.0, t)
    np.testing.assert_allclose([scale, variance], [process.alpha(t), process.sigma(t) ** 2], rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_posterior_is_the_ratio_of_densities(schedule, x64):
    """Bayes, row 4: ln p(x_s|x_t, x_0) = ln p(x_t|x_s) + ln p(x_s|x_0) − ln p(x_t|x_0)."""
    process, (s, _, t) = Process(schedule), three_times(schedule)
    x_0, x_s, x_t = jax.random.normal(jax.random.key(0), (3, 5, 4))
    marginal_s, marginal_t = transition(process, x_0, 0.0, s), transition(process, x_0, 0.0, t)
    bayes = transition(process, x_s, s, t).log_prob(x_t) + marginal_s.log_prob(x_s) - marginal_t.log_prob(x_t)
    np.testing.assert_allclose(posterior(process, x_t, x_0, s, t).log_prob(x_s), bayes, rtol=1e-10)


def test_posterior_is_ddpms(x64):
    """Ho et al. 2020, eq. 7, with their ᾱ = α² and β̃."""
    chain = Betas.linear(50)
    t = jnp.asarray(30)
    bar, bar_before, beta = chain.alpha(t) ** 2, chain.alpha(t - 1) ** 2, chain.beta(t)
    c_t, c_0, variance = posterior_coefficients(Process(chain), t - 1, t)
    np.testing.assert_allclose(c_0, jnp.sqrt(bar_before) * beta / (1 - bar), rtol=1e-10)
    np.testing.assert_allclose(c_t, jnp.sqrt(1 - beta) * (1 - bar_before) / (1 - bar), rtol=1e-10)
    np.testing.assert_allclose(variance, (1 - bar_before) / (1 - bar) * beta, rtol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_posterior_at_the_data_is_x0(schedule):
    process = Process(schedule)
    x_0, x_t = jax.random.normal(jax.random.key(0), (2, 3, 2))
    law = posterior(process, x_t, x_0, 0.0, schedule.t_max / 2)
    np.testing.assert_array_equal(law.mean, x_0)
    assert float(jnp.max(law.std)) == 0.0


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=name)
def test_posterior_from_pure_noise_forgets_it(schedule):
    x_0, x_t = jax.random.normal(jax.random.key(0), (2, 3, 2))
    process = Process(schedule)
    law = posterior(process, x_t, x_0, 0.4, 1.0)
    np.testing.assert_allclose(law.mean, process.alpha(0.4) * x_0, rtol=1e-6)
    np.testing.assert_allclose(law.std, process.sigma(0.4), rtol=1e-6)


def test_times_may_differ_within_a_batch(x64):
    process = Process(VP())
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 4, 2))
    t = jnp.asarray([0.1, 0.5, 0.9])
    each = jnp.stack([perturb(process, x[i : i + 1], z[i : i + 1], t[i])[0] for i in range(3)])
    np.testing.assert_allclose(perturb(process, x, z, t), each, rtol=1e-14)
    each = jnp.concatenate([transition(process, x[i : i + 1], 0.05, t[i]).log_prob(z[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(transition(process, x, jnp.full(3, 0.05), t).log_prob(z), each, rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("df", [None, 3.0])
def test_prior_density_and_samples_agree(schedule, df):
    """E[exp(ln p(x; reference) − ln p(x))] = 1 under the prior, for a reference of half the width."""
    process = Process(schedule) if df is None else Process(schedule, StudentT(df))
    x = prior_sample(jax.random.key(0), process, (20_000, 1))
    width = process.schedule.prior_std(process.t_max) / 2
    ratio = np.exp(process.noise.log_prob(x / width) - jnp.log(width) - prior_log_prob(process, x))
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error
    assert error < 0.02  # the power: a factor 1.1 in the width would be seen


def test_prior_follows_the_users_sigma_max():
    for schedule, std in ((EDM(sigma_max=10.0), 10.0), (VE(sigma_max=7.0), 7.0), (VP(), 1.0), (RectifiedFlow(), 1.0)):
        x = prior_sample(jax.random.key(0), Process(schedule), (4000, 4))
        assert abs(float(jnp.std(x)) / std - 1) < 4 / np.sqrt(2 * 16_000)


def test_steps_exist_for_gaussian_noise_only():
    x = jnp.zeros((1, 2))
    with pytest.raises(TypeError, match="Gaussian noise only, and the noise is StudentT"):
        transition(Process(VP(), StudentT(2.0)), x, 0.1, 0.2)


def test_kl_divergence_against_its_definition(x64):
    """KL = E_p[ln p − ln q] by Gauss-Hermite quadrature, exact for quadratics."""
    p, q = Normal(jnp.asarray([[0.3]]), jnp.asarray(0.5)), Normal(jnp.asarray([[-0.2]]), jnp.asarray(0.8))
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    x = p.mean + p.std * jnp.asarray(nodes)[:, None]
    gap = p.log_prob(jnp.asarray(x)) - Normal(jnp.broadcast_to(q.mean, x.shape), q.std).log_prob(jnp.asarray(x))
    np.testing.assert_allclose(kl_divergence(p, q)[0], (weights * gap).sum() / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(kl_divergence(p, p), 0.0, atol=1e-15)
    np.testing.assert_allclose(p.entropy()[0], -(weights * p.log_prob(x)).sum() / weights.sum(), rtol=1e-12)
