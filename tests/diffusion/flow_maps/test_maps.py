"""Flow maps, average velocities and two-time denoisers as one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, SubVP, continuous
from diffusion.flow_maps import (
    average_velocity,
    average_velocity_from_x0,
    consistency_function,
    flow_map,
    map_from_x0,
    velocity_from_map,
    x0_from_average_velocity,
    x0_from_map,
)
from diffusion.flow_maps.maps import mean_slope

pytestmark = pytest.mark.usefixtures("x64")

PROCESSES = {
    "VP": (Process(VP()), 0.3, 0.7),
    "SubVP": (Process(SubVP()), 0.3, 0.7),
    "Cosine": (Process(Cosine()), 0.3, 1.0),
    "VE": (Process(VE()), 0.3, 0.7),
    "EDM": (Process(EDM()), 0.5, 20.0),
    "RectifiedFlow": (Process(RectifiedFlow()), 0.2, 1.0),
    "a chain": (continuous(Process(Betas.linear(1000))), 250.5, 700.25),
}
everywhere = pytest.mark.parametrize("name", list(PROCESSES))


def numbers(*shape):
    return map(jnp.asarray, np.random.default_rng(0).normal(size=(2, *shape)))


@everywhere
def test_each_of_the_four_gives_the_others(name):
    process, s, t = PROCESSES[name]
    x, answer = numbers(4, 3)
    there = map_from_x0(process, x, answer, t, s)
    np.testing.assert_allclose(x0_from_map(process, x, there, t, s), answer, rtol=1e-10)
    u = average_velocity_from_x0(process, x, answer, t, s)
    np.testing.assert_allclose(u, velocity_from_map(x, there, t, s), rtol=1e-10)
    np.testing.assert_allclose(x0_from_average_velocity(process, x, u, t, s), answer, rtol=1e-10)


@everywhere
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_boundary_is_exact_to_the_last_bit_whatever_a_network_answers(name, kind):
    process, s, t = PROCESSES[name]
    x, answer = (part.astype(kind) for part in numbers(4, 3))
    times = np.asarray([s, t, 0.5 * (s + t), s], kind)
    phi = flow_map(process, lambda x, t, s: answer)
    np.testing.assert_array_equal(phi(x, times, times), x)
    np.testing.assert_array_equal(phi(x, jnp.zeros(()), jnp.zeros(())), x)


@everywhere
def test_at_the_data_the_map_is_the_answer(name):
    process, _, t = PROCESSES[name]
    x, answer = numbers(4, 3)
    network = lambda x, t, s: answer  # noqa: E731
    np.testing.assert_allclose(consistency_function(flow_map(process, network))(x, t), answer, rtol=1e-12)
    np.testing.assert_array_equal(consistency_function(network)(x, t), answer)


def test_a_time_for_each_element_is_that_element_alone():
    process, s, t = PROCESSES["VP"]
    x, _ = numbers(3, 2)
    above, below = np.asarray([t, 0.5, 0.9]), np.asarray([s, 0.5, 0.1])
    network = lambda x, t, s: x**2 + jnp.reshape(jnp.asarray(t) - s, (-1, 1))  # noqa: E731
    for made in (flow_map(process, network), average_velocity(process, network)):
        together = made(x, above, below)
        for i in range(3):
            alone = made(x[i : i + 1], above[i : i + 1], below[i : i + 1])
            np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-12)


@pytest.mark.parametrize("gap", [0.3, 0.0101, 0.0099, 1e-3, 1e-6, 1e-10, 0.0])
def test_a_mean_slope_keeps_its_digits_at_any_gap(gap):
    """α_t − α_s = α_s (exp(ln α_t − ln α_s) − 1) loses none."""
    schedule, t = VP(), 0.6
    s = t - gap
    change = float(-0.5 * (0.1 * (t - s) + 0.5 * 19.9 * (t - s) * (t + s)))
    slope = change / (t - s) if gap else float(-0.5 * (0.1 + 19.9 * t))
    exact = float(np.exp(-0.5 * (0.1 * s + 0.5 * 19.9 * s**2))) * (np.expm1(change) / change if gap else 1) * slope
    np.testing.assert_allclose(mean_slope(schedule.alpha, t, s), exact, rtol=3e-13)
    np.testing.assert_allclose(mean_slope(schedule.alpha, s, t), exact, rtol=3e-13)


def test_a_mean_slope_has_finite_derivatives_at_no_gap():
    process = Process(VP())
    tangents = jax.jvp(lambda t: mean_slope(process.alpha, t, 0.5), (0.5,), (1.0,))
    # The mean slope from s to t changes by half the second derivative where they meet.
    second = jax.grad(jax.grad(process.alpha))(0.5)
    np.testing.assert_allclose(tangents[1], 0.5 * second, rtol=1e-9)


@pytest.mark.parametrize("name", ["RectifiedFlow", "EDM"])
def test_on_straight_schedules_the_average_velocity_does_not_name_its_end(name):
    process = PROCESSES[name][0]
    x, answer = numbers(4, 3)
    for s in (0.0, 0.2, 0.4999, 0.5):
        u = average_velocity_from_x0(process, x, answer, 0.5, s)
        np.testing.assert_allclose(u, (x - answer) / 0.5, rtol=1e-9)


@pytest.mark.parametrize("t", [1e-2, 1e-5, 1e-8])
def test_an_error_of_the_answer_grows_like_one_over_sigma_and_no_faster(t):
    process = Process(RectifiedFlow())
    x, answer = numbers(4, 3)
    wrong = 1e-3 * jnp.ones_like(answer)
    change = average_velocity_from_x0(process, x, answer + wrong, t, 0.0) - average_velocity_from_x0(
        process, x, answer, t, 0.0
    )
    np.testing.assert_allclose(jnp.abs(change) * t, wrong, rtol=1e-6)


def test_the_data_do_not_tell_their_noise():
    process = Process(VP())
    assert np.isnan(map_from_x0(process, jnp.ones((1, 2)), jnp.ones((1, 2)), 0.0, 0.5)).all()
