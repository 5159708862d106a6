"""Steps of a flow map: exact on any grid for an exact map, of the right law with fresh noise, and for no denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Process, RectifiedFlow, StudentT
from diffusion.flow_maps import exact_flow_map, exact_two_time_denoiser
from diffusion.oracles import GaussianLaw
from samplers import DDIM, FlowMapSteps, clipped, sample

LAW = GaussianLaw.isotropic(np.asarray([0.3, -1.0]), 0.5)


@pytest.mark.parametrize("process", [Process(EDM()), Process(RectifiedFlow())], ids=["EDM", "RF"])
def test_one_step_and_five_are_the_exact_map(process, x64):
    end = float(process.t_max)
    x = LAW.sample_marginal(jax.random.key(0), process, 4, end)
    exact = exact_flow_map(LAW, process)(x, end, 0.0)
    denoise = exact_two_time_denoiser(LAW, process)
    for grid in (np.asarray([1.0, 0.0]), np.asarray([1.0, 0.9, 0.4, 0.3, 0.01, 0.0])):
        made = sample(jax.random.key(1), process, denoise, FlowMapSteps(), end * grid, (4, 2), x_init=x)
        np.testing.assert_allclose(made.x, exact, rtol=1e-9)
        assert made.nfe == len(grid) - 1
    ddim = sample(
        jax.random.key(1), process, LAW.denoiser(process), DDIM(), end * np.asarray([1.0, 0.0]), (4, 2), x_init=x
    )
    assert np.max(np.abs(ddim.x - exact)) > 0.1


@pytest.mark.parametrize("fresh", [0.6, 1.0])
def test_fresh_noise_leaves_the_law_at_every_time(fresh, x64):
    """Mean and variance at t = 0.5 of 40,000 samples, within four standard errors, and less of the start is left."""
    process, count = Process(RectifiedFlow()), 40_000
    denoise = exact_two_time_denoiser(LAW, process)
    x = LAW.sample_marginal(jax.random.key(0), process, count, 1.0)
    grid = np.asarray([1.0, 0.7, 0.5])
    made = np.asarray(sample(jax.random.key(1), process, denoise, FlowMapSteps(fresh), grid, (count, 2), x_init=x).x)
    variance = 0.25 * 0.25 + 0.25
    np.testing.assert_allclose(made.mean(0), [0.15, -0.5], atol=4 * np.sqrt(variance / count))
    np.testing.assert_allclose(made.var(0), variance, rtol=4 * np.sqrt(2 / count))
    kept = np.asarray(exact_flow_map(LAW, process)(x, 1.0, 0.5))
    correlation = np.corrcoef(made[:, 0], kept[:, 0])[0, 1]
    assert (0.3 < correlation < 0.95) == (fresh < 1)


def test_a_range_is_kept_and_both_times_passed_on(x64):
    process = Process(RectifiedFlow())
    denoise = clipped(exact_two_time_denoiser(LAW, process), -0.1, 0.1)
    made = sample(jax.random.key(1), process, denoise, FlowMapSteps(), np.asarray([1.0, 0.5, 0.0]), (4, 2)).x
    assert np.max(np.abs(made)) <= 0.1


def test_what_is_no_flow_map_is_refused(as_users_call_it):
    process, grid = Process(RectifiedFlow()), np.asarray([1.0, 0.0])
    with pytest.raises(TypeError, match=r"asks G\(x, t, s\), and this denoiser takes \(x, t\) alone; give"):
        sample(jax.random.key(0), process, LAW.denoiser(process), FlowMapSteps(), grid, (2, 2))
    with pytest.raises(ValueError, match=r"fresh = 1.5; give a number from 0 \(no new noise\) to 1"):
        FlowMapSteps(1.5)
    heavy = Process(EDM(), StudentT(3.0))
    with pytest.raises(TypeError, match="a flow map with fresh noise"):
        sample(jax.random.key(0), heavy, jnp.tanh, FlowMapSteps(0.5), np.asarray([80.0, 0.0]), (2, 2))
