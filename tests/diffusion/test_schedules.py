"""Schedules against their closed forms (identity rows 1 and 15)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Betas, Cosine, RectifiedFlow, SubVP
from diffusion.schedules import Schedule
from diffusion.shifted import Shifted
from tests.diffusion.own_schedules import ENDLESS, Parabola, RoundedCosine, ShortOfNoise

CONTINUOUS = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()]
PRESERVING = [VP(), Cosine(), Betas.linear(100), Betas.cosine(100), Betas.ramp(100)]


def interior(schedule, n=9):
    return np.linspace(0.02, 0.98, n) * schedule.t_max


@jax.jit
def _inside(schedule, t, h):
    def values(t):
        return schedule.alpha(t), schedule.sigma(t)

    return {
        "drift": schedule.drift(t),
        "diffusion squared": schedule.diffusion_squared(t),
        "slopes": (schedule.alpha_dot(t), schedule.sigma_dot(t)),
        "differences": [(above - below) / (2 * h) for above, below in zip(values(t + h), values(t - h), strict=True)],
        "time": schedule.time_from_log_snr(schedule.log_snr(t)),
    }


@functools.cache
def inside(schedule):
    """What a schedule says at its `interior`, in one program."""
    with jax.enable_x64(True):
        return jax.device_get(_inside(schedule, interior(schedule), 1e-5 * schedule.t_max))


@jax.jit
def alpha_and_sigma(schedule, t):
    return schedule.alpha(t), schedule.sigma(t)


def over_all_times(schedule):
    """α and σ from the data to the prior."""
    return jax.device_get(alpha_and_sigma(schedule, np.linspace(0, schedule.t_max, 101)))


def name(schedule):
    return type(schedule).__name__


def closed_forms(schedule, t):
    """(f, g²), from the papers."""
    if isinstance(schedule, (VP, SubVP)):
        beta = schedule.beta_min + t * (schedule.beta_max - schedule.beta_min)
        integral = schedule.beta_min * t + 0.5 * t**2 * (schedule.beta_max - schedule.beta_min)
        return -beta / 2, beta * (1 if isinstance(schedule, VP) else -np.expm1(-2 * integral))
    if isinstance(schedule, Cosine):
        slope = np.pi / 2 * np.tan(np.pi * t / 2)
        return -slope, 2 * slope
    if isinstance(schedule, VE):
        ratio = schedule.sigma_max / schedule.sigma_min
        return 0 * t, schedule.sigma_min**2 * ratio ** (2 * t) * 2 * np.log(ratio)
    if isinstance(schedule, EDM):
        return 0 * t, 2 * t
    return -1 / (1 - t), 2 * t / (1 - t)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=name)
def test_drift_and_diffusion_from_autodiff_are_the_closed_forms(schedule, x64):
    f, g_squared = closed_forms(schedule, interior(schedule))
    np.testing.assert_allclose(inside(schedule)["drift"], f, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(inside(schedule)["diffusion squared"], g_squared, rtol=1e-11)


@pytest.mark.parametrize("schedule", [*CONTINUOUS, *PRESERVING[2:]], ids=name)
def test_data_are_at_time_zero_and_noise_grows(schedule, x64):
    alpha, sigma = over_all_times(schedule)
    assert (alpha[0], sigma[0]) == (1.0, 0.0)
    assert np.all(np.diff(sigma / np.maximum(alpha, 1e-300)) > 0)


@pytest.mark.parametrize("schedule", PRESERVING, ids=name)
def test_variance_is_preserved(schedule, x64):
    alpha, sigma = over_all_times(schedule)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-14)


def test_cosine_and_flow_end_in_pure_noise():
    for schedule in (Cosine(), RectifiedFlow()):
        assert float(schedule.alpha(1.0)) == 0.0
        assert float(schedule.sigma(1.0)) == 1.0


def test_sub_vp_is_never_noisier_than_vp(x64):
    less, more = (over_all_times(schedule)[1] for schedule in (SubVP(), VP()))
    assert np.all(less[1:] < more[1:])
    np.testing.assert_allclose(less, more**2, rtol=1e-13)


def test_ve_is_the_exact_kernel_of_its_sde(x64):
    schedule = VE(sigma_min=0.1, sigma_max=20.0)
    np.testing.assert_allclose(schedule.variance(1.0), 20.0**2 - 0.1**2, rtol=1e-13)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=name)
def test_slopes_of_alpha_and_sigma(schedule, x64):
    """The velocity's coefficients, by central differences."""
    for slope, difference in zip(inside(schedule)["slopes"], inside(schedule)["differences"], strict=True):
        np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=name)
def test_time_is_recovered_from_log_snr(schedule, x64):
    np.testing.assert_allclose(inside(schedule)["time"], interior(schedule), rtol=1e-9)
    assert float(schedule.time_from_log_snr(jnp.inf)) == 0.0


def test_small_noise_keeps_its_digits_in_float32():
    """√(1 − exp(−B)) at t = 1e-5 is 0.7% off in float32; by expm1 it is not."""
    exact = np.sqrt(-np.expm1(-(0.1 * 1e-5 + 0.5 * 19.9 * 1e-10)))
    np.testing.assert_allclose(VP().sigma(jnp.float32(1e-5)), exact, rtol=1e-6)


@pytest.mark.parametrize("chain", PRESERVING[2:], ids=lambda chain: f"{float(chain.beta(1)):.1e}")
def test_chain_accumulates_its_steps(chain, x64):
    """Row 1: a_1 ⋯ a_t = α_t, and the noises of the steps add up to σ_t²."""
    t = np.arange(1, chain.steps + 1)
    values = jax.jit(lambda chain, t: (chain.beta(t), chain.alpha(t), chain.variance(t)))
    alpha_squared, variance = 1.0, 0.0
    for b, alpha, said in zip(*jax.device_get(values(chain, t)), strict=True):
        alpha_squared, variance = (1 - b) * alpha_squared, (1 - b) * variance + b
        np.testing.assert_allclose(alpha**2, alpha_squared, rtol=1e-10)
        np.testing.assert_allclose(said, variance, rtol=1e-10)


def test_chain_constructors_follow_their_papers(x64):
    t = jnp.arange(1, 51)
    np.testing.assert_allclose(Betas.linear(50).beta(t), np.linspace(1e-4, 0.02, 50), rtol=1e-12)
    np.testing.assert_allclose(Betas.ramp(50).beta(t), 0.02 * np.arange(1, 51) / 50, rtol=1e-12)
    s, u = 0.008, np.arange(50) / 50
    np.testing.assert_allclose(
        Betas.cosine(50).alpha(jnp.arange(50)),
        np.cos(np.pi / 2 * (u + s) / (1 + s)) / np.cos(np.pi / 2 * s / (1 + s)),
        rtol=1e-10,
    )
    assert float(Betas.cosine(50).beta(50)) == pytest.approx(0.999, rel=1e-12)


def test_chain_finds_the_nearest_time(x64):
    chain, t = Betas.linear(200), np.arange(1, 201)
    there_and_back = jax.jit(lambda chain, t, off: chain.time_from_log_snr(chain.log_snr(t) + off))
    np.testing.assert_array_equal(there_and_back(chain, t, 0.0), t)
    np.testing.assert_array_equal(there_and_back(chain, t, 1e-7), t)
    assert float(Betas.linear(1).time_from_log_snr(0.0)) == 1.0
    assert float(chain.alpha(3.4)) == float(chain.alpha(3))


def test_chain_has_no_derivative():
    for ask in (Betas.linear(10).drift, Betas.linear(10).sigma_dot, jax.grad(Betas.linear(10).alpha)):
        with pytest.raises(TypeError, match="no derivative in t; use a continuous schedule"):
            ask(3.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VP(beta_min=2.0, beta_max=1.0), "beta_min = 2.0 and beta_max = 1.0"),
        (lambda: VE(sigma_min=0.0), "sigma_min = 0.0"),
        (lambda: EDM(sigma_max=0.001), "sigma_max = 0.001"),
        (lambda: Betas.from_betas([0.1, 1.0, 0.1]), "betas contains 1"),
        (lambda: Betas.from_betas([]), "non-empty"),
        (lambda: Betas.linear(0), "steps = 0"),
    ],
)
def test_bad_parameters_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_schedule_without_alpha_or_sigma_says_so():
    class Half(Schedule):
        """Defines α alone."""

        def alpha(self, t):
            return 1 - jnp.asarray(t)

    with pytest.raises(NotImplementedError, match="Half defines neither variance nor sigma"):
        Half().log_snr(0.5)
    with pytest.raises(NotImplementedError, match="Schedule defines neither log_alpha nor alpha"):
        Schedule().alpha(0.5)


def test_a_gradient_in_a_schedule_is_no_schedule():
    """Its leaves may be anything: nothing is refused when its tree is rebuilt, here or on the host."""
    slope = jax.device_get(jax.grad(lambda schedule: schedule.alpha(0.5) + schedule.sigma(0.3))(VP()))
    assert slope.beta_min > slope.beta_max


EVERY = [*CONTINUOUS, Betas.linear(100), Betas.cosine(100), Shifted(Cosine(), 4.0), Shifted(VP(), 4.0)]


@pytest.mark.parametrize("schedule", EVERY, ids=name)
def test_a_schedule_that_says_where_it_ends_says_what_its_functions_do(schedule):
    derived = Schedule._rounds_to_noise(schedule, schedule.t_max)
    assert schedule.is_noise_at(schedule.t_max) == derived
    assert schedule.ends_in_noise == derived == (schedule in (Cosine(), RectifiedFlow(), Shifted(Cosine(), 4.0)))
    assert schedule.discrete == isinstance(schedule, Betas)


def test_the_end_of_a_users_schedule_is_derived():
    for schedule in (*ENDLESS, Shifted(Parabola(), 4.0), Shifted(RoundedCosine(), 0.01)):
        assert schedule.ends_in_noise, schedule
        assert schedule.is_noise_at(schedule.t_max), schedule
        assert not schedule.is_noise_at(0.99 * schedule.t_max), schedule
        assert not schedule.discrete
    assert not ShortOfNoise().ends_in_noise
    assert Betas(np.append(Betas.linear(9).log_alphas, -np.inf)).ends_in_noise


@pytest.mark.parametrize("schedule", [VP(0.1, 200.0), SubVP(0.1, 200.0), Shifted(VP(0.1, 200.0), 4.0)], ids=name)
def test_a_tiny_alpha_is_not_noise_where_the_schedule_says_so(schedule):
    """α = e^{−50} is below the rounding of σ = 1, and g is finite all the same."""
    assert Schedule._rounds_to_noise(schedule, 1.0)
    assert not schedule.ends_in_noise
    assert not schedule.is_noise_at(1.0)
