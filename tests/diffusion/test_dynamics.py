"""SDEs and the ODE share their marginals: checked on Gaussian data, where every drift is linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Cosine, Process, RectifiedFlow, StudentT, SubVP, forward_sde, reverse_sde, velocity
from diffusion import score as score_of

MEAN, VARIANCE = 0.3, 0.6


def name(schedule):
    return type(schedule).__name__


def denoiser(process):
    def denoise(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)

    return denoise


def moments(process, t):
    return process.alpha(t) * MEAN, process.alpha(t) ** 2 * VARIANCE + process.sigma(t) ** 2


def linear(drift, t):
    """(offset, slope) of a drift that is linear in one-dimensional x."""
    values = drift(jnp.asarray([[0.0], [1.0]]), t)[:, 0]
    return values[0], values[1] - values[0]


SCHEDULES = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("level", [0.0, 1.0, 2.5])
def test_every_member_of_the_reverse_family_has_the_same_moments(schedule, level, x64):
    """Row 19 for Gaussians: m' = a + b m and, running backwards, V' = 2 b V − σ̃²."""
    process = Process(schedule)
    t = jnp.asarray(0.37 * schedule.t_max)
    sde = reverse_sde(process, denoiser(process), level)
    offset, slope = linear(sde.drift, t)
    (mean, variance), (mean_dot, variance_dot) = jax.jvp(lambda u: moments(process, u), (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(offset + slope * mean, mean_dot, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(2 * slope * variance - sde.diffusion(t) ** 2, variance_dot, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_forward_sde_has_the_marginal_moments(schedule, x64):
    process = Process(schedule)
    t = jnp.asarray(0.37 * schedule.t_max)
    sde = forward_sde(process)
    offset, slope = linear(sde.drift, t)
    (mean, variance), (mean_dot, variance_dot) = jax.jvp(lambda u: moments(process, u), (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(offset + slope * mean, mean_dot, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(2 * slope * variance + sde.diffusion(t) ** 2, variance_dot, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_velocity_is_half_way_between_forward_and_reverse(schedule, x64):
    """u = f x − ½ g² ∇ln p, with ∇ln p written down for the Gaussian."""
    process = Process(schedule)
    t = jnp.asarray(0.37 * schedule.t_max)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    mean, variance = moments(process, t)
    exact_score = (mean - x) / variance
    np.testing.assert_allclose(score_of(process, denoiser(process))(x, t), exact_score, rtol=1e-9)
    expected = schedule.drift(t) * x - 0.5 * schedule.diffusion_squared(t) * exact_score
    np.testing.assert_allclose(velocity(process, denoiser(process))(x, t), expected, rtol=1e-9)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine()], ids=name)
def test_velocity_is_finite_where_alpha_is_zero(schedule):
    process = Process(schedule)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    got = velocity(process, denoiser(process))(x, 1.0)
    expected = schedule.alpha_dot(1.0) * MEAN + schedule.sigma_dot(1.0) * x
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_sdes_exist_for_gaussian_noise_only():
    process = Process(EDM(), StudentT(3.0))
    for make in (forward_sde, lambda p: reverse_sde(p, lambda x, t: x)):
        with pytest.raises(TypeError, match="SDE exists for Gaussian noise only"):
            make(process)
    assert velocity(process, lambda x, t: 0 * x)(jnp.ones((1, 2)), 2.0).shape == (1, 2)
