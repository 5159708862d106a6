"""Restart: the law is kept, errors from above are forgotten, and every interval is gone over as often as it says."""

import jax
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Betas, Process, StudentT
from diffusion.oracles import GaussianLaw
from samplers import DDIM, DPMSolverMultistep, Heun, Interval, Restart, karras, sample, uniform_time
from tests.samplers.programs import chosen, coefficients

KEY, COUNT = jax.random.key(0), 20_000
LAW = GaussianLaw.isotropic(np.asarray([0.7]), 0.6)


def spread(process, sampler, grid, start_std):
    """(mean, standard deviation) of many samples, from a start of this width."""
    x_init = jax.device_put(np.float32(start_std * np.random.default_rng(2).normal(size=(COUNT, 1))))
    x = np.asarray(sample(KEY, process, LAW.denoiser(process), sampler, grid, (COUNT, 1), x_init=x_init).x)
    return float(x.mean()), float(x.std())


KEPT = (EDM(), VP())


@pytest.mark.parametrize("schedule", KEPT, ids=lambda s: type(s).__name__)
def test_the_law_is_kept(schedule):
    process = chosen(schedule, KEPT)
    sampler = Restart(intervals=(Interval(0.3, 2.0, repeats=3, steps=12),))
    mean, std = spread(process, sampler, karras(Process(schedule), 24), float(coefficients(process, schedule.t_max)[1]))
    # Four standard errors of a mean and of a standard deviation, and the solver's own error.
    assert abs(mean - 0.7) < 4 * 0.6 / np.sqrt(COUNT) + 0.005
    assert abs(std - 0.6) < 4 * 0.6 / np.sqrt(2 * COUNT) + 0.005


def test_errors_from_above_are_forgotten():
    """From a prior too narrow by a half: what the flow carries down unchanged, the noise of a restart replaces.

    On x ~ N(m, v) the flow down from σ² keeps a fraction v/(v + σ²) of the variance's error, and going up adds none.
    """
    process, grid = chosen(EDM(), KEPT), karras(Process(EDM()), 24)
    plain = spread(process, Heun(), grid, start_std=40.0)[1]
    once = spread(process, Restart(intervals=(Interval(0.1, 1.0, repeats=1, steps=12),)), grid, start_std=40.0)[1]
    thrice = spread(process, Restart(intervals=(Interval(0.1, 1.0, repeats=3, steps=12),)), grid, start_std=40.0)[1]
    v, error = 0.6**2, plain**2 - 0.6**2
    bottom = float(grid[grid <= 0.1][0])
    kept = (v + bottom**2) / (v + 1.0)
    assert abs(error) > 0.2
    for repeats, std in ((1, once), (3, thrice)):
        assert abs((std**2 - v) / error - kept**repeats) < 0.04


def test_intervals_that_end_at_one_step_draw_their_own_noise():
    """On N(m, v) going up by s² and down keeps r² = (v + low²)/(v + high²) of the variance, and restores the rest.

    The same noise twice would add to itself: 2 r³ s² more, here half as much variance again.
    """
    process, grid = Process(EDM()), karras(Process(EDM()), 24)
    twice = (Interval(0.3, 2.0, repeats=1, steps=12), Interval(0.3, 2.0, repeats=1, steps=12))
    std = spread(process, Restart(intervals=twice), grid, 80.0)[1]
    assert abs(std - 0.6) < 4 * 0.6 / np.sqrt(2 * COUNT) + 0.005


def test_nfe_is_the_number_of_calls():
    """Two intervals of which both end at the same step of a coarse grid: neither is lost."""
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return x / (1 + t**2)

    process = Process(EDM())
    for inner in (Heun(), DPMSolverMultistep(order=3)):
        sampler = Restart(inner, (Interval(0.9, 3.0, 2, 3), Interval(0.8, 1.5, 1, 5)))
        calls.clear()
        result = sample(KEY, process, counted, sampler, karras(process, 6), (2, 1))
        result.x.block_until_ready()
        jax.effects_barrier()
        assert len(calls) == result.nfe == inner.nfe(6, True) + 2 * inner.nfe(3, False) + inner.nfe(5, False)


BAD = [
    (lambda: Interval(0.3, 0.1), "are no interval"),
    (lambda: Interval(repeats=0), "repeats = 0"),
    (lambda: Interval(steps=0), "steps = 0"),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=[words for _, words in BAD])
def test_no_interval_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("interval", "words"), [(Interval(1e-4, 1.0), "lower end outside"), (Interval(0.1, 100.0), "ends above the grid's")]
)
def test_intervals_that_the_grid_does_not_reach_are_refused(interval, words):
    process = Process(EDM())
    with pytest.raises(ValueError, match=words):
        sample(KEY, process, LAW.denoiser(process), Restart(intervals=(interval,)), karras(process, 6), (1, 1))


CALLS, ENDS = [], (VE(), VP(), EDM())


def counted(x, t):
    jax.debug.callback(lambda: CALLS.append(1))
    return 0.5 * x


@pytest.mark.parametrize("schedule", ENDS, ids=lambda s: type(s).__name__)
def test_an_interval_may_end_at_the_grid_s_last_level(schedule):
    """Where float32 lands just above what float64 has found."""
    process, grid = chosen(schedule, ENDS), karras(Process(schedule), 6)
    alpha, sigma = map(float, coefficients(process, grid[-2]))
    low = sigma / alpha
    CALLS.clear()
    result = sample(KEY, process, counted, Restart(DDIM(), (Interval(low, 20 * low, 1, 2),)), grid, (1, 1))
    result.x.block_until_ready()
    jax.effects_barrier()
    assert len(CALLS) == result.nfe == 8


def test_a_stochastic_sampler_inside_is_refused():
    process = Process(EDM())
    for inner in (Heun(S_churn=1.0), Restart(intervals=(Interval(0.1, 1.0),))):
        with pytest.raises(ValueError, match="which is stochastic; the noise is Restart's own"):
            sample(KEY, process, LAW.denoiser(process), Restart(inner), karras(process, 6), (1, 1))


def test_restart_needs_gaussian_noise_and_times_in_between():
    heavy, chain = Process(EDM(), StudentT(3.0)), Process(Betas.linear(50))
    with pytest.raises(TypeError, match="exists for Gaussian noise only"):
        sample(KEY, heavy, LAW.denoiser(heavy), Restart(), karras(heavy, 6), (1, 1))
    with pytest.raises(TypeError, match="no derivative in t"):
        sample(KEY, chain, LAW.denoiser(chain), Restart(DDIM()), uniform_time(chain, 6), (1, 1))
