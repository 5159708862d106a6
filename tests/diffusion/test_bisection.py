"""Times found by bisection are those of the formulas, and so are their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Cosine, Process, RectifiedFlow, Schedule, SubVP
from diffusion import keys as keys_lib
from diffusion.bisection import falling_inverse
from diffusion.oracles.examples import line
from diffusion.pytree import pytree
from samplers import Heun, karras, sample
from tests.diffusion.own_schedules import Parabola


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), RectifiedFlow(), VE(), EDM()], ids=repr)
def test_it_inverts_every_schedule(schedule, x64):
    t = np.append(schedule.t_max * np.asarray([1e-6, 1e-3, 0.2, 0.7, 0.999]), 0.0)
    log_snr = schedule.log_snr(t)
    found = jax.jit(lambda value: falling_inverse(schedule.log_snr, value, schedule.t_max))(log_snr)
    np.testing.assert_allclose(found, schedule.time_from_log_snr(log_snr), rtol=1e-9)
    np.testing.assert_allclose(found, t, rtol=1e-9)


def test_beyond_its_range_it_is_the_nearer_end():
    found = falling_inverse(EDM().log_snr, jnp.asarray([jnp.inf, -100.0, -jnp.inf]), 80.0)
    np.testing.assert_array_equal(found, [0.0, 80.0, 80.0])


def test_its_derivative_is_that_of_the_inverse(x64):
    by_bisection = jax.grad(lambda value: falling_inverse(Parabola().log_snr, value, 1.0))
    by_formula = jax.grad(lambda value: Parabola().time_from_log_snr(value))
    for value in (-3.0, 0.5, 8.0):
        np.testing.assert_allclose(by_bisection(value), by_formula(value), rtol=1e-8)
    assert by_bisection(jnp.inf) == 0


@pytree
class Bell(Schedule):
    """α = e^{−k t²} up to an end of one's own, σ² = 1 − α²."""

    k: float = 1.0
    end: float = 3.0

    @property
    def t_max(self):
        return self.end

    def log_alpha(self, t):
        return -self.k * jnp.asarray(t) ** 2

    def variance(self, t):
        return -jnp.expm1(2 * self.log_alpha(t))


def test_its_derivative_by_a_parameter_is_that_of_the_implicit_function(x64):
    """e^{−2kt²} = s(λ), s the logistic function: t = √(−ln s/(2k)), −t/(2k) by k, (1 − s)/(4kt) times −1 by λ; 0 by the
    end within the range, 1 beyond it, where all else has no part."""
    found = jax.jit(jax.grad(lambda k, end, value: Bell(k, end).time_from_log_snr(value), argnums=(0, 1, 2)))
    for k, value in ((1.0, 0.0), (0.3, 2.0), (2.0, -3.0)):
        share = 1 / (1 + np.exp(-value))
        t = np.sqrt(-np.log(share) / (2 * k))
        np.testing.assert_allclose(found(k, 3.0, value), [-t / (2 * k), 0, -(1 - share) / (4 * k * t)], rtol=1e-9)
    np.testing.assert_array_equal(found(1.0, 0.5, -5.0), [0, 1, 0])
    np.testing.assert_array_equal(found(1.0, 0.5, -np.inf), [0, 1, 0])
    np.testing.assert_array_equal(found(1.0, 0.5, np.inf), [0, 0, 0])
    endless = lambda k, value: falling_inverse(lambda t: k * jnp.log((1 - t) / t), value, 1.0)  # noqa: E731
    for value in (np.inf, -np.inf):
        assert jax.grad(endless)(2.0, value) == 0


def test_churn_at_the_end_of_a_schedule_has_a_derivative(x64):
    """There is no time above t_max to churn to: the noise that is added is √0 n, in forward mode too."""
    process, keys = Process(Bell(0.2, 3.0)), keys_lib.sample_keys(jax.random.key(0), jnp.arange(2))
    churned = lambda gamma: Heun()._churn(keys, jnp.ones((2, 1)), gamma, jnp.asarray(3.0), process)[0]  # noqa: E731
    np.testing.assert_array_equal(jax.jacfwd(churned)(0.2), 0)


def test_small_times_have_all_their_digits_in_float32():
    t = np.geomspace(1e-6, 80, 9)
    found = falling_inverse(lambda t: -t, jnp.asarray(-t, jnp.float32), 80.0)
    np.testing.assert_allclose(found, t, rtol=3e-7)


class Plain(Schedule):
    """A class that JAX knows nothing of."""


def test_a_schedule_needs_no_inverse_of_its_own_but_to_be_a_pytree(monkeypatch):
    monkeypatch.delattr(Parabola, "time_from_log_snr")
    process = Process(Parabola())
    grid = karras(process, 12, sigma_max=50.0)
    x = sample(jax.random.key(0), process, line().denoiser(process), Heun(), grid, (2, 1)).x
    assert np.isfinite(np.asarray(x)).all()
    with pytest.raises(TypeError, match="Plain is no pytree; put @diffusion"):
        Process(Plain())
