"""Single steps against the algorithms as they are printed: what marginals and orders alone cannot tell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process, RectifiedFlow, StudentT
from diffusion import keys as keys_lib
from diffusion.process import posterior_coefficients
from samplers import DDIM, Ancestral, EulerMaruyama, Heun, classifier_free_guidance, karras, sample, uniform_time
from tests.samplers.programs import bent, coefficients

KEY = jax.random.key(0)


def plainly_bent(x, t):
    """`bent` in NumPy."""
    return np.tanh(np.asarray(x)) + 0.1 * np.cos(t)


def noise_of_first_step(shape):
    """The standard normal draws that `sample` gives to its first step."""
    return np.asarray(draws(shape))


@functools.partial(jax.jit, static_argnums=0)
def draws(shape):
    keys = keys_lib.fold(keys_lib.sample_keys(KEY, jnp.arange(shape[0])), 1)
    return keys_lib.normal(keys, shape[1:])


def one_step(process, sampler, t, s, x):
    return sample(KEY, process, bent, sampler, np.asarray([t, s]), x.shape, x_init=x).x


@pytest.fixture
def x(x64):
    return jax.device_put(np.linspace(-2, 2, 5)[:, None])


def test_ddim_noise_is_eta_times_the_posteriors(x):
    """Song et al. 2021, eq. 16, at an η that is not its own square."""
    process, eta, t, s = Process(VP()), 0.5, 0.6, 0.3
    times = np.asarray([t, s])
    alpha, sigma = map(np.asarray, coefficients(process, times))
    x_0, noise = plainly_bent(x, t), noise_of_first_step(x.shape)
    eps = (np.asarray(x) - alpha[0] * x_0) / sigma[0]
    std = eta * np.sqrt(float(jax.jit(posterior_coefficients)(process, s, t)[2]))
    expected = alpha[1] * x_0 + np.sqrt(sigma[1] ** 2 - std**2) * eps + std * noise
    np.testing.assert_allclose(one_step(process, DDIM(eta=eta), t, s, x), expected, rtol=1e-11)


def test_ddim_reads_noise_off_the_answer_before_it_clips_it(x):
    """x_s = α_s clip(x̂_0) + σ_s (x − α_t x̂_0)/σ_t."""
    process, t, s = Process(VP()), 0.7, 0.4
    x_0 = plainly_bent(x, t)
    alpha_t, sigma_t, alpha_s, sigma_s = (float(f(u)) for u in (t, s) for f in (process.alpha, process.sigma))
    expected = alpha_s * np.clip(x_0, -0.3, 0.3) + sigma_s * (np.asarray(x) - alpha_t * x_0) / sigma_t
    assert np.abs(x_0).max() > 0.3
    np.testing.assert_allclose(one_step(process, DDIM(clip=0.3), t, s, x), expected, rtol=1e-11)
    with pytest.raises(ValueError, match=r"clip = 0.0; give a positive number, such as 1 for images, or None."):
        DDIM(clip=0.0)


@pytest.mark.parametrize("churn", [0.3, 3.0])
def test_heun_with_churn_is_algorithm_2(x, churn):
    """Karras et al. 2022, algorithm 2, written out for σ = t; the larger γ is capped."""
    t, s, s_noise = 2.0, 1.2, 1.1
    gamma = min(churn / 1, np.sqrt(2) - 1)  # N = 1
    t_hat = t * (1 + gamma)
    x_hat = np.asarray(x) + np.sqrt(t_hat**2 - t**2) * s_noise * noise_of_first_step(x.shape)
    slope = (x_hat - plainly_bent(x_hat, t_hat)) / t_hat
    euler = x_hat + (s - t_hat) * slope
    expected = x_hat + (s - t_hat) * 0.5 * (slope + (euler - plainly_bent(euler, s)) / s)
    got = one_step(Process(EDM()), Heun(S_churn=churn, S_noise=s_noise), t, s, x)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize(("s_min", "s_max"), [(2.5, 3.0), (0.5, 1.5)])
def test_churn_is_confined_to_its_range(x, s_min, s_max):
    process = Process(EDM())
    outside = one_step(process, Heun(S_churn=1.0, S_min=s_min, S_max=s_max), 2.0, 1.0, x)
    np.testing.assert_array_equal(outside, one_step(process, Heun(), 2.0, 1.0, x))


def test_churn_is_shared_out_over_the_steps(x):
    """γ = S_churn/N: half as much in each of two steps."""
    process, churn = Process(EDM()), 0.2
    two = sample(
        KEY, process, bent, Heun(S_churn=churn), np.asarray([2.0, 1.2, 0.5]), x.shape, x_init=x, keep_every=1
    ).trajectory
    np.testing.assert_allclose(np.asarray(two)[1], one_step(process, Heun(S_churn=churn / 2), 2.0, 1.2, x), rtol=1e-11)


@pytest.mark.parametrize("level", [0.5, 2.0])
def test_euler_maruyama_is_its_formula(x, level):
    """σ̃ = level · g, with g² = 2t and the score −E[z|x]/σ on EDM."""
    t, s = 2.0, 1.5
    given = np.asarray(x)
    g_squared, eps = 2 * t, (given - plainly_bent(given, t)) / t
    drift = -0.5 * (g_squared + level**2 * g_squared) * (-eps / t)
    expected = given + (s - t) * drift + level * np.sqrt(g_squared * (t - s)) * noise_of_first_step(x.shape)
    np.testing.assert_allclose(one_step(Process(EDM()), EulerMaruyama(level), t, s, x), expected, rtol=1e-11)


def test_the_ode_of_the_family_may_start_where_g_is_infinite(mixture):
    process = Process(RectifiedFlow())
    result = sample(KEY, process, mixture.denoiser(process), EulerMaruyama(0.0), uniform_time(process, 4), (3, 1)).x
    assert np.isfinite(result).all()


@pytest.mark.parametrize("sampler", [DDIM(eta=1.0), EulerMaruyama()], ids=repr)
def test_sampling_may_stand_inside_a_jitted_function(sampler):
    """Of those whose `check` computes with the process and the grid."""
    process = Process(VP())
    grid = karras(process, 3)

    def draw(key):
        return sample(key, process, bent, sampler, grid, (2, 1)).x

    np.testing.assert_allclose(jax.jit(draw)(KEY), draw(KEY), rtol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda: jnp.asarray(karras(process, 3)))(), np.float32(grid))


def test_a_wrong_noise_is_refused_under_a_trace_too():
    process = Process(EDM(), StudentT(3.0))
    for sampler in (DDIM(eta=1.0), Heun(S_churn=1.0), Ancestral(), EulerMaruyama()):
        with pytest.raises(TypeError, match="Gaussian noise only"):
            jax.jit(lambda g, sampler=sampler: sample(KEY, process, bent, sampler, g, (2, 1)).x)(karras(process, 3))


def test_too_much_traced_noise_is_not_another_law():
    process, grid = Process(VP()), uniform_time(Process(VP()), 3)
    draw = jax.jit(lambda eta: sample(KEY, process, bent, DDIM(eta=eta), grid, (2, 1)).x)
    assert np.isfinite(draw(1.0)).all()
    assert np.isnan(draw(5.0)).all()


def test_gradients_in_the_hyper_parameters_are_right(x64):
    """Through the last step, where √0 stands: η of DDIM, β_max of VP, S_noise of Heun."""

    def total(eta, beta_max, s_noise):
        process = Process(VP(beta_max=beta_max))
        grid = np.asarray([0.9, 0.5, 0.1, 0.0])
        a = sample(KEY, process, bent, DDIM(eta=eta), grid, (2, 1)).x
        b = sample(KEY, process, bent, Heun(S_churn=0.5, S_noise=s_noise), grid, (2, 1)).x
        return jnp.sum(a**2 + b**2)

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    point, h = (0.5, 15.0, 1.1), 1e-5
    for i, gradient in enumerate(both(*point)[1]):
        up, down = (both(*(v + sign * h * (i == j) for j, v in enumerate(point)))[0] for sign in (1, -1))
        np.testing.assert_allclose(gradient, (float(up) - float(down)) / (2 * h), rtol=1e-6)


def test_a_denoiser_may_answer_in_bfloat16():
    process = Process(EDM())
    for sampler in (DDIM(), Heun()):
        result = sample(KEY, process, lambda x, t: bent(x, t).astype(jnp.bfloat16), sampler, karras(process, 3), (2, 1))
        assert result.x.dtype == jnp.float32
    start = jnp.ones((2, 1), jnp.bfloat16)
    assert sample(KEY, process, bent, DDIM(), karras(process, 3), (2, 1), x_init=start).x.dtype == jnp.float32


def test_the_chain_refuses_times_between_its_integers():
    with pytest.raises(ValueError, match=r"grid contains 2\.5, and the discrete chain has integer times only"):
        sample(KEY, Process(Betas.linear(10)), bent, DDIM(), np.asarray([10, 2.5, 0]), (1, 1))


def test_guidance_may_differ_from_sample_to_sample(x64):
    x = jnp.ones((2, 2))
    guided = classifier_free_guidance(lambda y, t: 2 * y, lambda y, t: y, jnp.asarray([1.0, 3.0]))
    np.testing.assert_allclose(guided(x, 1.0), [[2.0, 2.0], [4.0, 4.0]])


def test_python_numbers_in_a_denoiser_do_not_recompile():
    traces = []

    def counted(scale, x, t):
        traces.append(1)
        return scale * x

    process = Process(EDM())
    for scale in (0.5, 1, np.float64(0.25)):
        sample(KEY, process, Partial(counted, scale), DDIM(), karras(process, 3), (2, 1))
    assert len(traces) == 1
