"""Grids: pinned ends, exact spacing, integers on the chain, sentences for bad input."""

import functools

import jax
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, StudentT, SubVP
from samplers import (
    DPMSolverMultistep,
    EulerMaruyama,
    Heun,
    beta_quantiles,
    cosine,
    karras,
    leading,
    linspace,
    quadratic,
    trailing,
    uniform_log_snr,
    uniform_sigma,
    uniform_time,
)
from samplers.grid_fit import fixed_grids, reference_grid
from samplers.grids import check_grid, host_float64
from samplers.registry import default_grid, make_grid
from tests.diffusion.own_schedules import ENDLESS, Slow


def sigmas(process, grid):
    with host_float64():
        return np.exp(-0.5 * np.asarray(process.schedule.log_snr(np.asarray(grid, np.float64))))


def test_karras_is_its_formula_with_pinned_ends():
    grid = karras(Process(EDM()), 18)
    assert grid.dtype == np.float64
    assert grid[0] == 80.0
    assert grid[-1] == 0.0
    assert np.float32(grid[0]) == np.float32(80)
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(grid[:-1], expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE(), EDM()], ids=lambda s: type(s).__name__)
def test_grids_in_noise_mean_the_same_on_every_process(schedule):
    process = Process(schedule)
    grid = karras(process, 9, sigma_min=0.01, sigma_max=20.0)
    np.testing.assert_allclose(sigmas(process, grid[:-1]), karras(Process(EDM()), 9, 7.0, 0.01, 20.0)[:-1], rtol=1e-9)
    even = np.log(sigmas(process, uniform_log_snr(process, 9, 0.01, 20.0)[:-1]))
    np.testing.assert_allclose(np.diff(even), even[1] - even[0], rtol=1e-9)
    assert grid[-1] == 0


@pytest.mark.parametrize("schedule", [VP(), VE(), EDM()], ids=lambda s: type(s).__name__)
def test_default_ends_are_the_processes_own(schedule):
    process = Process(schedule, StudentT(4.0))
    for build in (karras, uniform_log_snr):
        grid = build(process, 5)
        assert grid[0] == float(schedule.t_max)
        np.testing.assert_allclose(grid[-2], float(schedule.t_min), rtol=1e-9)


def test_uniform_and_quadratic_times():
    flow = Process(RectifiedFlow())
    np.testing.assert_allclose(uniform_time(flow, 4), [1, 0.75, 0.5, 0.25, 0], rtol=1e-15)
    np.testing.assert_allclose(quadratic(flow, 4), [1, 0.5625, 0.25, 0.0625, 0], rtol=1e-15)
    np.testing.assert_allclose(uniform_time(Process(EDM()), 2, t_start=40.0), [40, 20, 0], rtol=1e-15)
    shifted = uniform_time(flow, 4, shift=3.0)
    np.testing.assert_allclose(shifted / (3 - 2 * shifted), [1, 0.75, 0.5, 0.25, 0], atol=1e-12)


@pytest.mark.parametrize("shift", [0.2, 1.0, 3.0])
def test_a_shifted_grid_from_a_start_is_the_part_of_the_line_below_it(shift):
    """u/t_max = c v/(1 + (c − 1) v): undone, the v are even from the one that the start is at."""
    process, start = Process(EDM()), 30.0
    u = uniform_time(process, 6, t_start=start, shift=shift) / 80
    even = u / (shift - (shift - 1) * u)
    assert u[0] == start / 80
    np.testing.assert_allclose(even, np.linspace(even[0], 0, 7), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shift", [1e-6, 1e6])
def test_the_furthest_shifts_have_times_of_their_own(shift):
    grid = uniform_time(Process(RectifiedFlow()), 100, shift=shift)
    assert np.all(np.diff(grid) < 0)
    v = np.linspace(1, 0, 101)
    np.testing.assert_allclose(grid, shift * v / (1 + (shift - 1) * v), rtol=1e-9)


def test_times_that_are_one_number_in_the_type_of_the_run_are_refused(x64):
    grid = np.asarray([1.0, 1 - 1e-9, 0.5, 0.0])
    check_grid(Process(VP()), grid)
    with jax.enable_x64(False), pytest.raises(ValueError, match="the time 1 more than once in float32; use fewer"):
        check_grid(Process(VP()), grid)


def test_levels_on_a_chain_end_above_the_least_that_was_asked_for():
    """Crowded at the end, times are pushed up, and none but the data's is below σ_min's."""
    process = Process(Betas.linear(100))
    least = 40
    level = float(sigmas(process, [least])[0])
    for build in (karras, uniform_log_snr, uniform_sigma, cosine):
        grid = build(process, 55, sigma_min=level)
        assert grid[-2] == least
        check_grid(process, grid)
        with pytest.raises(ValueError, match="this chain has 61 times from 100 to 40"):
            build(process, 62, sigma_min=level)


CROWDED = [functools.partial(uniform_time, shift=shift) for shift in (30.0, 1 / 30)]
STEEP = functools.partial(karras, rho=0.1)


@pytest.mark.parametrize("build", [karras, STEEP, uniform_log_snr, uniform_sigma, cosine, uniform_time, quadratic])
def test_a_chain_with_a_limit_starts_at_it_however_crowded(build):
    """Times that are pushed up from the data stop below the first, and the others keep theirs."""
    process, first = Process(Betas.linear(100)), 10
    timed = build in (uniform_time, quadratic)
    limit = {"t_start": float(first)} if timed else {"sigma_max": float(sigmas(process, [first])[0])}
    np.testing.assert_array_equal(build(process, first, **limit), np.arange(first, -1, -1))
    for steps in (1, 4, first - 1):
        grid = build(process, steps, **limit)
        assert (grid[0], len(grid)) == (first, steps + 1)
        check_grid(process, grid)


@pytest.mark.parametrize("length", range(1, 31))
def test_chain_grids_are_distinct_integers_with_both_ends(length):
    """For every number of steps, crowded at either end too. In noise, which is a program for each, for a few of them:
    all are rounded by the same rule."""
    process = Process(Betas.linear(length))
    for steps in range(1, 31):
        for build in (uniform_time, quadratic, *CROWDED, karras):
            if steps > length:
                with pytest.raises(ValueError, match=f"this chain has {length}"):
                    build(process, steps)
            elif build is not karras or (length, steps) in ((1, 1), (30, 13)):
                grid = build(process, steps)
                assert len(grid) == steps + 1
                assert np.all(grid == np.rint(grid))
                assert grid[-1] == 0
                assert grid[0] == length
                check_grid(process, grid)


@pytest.mark.parametrize("build", [karras, uniform_time, quadratic, uniform_log_snr])
def test_a_full_chain_grid_is_every_integer(build):
    np.testing.assert_array_equal(build(Process(Betas.linear(40)), 40), np.arange(40, -1, -1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: karras(Process(EDM()), 0), "steps = 0"),
        (lambda: karras(Process(EDM()), 5, rho=0.0), "rho = 0"),
        (lambda: karras(Process(RectifiedFlow()), 5), "infinite at the prior of RectifiedFlow; pass sigma_max"),
        (lambda: karras(Process(EDM()), 5, sigma_min=90.0), "sigma_min = 90"),
        (lambda: uniform_time(Process(EDM()), 5, t_start=100.0), "t_start = 100"),
        (lambda: uniform_time(Process(EDM()), 5, shift=0.0), "shift = 0"),
        (lambda: uniform_time(Process(EDM()), 5, shift=np.inf), "shift = inf; give a number from 1e-6 to 1e6"),
        (lambda: uniform_time(Process(EDM()), 5, shift=1e300), "shift = 1e"),
        (lambda: uniform_time(Process(EDM()), 5, shift=np.nan), "shift = nan"),
        (lambda: beta_quantiles(Process(RectifiedFlow()), 10, 0.02, 3.0), "more than once"),
        (lambda: beta_quantiles(Process(RectifiedFlow()), 10, 3.0, 0.02), "the time 1 more than once"),
        (lambda: karras(Process(EDM()), 3, sigma_min=2.0, sigma_max=2.0), "the time 2 more than once; use fewer steps"),
        (lambda: cosine(Process(VP()), 2, 2.0, 2.0), "more than once"),
    ],
)
def test_bad_grids_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", ["auto", "uniform-time", "quadratic"])
def test_a_named_grid_starts_where_the_sampler_can(name):
    """At the prior of a rectified flow α = 0 and g is infinite: Euler-Maruyama starts a thousandth below."""
    process, sampler = Process(RectifiedFlow()), EulerMaruyama()
    grid = make_grid(process, sampler, name, 6)
    assert grid[0] == pytest.approx(0.999)
    sampler.check(process, grid)
    assert make_grid(Process(Slow()), sampler, name, 6)[0] == pytest.approx(0.999 * 4)
    for schedule in (VP(), VP(0.1, 200.0)):  # e^{−50} is not 0, and β is finite
        grid = make_grid(Process(schedule), sampler, "quadratic", 6)
        assert grid[0] == 1.0
        sampler.check(Process(schedule), grid)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 50])
def test_ddpm_spacings_are_as_the_field_names_them(steps):
    """Lin et al. 2024, table 1, with times counted from 1 and the data at 0."""
    process = Process(Betas.linear(50))
    np.testing.assert_array_equal(leading(process, steps)[::-1][1:], 1 + (50 // steps) * np.arange(steps))
    np.testing.assert_array_equal(trailing(process, steps)[:-1], np.rint(50 - np.arange(steps) * 50 / steps))
    even = linspace(process, steps)
    assert even[0] == 50
    assert np.ptp(np.diff(even[:-1])) <= 1 if steps > 2 else True
    assert steps == 1 or even[-2] == 1
    for make in (leading, trailing, linspace):
        grid = make(process, steps)
        check_grid(process, grid)
        assert len(grid) == steps + 1
        with pytest.raises(ValueError, match="VP is no discrete chain; use uniform_time"):
            make(Process(VP()), steps)


def test_sigma_and_cosine_grids_are_even_in_what_they_say():
    for process in (Process(EDM()), Process(VP()), Process(SubVP())):
        with host_float64():
            level = np.exp(-0.5 * np.asarray(process.schedule.log_snr(uniform_sigma(process, 9)[:-1])))
            angle = np.arctan(np.exp(-0.5 * np.asarray(process.schedule.log_snr(cosine(process, 9)[:-1]))))
        ends = sigmas(process, [process.t_max, process.t_min])
        np.testing.assert_allclose(level[[0, -1]], ends, rtol=1e-6)
        np.testing.assert_allclose(np.tan(angle[[0, -1]]), ends, rtol=1e-5)
        np.testing.assert_allclose(np.diff(level), np.diff(level)[0], rtol=1e-9)
        np.testing.assert_allclose(np.diff(angle), np.diff(angle)[0], rtol=1e-6)
    # The cosine grid of the cosine schedule is even in time, from the prior itself.
    even = cosine(Process(Cosine()), 8)
    assert even[0] == 1.0
    np.testing.assert_allclose(np.diff(even[:-1]), np.diff(even)[0], rtol=1e-9)
    assert cosine(Process(RectifiedFlow()), 5)[0] == 1.0


def test_the_usual_grid_of_a_chain_has_an_end_where_the_chain_ends_in_noise():
    chain = Betas.linear(100)
    assert default_grid(Process(chain), DPMSolverMultistep()) == "karras"
    endless = Process(chain.zero_terminal_snr())
    assert default_grid(endless, DPMSolverMultistep()) == "uniform-time"
    assert make_grid(endless, DPMSolverMultistep(), "auto", 5)[0] == 100


@pytest.mark.parametrize("schedule", ENDLESS, ids=lambda s: type(s).__name__)
def test_a_users_schedule_that_ends_in_noise_is_treated_as_cosine_is(schedule):
    own, known = Process(schedule), Process(Cosine())
    assert default_grid(own, Heun()) == default_grid(known, Heun()) == "uniform-time"
    assert make_grid(own, EulerMaruyama(), "uniform-time", 5)[0] == 0.999
    with pytest.raises(ValueError, match="α = 0 and g is infinite"):
        EulerMaruyama().check(own, uniform_time(own, 5))
    for build in (karras, uniform_log_snr, uniform_sigma):
        with pytest.raises(ValueError, match="σ/α is infinite at the prior"):
            build(own, 5)
    assert fixed_grids(own, 8).keys() == fixed_grids(known, 8).keys()
    for grid in (*fixed_grids(own, 8).values(), reference_grid(own, 50)):
        assert grid[0] == 1.0
        check_grid(own, grid)


def test_a_beta_grid_lies_at_the_quantiles_of_its_law():
    """Beta(½, ½) has the distribution function (2/π) arcsin √u; Beta(1, 1) is even, and a chain's times are whole."""
    process = Process(VP())
    levels = np.linspace(1, 0, 9)
    np.testing.assert_allclose(beta_quantiles(process, 8, 0.5, 0.5), np.sin(np.pi / 2 * levels) ** 2, atol=1e-12)
    np.testing.assert_allclose(beta_quantiles(process, 8, 1.0, 1.0), levels, atol=1e-12)
    # Where one is 1, F = u^a or 1 − (1 − u)^b.
    np.testing.assert_allclose(beta_quantiles(process, 8, 3.0, 1.0), levels ** (1 / 3), atol=1e-12)
    np.testing.assert_allclose(beta_quantiles(process, 8, 1.0, 3.0), 1 - (1 - levels) ** (1 / 3), atol=1e-12)
    np.testing.assert_array_equal(beta_quantiles(Process(Betas.linear(9)), 9), np.arange(9, -1, -1))
    with pytest.raises(ValueError, match=r"beta: b = 0\.0; give a positive number"):
        beta_quantiles(process, 8, 0.5, 0.0)
