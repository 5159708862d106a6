"""Encoding and decoding by the same steps: the round trip closes at the sampler's order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import VP, Betas, Cosine, Process, RectifiedFlow
from diffusion.oracles.examples import line
from experiments.verification.orders.problems import grid_of, observed_order, problem
from samplers import (
    DDIM,
    RK4,
    Ancestral,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    Heun,
    Midpoint,
    invert,
    karras,
    sample,
    uniform_time,
)

STEPS = (80, 160, 320)


@pytest.mark.parametrize("sampler", [DDIM(), Heun(), DPMSolverSinglestep(order=3)], ids=lambda s: type(s).__name__)
def test_the_round_trip_closes_at_the_samplers_order(sampler, x64):
    process, denoise, _, x = problem("VP", 1)
    finest, gaps = grid_of(process, STEPS[-1]), []
    for steps in STEPS:
        grid = finest[:: STEPS[-1] // steps]
        latent = invert(process, denoise, x, sampler, grid)
        back = sample(jax.random.key(0), process, denoise, sampler, grid, x.shape, x_init=latent).x
        gaps.append(float(np.sqrt(np.mean((np.asarray(back) - np.asarray(x)) ** 2))))
    assert observed_order(STEPS, gaps) > sampler.order - 0.15, gaps


def test_the_latent_is_the_flows(x64):
    """The start of the flow that ends at x, which `problem` knows from the quantile map."""
    process, denoise, start, end = problem("EDM", 1)
    np.testing.assert_allclose(invert(process, denoise, end, RK4(), grid_of(process, 200)), start, rtol=1e-7)


def test_what_cannot_be_inverted_is_refused():
    process, x = Process(VP()), jnp.ones((2, 3))
    grid = karras(process, 5)
    with pytest.raises(ValueError, match=r"grid ends at 0; inversion starts above 0, so give grid\[:-1\]"):
        invert(process, lambda x, t: x, x, DDIM(), grid)
    with pytest.raises(ValueError, match="adds noise, which cannot be inverted"):
        invert(process, lambda x, t: x, x, DDIM(eta=0.5), grid[:-1])
    for sampler in (Ancestral(), DPMSolverMultistep()):
        with pytest.raises(TypeError):
            invert(process, lambda x, t: x, x, sampler, grid[:-1])
    with pytest.raises(TypeError, match="no derivative in t"):
        invert(Process(Betas.linear(9)), lambda x, t: x, x, Heun(), np.asarray([9.0, 5.0, 1.0]))


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine()], ids=repr)
def test_it_arrives_where_no_signal_is_left(schedule, x64):
    """λ is −∞ at the end of the last step, which is DDIM's for every method; for one this was NaN."""
    process, law = Process(schedule), line()
    grid, x = uniform_time(process, 160)[:-1], law.sample(jax.random.key(1), 4)
    expected = invert(process, law.denoiser(process), x, DDIM(), grid)
    for sampler in (Midpoint(), DPMSolverSinglestep(), DPMSolverSinglestep(order=3), Euler(), Heun(), RK4()):
        latent = invert(process, law.denoiser(process), x, sampler, grid)
        np.testing.assert_allclose(latent, expected, atol=0.05)
