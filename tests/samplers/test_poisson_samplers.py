"""Every ODE sampler of the catalogue on heavy-tailed noise, unchanged: the exact flow, and z-time beside σ-time."""

import functools

import jax
import numpy as np
import pytest

from diffusion import EDM, Process, StudentT
from diffusion.oracles import StudentTMixture, flow_map_1d
from diffusion.oracles.examples import line
from diffusion.poisson import field_lines, law_flow, poisson_process
from samplers import sample
from samplers.registry import SAMPLERS, follows_flow

HIGH, LOW, STEPS = 20.0, 0.02, 32
ODE_SAMPLERS = [name for name, entry in SAMPLERS.items() if follows_flow(entry.default())]
GAMMA = 0.6


def run(name, df, law, x):
    process = Process(EDM(), StudentT(df))
    grid = np.geomspace(HIGH, LOW, STEPS + 1)
    denoise = law.denoiser(process)
    return sample(jax.random.key(0), process, denoise, SAMPLERS[name].default(), grid, x.shape, x_init=x).x


@functools.cache
def exact_ends(df, starts):
    """Where the flow takes these points on the line, in float64: (n, 1)."""
    return np.asarray(carried(line(), Process(EDM(), StudentT(df)), np.asarray(starts)[:, None], HIGH, LOW))


carried = jax.jit(flow_map_1d)


@functools.partial(jax.jit, static_argnames=("df", "variable"))
def end_of_lines(df, x, radii, variable):
    """Where the field lines of the charges are at the last of the radii."""
    return field_lines(law_flow(line(), df), x, radii, variable).x[-1]


@pytest.mark.parametrize("name", ODE_SAMPLERS)
def test_ode_samplers_follow_the_field_lines(name, x64):
    """The quantile map at D = 1 and D = 8 from far out in the tails, and the straight lines of Cauchy data.

    A step is h = 0.22 in ln σ: an error of h²/2 of Euler's rule in every step is h/2 = 0.1 in all, of a rule of higher
    order h²/2 = 0.02 at most. Along straight lines E[z|x] is constant, and every rule is exact.
    """
    sampler, starts = SAMPLERS[name].default(), (-200.0, -30.0, -5.0, 0.3, 4.0, 25.0)
    tolerance = 0.1 if sampler.stated_order == 1 else 0.02
    for df in (1.0, 8.0):
        end = run(name, df, line(), jax.device_put(np.asarray(starts)[:, None]))
        assert np.max(np.abs(np.asarray(end) - exact_ends(df, starts))) < tolerance, df
    cauchy = StudentTMixture(np.zeros((1, 2)), np.asarray([GAMMA]), 1.0)
    wide = np.asarray([[3.0, -20.0], [1e3, 5.0]])
    straight = wide * (GAMMA + LOW) / (GAMMA + HIGH)
    np.testing.assert_allclose(run(name, 1.0, cauchy, jax.device_put(wide)), straight, rtol=1e-12)


def test_z_time_and_sigma_time_reach_the_same_samples(x64):
    """r = σ√D: lines in r and a sampler in σ, at D = 1 and beyond, on the same grid in ln r = ln σ + const by RK4."""
    x = jax.device_put(np.asarray([[-30.0], [0.3], [4.0]]))
    for df in (1.0, 8.0):
        radii = np.geomspace(HIGH, LOW, 8 * STEPS + 1) * np.sqrt(df)
        lines = [end_of_lines(df, x, radii, variable) for variable in ("log_r", "r")]
        exact = carried(line(), poisson_process(df), x, HIGH, LOW)
        for end in lines:
            np.testing.assert_allclose(end, exact, atol=1e-4)
        np.testing.assert_allclose(run("rk4", df, line(), x), exact, atol=2e-3)
