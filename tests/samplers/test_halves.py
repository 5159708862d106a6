"""A run stopped in the middle of its grid and taken up again from its state is the whole run."""

import jax
import numpy as np
import pytest

from diffusion import EDM, Process
from diffusion.flow_maps import exact_two_time_denoiser
from diffusion.oracles.examples import line
from samplers import conditional_pair, sample, uniform_log_snr
from samplers.registry import SAMPLERS

PROCESS, LAW = Process(EDM()), line()
ONE_STEP = {name: entry.default() for name, entry in SAMPLERS.items() if not entry.default().remembers}
FOLLOWING = [name for name, one in ONE_STEP.items() if not one.stochastic or one.strong_order]
OTHERS = sorted(set(ONE_STEP) - set(FOLLOWING))


def test_what_has_no_path_is_named():
    """Their noise is of the step's number, which begins anew: they are the same run in law alone."""
    assert OTHERS == ["annealed-langevin", "predictor-corrector", "restart"]


@pytest.mark.parametrize("name", FOLLOWING)
def test_two_halves_are_the_whole(name, x64):
    """With the noise, if there is any, from one Brownian path; nothing else is carried from step to step."""
    sampler, grid = ONE_STEP[name], np.append(uniform_log_snr(PROCESS, 6, 0.1, 10.0)[:-1], 0.0)
    denoise = LAW.denoiser(PROCESS)
    denoise = conditional_pair(denoise, denoise) if sampler.takes_pair else denoise
    denoise = exact_two_time_denoiser(LAW, PROCESS) if sampler.takes_both_times else denoise

    def run(part, x=None):
        return sample(
            jax.random.key(0),
            PROCESS,
            denoise,
            sampler,
            part,
            (3, 1),
            x_init=x,
            brownian_tree=sampler.stochastic,
        ).x

    np.testing.assert_allclose(run(grid[3:], run(grid[:4])), run(grid), rtol=1e-10, atol=1e-12)
