"""Networks as two-time denoisers: what they are told, where it vanishes, and how fast it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Preconditioning, Process, RectifiedFlow, network_denoiser
from diffusion.flow_maps import (
    consistency_function,
    consistency_loss,
    earlier_time,
    gap_numbers,
    meanflow_loss,
    network_two_time_denoiser,
)
from diffusion.flow_maps.maps import average_velocity
from diffusion.flow_maps.network import GAP_NUMBERS
from diffusion.networks import MLPConfig, Network
from diffusion.networks.configs import DiTConfig, UNetConfig


@pytest.mark.parametrize("process", [Process(EDM()), Process(RectifiedFlow()), Process(VP())], ids=["EDM", "RF", "VP"])
def test_the_numbers_vanish_where_the_times_meet_and_tell_the_data_from_the_rest(process):
    end = float(process.t_max)
    t = jnp.asarray([end, 0.5 * end, 0.01 * end])
    np.testing.assert_array_equal(gap_numbers(process, t, t), np.zeros((3, GAP_NUMBERS)))
    angles = 0.5 * np.pi * np.arange(1, 9)
    whole = np.concatenate([np.sin(angles), 1 - np.cos(angles)])
    np.testing.assert_allclose(gap_numbers(process, t, jnp.zeros(3)), np.tile(whole, (3, 1)), atol=1e-5)


@pytest.mark.parametrize("process", [Process(EDM()), Process(RectifiedFlow())], ids=["EDM", "RF"])
def test_times_the_gap_their_slope_is_bounded_from_the_data_to_the_prior(process, x64):
    """|(t − s) dγ/dt| <= 1, so that of sin(½kπγ) is at most ½kπ, and of the whole (½kπ, k <= 8) 4π."""
    end = float(process.t_max)
    t = jnp.concatenate([jnp.geomspace(1e-9, 0.5, 40), 1 - jnp.geomspace(1e-9, 0.5, 40)]) * end
    for part in (0.0, 0.1, 0.9, 0.999):
        slope = jax.jvp(lambda time, s=part * t: gap_numbers(process, time, s), (t,), (jnp.ones_like(t),))[1]
        assert np.max(np.abs((1 - part) * t[:, None] * slope)) < 4 * np.pi


@pytest.mark.parametrize(
    "config",
    [
        MLPConfig(hidden=8, layers=1, embedding=8),
        UNetConfig(channels=4, multipliers=(1,), blocks=1),
        DiTConfig(width=24, depth=1, heads=2),
    ],
    ids=["MLP", "UNet", "DiT"],
)
def test_one_network_is_a_denoiser_and_a_flow_map(config):
    """At s = t, and without s, it is the denoiser of the same parameters; a gradient of MeanFlow reaches the gap's."""
    network = Network(config, (4, 4, 1), augment_dim=GAP_NUMBERS)
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0)))
    process, how = Process(EDM()), Preconditioning("edm", 0.5)
    two_time = network_two_time_denoiser(network, params, process, how)
    x, t = jax.random.normal(jax.random.key(1), (2, 4, 4, 1)), jnp.asarray([0.5, 3.0])
    plain = network_denoiser(network, params, process, how)(x, t)
    np.testing.assert_array_equal(two_time(x, t), plain)
    np.testing.assert_allclose(two_time(x, t, t), plain, rtol=1e-6, atol=1e-6)
    assert np.max(np.abs(two_time(x, t, 0 * t) - plain)) > 1e-4

    @jax.jit
    def slopes(params):
        average = average_velocity(process, network_two_time_denoiser(network, params, process, how))
        return jnp.mean(meanflow_loss(process, average, x, x[::-1], t, 0.3 * t))

    gradient = jax.grad(slopes)(params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    assert np.max(np.abs(gradient["emb"]["augment"]["kernel"])) > 0


def test_times_are_told_slowly_where_a_denoiser_is_told_a_thousand():
    told = []

    def network(params, x, c_noise, labels, keys=None, gap=None):
        told.append(np.asarray(c_noise))
        return x

    process = Process(RectifiedFlow())
    network_two_time_denoiser(network, {}, process, Preconditioning("velocity"))(jnp.ones((1, 2)), 0.5, 0.2)
    network_denoiser(network, {}, process, Preconditioning("velocity"))(jnp.ones((1, 2)), 0.5)
    np.testing.assert_allclose(np.ravel(told), [2.0, 500.0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["edm", "velocity"])
def test_at_the_data_a_consistency_function_is_x_also_of_a_network(kind):
    """Where `earlier_time` leads: the loss there is that of a denoiser, and finite."""
    network = Network(MLPConfig(hidden=8, layers=1, embedding=8), (2,), augment_dim=GAP_NUMBERS)
    params, process = network.init(jax.random.key(0)), Process(EDM())
    f = consistency_function(network_two_time_denoiser(network, params, process, Preconditioning(kind, 0.5)))
    x, t = jax.random.normal(jax.random.key(1), (3, 2)), jnp.asarray([0.01, 0.5, 3.0])
    s = earlier_time(process, t, 1)
    assert s[0] == 0
    np.testing.assert_array_equal(f(x, jnp.zeros(3)), x)
    found = consistency_loss(process, f, x, x[::-1], t, s)
    np.testing.assert_allclose(found[0], jnp.mean((f(x + t[:, None] * x[::-1], t) - x) ** 2, axis=1)[0], rtol=1e-5)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(gap_numbers(process, 0 * t, 0 * t), np.zeros((3, GAP_NUMBERS)))
