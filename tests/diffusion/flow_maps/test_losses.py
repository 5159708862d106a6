"""The losses of few-step models beyond the rows of the table: limits, boundaries, stopped gradients and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Process, RectifiedFlow, velocity
from diffusion.flow_maps import (
    consistency_function,
    consistency_loss,
    earlier_time,
    eulerian_loss,
    exact_flow_map,
    flow_map,
    flow_matching_loss,
    lagrangian_loss,
    meanflow_loss,
    score_distillation,
    shortcut_loss,
    tangent_loss,
    velocity_from_map,
)
from diffusion.flow_maps.losses import robust
from diffusion.oracles import GaussianLaw
from diffusion.oracles.examples import line

pytestmark = pytest.mark.usefixtures("x64")

LAW, PROCESS = GaussianLaw.isotropic(np.zeros(2), 0.5), Process(RectifiedFlow())


def pairs(count=6, dim=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(0.5 * rng.normal(size=(count, dim))), jnp.asarray(rng.normal(size=(count, dim)))


def exact_average(law, process):
    phi = exact_flow_map(law, process)
    return lambda x, t, s: velocity_from_map(x, phi(x, t, s), t, s)


@pytest.mark.parametrize("loss", [eulerian_loss, lagrangian_loss])
def test_another_map_is_told_from_the_flow(loss):
    """DDIM's step, whose boundary and first derivative are right."""
    x = pairs()[1]
    flow = velocity(PROCESS, LAW.denoiser(PROCESS))
    ddim = flow_map(PROCESS, lambda x, t, s: LAW.denoiser(PROCESS)(x, t))
    assert np.all(np.asarray(loss(ddim, x, 0.9, 0.3, flow)) > 1e-3)
    np.testing.assert_allclose(loss(exact_flow_map(LAW, PROCESS), x, 0.9, 0.3, flow), 0, atol=1e-20)


def test_with_a_teacher_each_loss_of_the_exact_map_vanishes_at_every_point():
    """On two humps, where it does not for the velocity of a pair."""
    law = line()
    x_0, z = (part[:, :1] for part in pairs())
    teacher, phi = velocity(PROCESS, law.denoiser(PROCESS)), exact_flow_map(law, PROCESS)
    average = exact_average(law, PROCESS)

    @jax.jit
    def losses(x_0, z):
        t, s = jnp.full(x_0.shape[:1], 0.8), jnp.full(x_0.shape[:1], 0.3)
        return (
            meanflow_loss(PROCESS, average, x_0, z, t, s, velocity=teacher),
            consistency_loss(PROCESS, consistency_function(phi), x_0, z, t, s, teacher=phi),
            tangent_loss(PROCESS, consistency_function(phi), x_0, z, t, velocity=teacher),
            shortcut_loss(PROCESS, average, x_0, z, t, s),
            meanflow_loss(PROCESS, average, x_0, z, t, s),
        )

    *taught, by_pairs = losses(x_0, z)
    for found in taught:
        np.testing.assert_allclose(found, 0, atol=1e-15)
    assert np.all(np.asarray(by_pairs) > 1e-4)


def test_where_the_times_meet_the_losses_are_flow_matchings():
    x_0, z = pairs()
    average = lambda x, t, s: jnp.sin(x) + jnp.reshape(jnp.asarray(t) + 2 * jnp.asarray(s), (-1, 1))  # noqa: E731
    t = jnp.linspace(0.1, 0.9, len(x_0))
    wanted = flow_matching_loss(PROCESS, lambda x, time: average(x, time, time), x_0, z, t)
    for loss in (meanflow_loss, shortcut_loss):
        np.testing.assert_allclose(loss(PROCESS, average, x_0, z, t, t), wanted, rtol=1e-12)


def test_flow_matching_is_right_for_the_pair_and_for_nothing_else():
    x_0, z = pairs()
    np.testing.assert_allclose(flow_matching_loss(PROCESS, lambda x, t: z - x_0, x_0, z, 0.4), 0, atol=1e-30)
    wrong = flow_matching_loss(PROCESS, lambda x, t: z - x_0 + 0.5, x_0, z, 0.4)
    np.testing.assert_allclose(wrong, 0.25, rtol=1e-12)


def test_a_consistency_loss_has_no_gradient_through_its_target():
    """f = θ x: the slope is that of the first term alone."""
    x_0, z = pairs()
    x_t, x_s = 0.3 * x_0 + 0.7 * z, 0.6 * x_0 + 0.4 * z
    slope = jax.grad(lambda theta: jnp.mean(consistency_loss(PROCESS, lambda x, t: theta * x, x_0, z, 0.7, 0.4)))(1.5)
    np.testing.assert_allclose(slope, 2 * 1.5 * jnp.mean((x_t - x_s) * x_t), rtol=1e-12)


def test_a_shortcut_has_no_gradient_through_its_two_halves():
    """u = θ x: the slope is that of the first term alone."""
    x_0, z = pairs()
    x_t = 0.3 * x_0 + 0.7 * z
    theta, half = 1.5, 0.5 * (0.7 - 0.2)
    halves = 0.5 * (theta * x_t + theta * (x_t - half * theta * x_t))

    def loss(factor):
        return jnp.mean(shortcut_loss(PROCESS, lambda x, t, s: factor * x, x_0, z, 0.7, 0.2))

    np.testing.assert_allclose(jax.grad(loss)(theta), 2 * jnp.mean((theta * x_t - halves) * x_t), rtol=1e-12)


@pytest.mark.parametrize("teacher", [None, exact_flow_map(LAW, PROCESS)], ids=["training", "distillation"])
def test_the_tangent_loss_is_what_consistency_tends_to(teacher):
    """∇|f(x_t) − f⁻(x_s)|² = (t − s) ∇|f − (f − df/dt)⁻|² + O((t − s)²), for a network that is no map at all."""
    x_0, z = pairs()

    def network(theta):
        return lambda x, t: jnp.sin(theta * x) * jnp.reshape(1 + jnp.asarray(t) ** 2, (-1, 1))

    flow = None if teacher is None else velocity(PROCESS, LAW.denoiser(PROCESS))
    limit = jax.grad(lambda theta: jnp.mean(tangent_loss(PROCESS, network(theta), x_0, z, 0.6, velocity=flow)))(1.3)

    def quotient(gap):
        def loss(theta):
            return jnp.mean(consistency_loss(PROCESS, network(theta), x_0, z, 0.6, 0.6 - gap, teacher=teacher))

        return jax.grad(loss)(1.3) / gap

    errors = [abs(float(quotient(gap) - limit)) for gap in (1e-3, 1e-4)]
    assert errors[0] > 1e-6
    assert 9 < errors[0] / errors[1] < 11


@pytest.mark.parametrize("t", [1e-1, 1e-4, 1e-9])
def test_a_normalised_tangent_is_at_most_one_however_steep_the_network(t):
    """Of a network that is told ln σ/4, as EDM's are, whose derivative in t grows like 1/t."""
    x_0, z = pairs()
    process = Process(EDM())

    def network(x, time):
        return jnp.sin(x + jnp.reshape(25 * jnp.log(time), (-1, 1)))

    plain = tangent_loss(process, network, x_0, z, t)
    assert np.min(np.asarray(plain)) > (1 if t > 1e-2 else 1 / t)
    tamed = tangent_loss(process, network, x_0, z, t, normalised=0.1)
    size = jnp.sqrt(plain)
    np.testing.assert_allclose(tamed, (size / (size + 0.1)) ** 2, rtol=1e-9)
    assert np.all(np.asarray(tamed) < 1)


@pytest.mark.parametrize("t", [1.0, 1e-3, 1e-9])
def test_the_target_of_meanflow_moves_no_further_than_a_quarter_of_what_the_network_is_told(t):
    """(t − s) d(ln t/4)/dt <= ¼, for every s."""
    x_0, z = pairs()
    average = lambda x, time, s: 0 * x + jnp.reshape(0.25 * jnp.log(time), (-1, 1))  # noqa: E731
    process = Process(EDM())
    for part in (0.0, 0.5, 0.999):
        told, free = (
            jnp.sqrt(meanflow_loss(process, function, x_0, 0 * z, t, part * t))
            for function in (average, lambda x, time, s: 0 * x + jnp.reshape(0.25 * jnp.log(t), (-1, 1)))
        )
        assert np.all(np.abs(np.asarray(told - free)) <= 0.25 + 1e-9)


def test_robust_is_a_square_near_and_a_distance_far():
    squares = jnp.asarray([1e-8, 1.0, 1e8])
    np.testing.assert_array_equal(robust(squares, 0.0), squares)
    found = robust(squares, 0.01)
    np.testing.assert_allclose(found, np.sqrt(np.asarray(squares) + 1e-4) - 0.01, rtol=1e-6)
    np.testing.assert_allclose([found[0], found[2]], [1e-8 / 0.02, 1e4], rtol=1e-3)


def test_gaps_close_stage_by_stage_and_are_the_same_at_the_same_noise_on_any_schedule():
    levels = jnp.asarray([0.01, 0.5, 3.0, 40.0])
    process = Process(EDM())
    for stage in (1, 2, 5, 12):
        found = np.asarray(earlier_time(process, levels, stage))
        kept = 1 - (1 + 8 / (1 + np.exp(np.asarray(levels)))) / 2.0**stage
        np.testing.assert_allclose(found, np.asarray(levels) * np.maximum(kept, 0), rtol=1e-10)
    assert np.asarray(earlier_time(process, levels, 1))[0] == 0
    for other in (Process(VP()), PROCESS):
        t = other.schedule.time_from_log_snr(-2 * jnp.log(levels))
        s = earlier_time(other, t, 5)
        np.testing.assert_allclose(other.sigma(s) / other.alpha(s), earlier_time(process, levels, 5), rtol=1e-8)


def test_score_distillation_puts_its_emphasis_where_it_is_told():
    made, z = pairs()
    data, generators = LAW.denoiser(PROCESS), GaussianLaw.isotropic(np.zeros(2), 0.8).denoiser(PROCESS)
    told = score_distillation(PROCESS, data, generators, made, z, 0.4, emphasis=1.2)
    np.testing.assert_allclose(told.loss, 2 * (told.projected - 1.2 * told.difference), rtol=1e-12)
    same = score_distillation(PROCESS, data, data, made, z, 0.4)
    np.testing.assert_allclose(same.loss, 0, atol=1e-30)
