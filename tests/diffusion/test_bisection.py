"""Times found by bisection are those of the formulas, and so are their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Cosine, Process, RectifiedFlow, Schedule, SubVP
from diffusion.bisection import falling_inverse
from diffusion.oracles.examples import line
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
