"""The schedule shifted for larger images (identity row 44)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, Shifted, SubVP, perturb
from samplers import Heun, sample, uniform_time

BASES = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()]


def name(schedule):
    return type(schedule).__name__


def interior(schedule):
    return jnp.linspace(0.02, 0.98, 9) * schedule.t_max


@pytest.mark.parametrize("base", BASES, ids=name)
def test_the_ratio_grows_and_the_total_stays(base, x64):
    shifted, t = Shifted(base, 4.0), interior(base)
    ratio = shifted.sigma(t) / shifted.alpha(t)
    np.testing.assert_allclose(ratio, 4 * base.sigma(t) / base.alpha(t), rtol=1e-12)
    total = shifted.alpha(t) ** 2 + shifted.sigma(t) ** 2
    np.testing.assert_allclose(total, base.alpha(t) ** 2 + base.sigma(t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(shifted.log_snr(t), -2 * jnp.log(ratio), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(jnp.exp(shifted.log_alpha(t)), shifted.alpha(t), rtol=1e-12)
    np.testing.assert_allclose(shifted.variance(t), shifted.sigma(t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(shifted.time_from_log_snr(shifted.log_snr(t)), t, rtol=1e-9)


def test_shifted_cosine_is_the_papers(x64):
    """Hoogeboom et al. 2023: α² = sigmoid(λ), σ² = sigmoid(−λ) with λ = −2 ln tan(πt/2) + 2 ln(64/d)."""
    t = jnp.linspace(0.05, 0.95, 7)
    log_snr = -2 * jnp.log(jnp.tan(jnp.pi * t / 2)) + 2 * jnp.log(64 / 256)
    shifted = Shifted(Cosine(), 256 / 64)
    np.testing.assert_allclose(shifted.alpha(t) ** 2, jax.nn.sigmoid(log_snr), rtol=1e-12)
    np.testing.assert_allclose(shifted.sigma(t) ** 2, jax.nn.sigmoid(-log_snr), rtol=1e-12)


@pytest.mark.parametrize("base", BASES, ids=name)
def test_slopes_are_those_of_differences(base, x64):
    shifted, t, h = Shifted(base, 0.5), interior(base), 1e-5 * base.t_max
    for function, slope in ((shifted.alpha, shifted.alpha_dot), (shifted.sigma, shifted.sigma_dot)):
        difference = (function(t + h) - function(t - h)) / (2 * h)
        np.testing.assert_allclose(slope(t), difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("base", BASES, ids=name)
def test_ends_of_time_stay_finite(base):
    shifted = Shifted(base, 3.0)
    assert (float(shifted.alpha(0.0)), float(shifted.sigma(0.0))) == (1.0, 0.0)
    assert float(shifted.time_from_log_snr(jnp.inf)) == 0.0
    np.testing.assert_allclose(shifted.sigma_dot(0.0), 3 * base.sigma_dot(0.0), rtol=1e-6)
    end = jnp.asarray(base.t_max, float)
    for value in (shifted.alpha_dot(end), shifted.sigma_dot(end), shifted.prior_std(end)):
        assert np.isfinite(value)
    if isinstance(base, (Cosine, RectifiedFlow)):  # pure noise stays so
        np.testing.assert_allclose([shifted.alpha(1.0), shifted.sigma(1.0)], [0.0, 1.0], atol=1e-7)


@pytest.mark.parametrize("base", BASES, ids=name)
def test_two_shifts_are_one_and_none_is_none(base, x64):
    t = interior(base)
    twice, once, none = Shifted(Shifted(base, 2.0), 1.5), Shifted(base, 3.0), Shifted(base, 1.0)
    for ask in ("alpha", "sigma", "log_snr", "prior_std", "drift", "diffusion_squared"):
        np.testing.assert_allclose(getattr(twice, ask)(t), getattr(once, ask)(t), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(getattr(none, ask)(t), getattr(base, ask)(t), rtol=1e-10, atol=1e-12)


def test_the_prior_is_the_schedules_kind_of_prior(x64):
    """1 where the schedule's is 1, whatever t; σ' where it is σ."""
    for base in (VP(), Cosine()):
        np.testing.assert_allclose(Shifted(base, 4.0).prior_std(interior(base)), 1.0, rtol=1e-12)
    for base in (VE(), EDM(), RectifiedFlow()):
        shifted = Shifted(base, 4.0)
        np.testing.assert_allclose(shifted.prior_std(interior(base)), shifted.sigma(interior(base)), rtol=1e-12)


def test_a_large_image_averaged_is_a_small_one(x64):
    """Blocks of 2 × 2 of a large image under the shifted schedule are c times the small image under the schedule."""
    small, large, t = Process(Cosine()), Process(Shifted(Cosine(), 2.0)), 0.4
    x_0, z = jax.random.normal(jax.random.key(0), (2, 1, 8, 8, 3))

    def averaged(x):
        return x.reshape(1, 4, 2, 4, 2, 3).mean(axis=(2, 4))

    scale = large.alpha(t) / small.alpha(t)
    expected = scale * perturb(small, averaged(x_0), 2 * averaged(z), t)  # 2 · averaged(z) is standard normal
    np.testing.assert_allclose(averaged(perturb(large, x_0, z, t)), expected, rtol=1e-12)


def test_it_samples_and_its_factor_does_not_recompile(x64):
    """N(0, 0.25) by Heun's method, from pure noise, for two factors."""
    traces = []

    def draw(process):
        traces.append(1)

        def denoise(x, t):
            alpha, variance = process.alpha(t), process.schedule.variance(t)
            return 0.25 * alpha / (0.25 * alpha**2 + variance) * x

        grid = uniform_time(Process(Cosine()), 200)
        return sample(jax.random.key(0), process, denoise, Heun(), grid, (2, 1), x_init=jnp.ones((2, 1))).x

    run = jax.jit(draw)
    for factor in (0.5, 3.0):
        np.testing.assert_allclose(run(Process(Shifted(Cosine(), factor))), 0.5, rtol=1e-2)
    assert len(traces) == 1


def test_what_cannot_be_shifted_is_refused():
    with pytest.raises(ValueError, match="factor = 0"):
        Shifted(Cosine(), 0.0)
    with pytest.raises(ValueError, match="discrete chain"):
        Shifted(Betas.linear(10), 2.0)
