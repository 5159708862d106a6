"""A chain read between its times: what is kept of it, how smooth the rest is, and the flow that it has."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import VP, Betas, InterpolatedBetas, Preconditioning, Process, continuous
from diffusion import keys as keys_lib
from diffusion.interpolated import _falling, _spline_slopes
from diffusion.oracles import GaussianLaw
from diffusion.prediction import eps_from_x0, network_input
from samplers import DDIM, RK4, DPMSolverMultistep, Heun, sample

LONG = {  # of one length, so that a function is compiled once for all of them
    "linear": Betas.linear_rate(100),
    "cosine": Betas.cosine(100),
    "rough": Betas.from_betas(-np.expm1(-(10.0 ** np.random.default_rng(0).uniform(-5, 0, 100)))),
    "noise": Betas.linear(100, 1e-3, 0.3).zero_terminal_snr(),
}
CHAINS = {
    **LONG,
    "one": Betas.from_betas([0.9]),
    "all-noise": Betas.from_betas([1.0]),
    "noise-short": Betas.from_betas([0.1, 1.0]),
}
READINGS = {name: InterpolatedBetas.through(chain) for name, chain in CHAINS.items()}
QUANTITIES = ("log_alpha", "alpha", "variance", "sigma", "log_snr", "prior_std", "alpha_dot", "sigma_dot")


@functools.partial(jax.jit, static_argnames="names")
def numbers(schedule, t, names):
    """These quantities at the times."""
    return {name: getattr(schedule, name)(t) for name in names}


level_times = jax.jit(lambda schedule, log_snr: schedule.time_from_log_snr(log_snr))


@pytest.mark.parametrize("name", CHAINS)
def test_at_the_times_of_the_chain_it_is_the_chain(name):
    chain, reading = CHAINS[name], READINGS[name]
    times = np.arange(chain.steps + 1, dtype=np.float32)
    jax.tree.map(np.testing.assert_array_equal, *(numbers(one, times, QUANTITIES[:6]) for one in (reading, chain)))
    ends = ("t_max", "t_min", "ends_in_noise", "steps")
    assert all(getattr(reading, end) == getattr(chain, end) for end in ends)
    assert not reading.discrete
    assert reading.is_noise_at(chain.steps) is chain.ends_in_noise
    assert not reading.is_noise_at(chain.steps - 0.5)


@pytest.mark.parametrize("name", LONG)
def test_noise_grows_without_a_bend_in_between(name, x64):
    """α falls, σ rises, no slope jumps at a time of the chain, and a level has one time."""
    reading = READINGS[name]
    between = np.linspace(0, reading.steps, 37 * reading.steps + 1)
    found = numbers(reading, between, QUANTITIES)
    assert np.all(np.diff(found["alpha"]) <= 0)
    assert np.all(np.diff(found["variance"]) >= 0)
    np.testing.assert_allclose(found["alpha"] ** 2 + found["variance"], 1, atol=1e-14)
    inner = np.resize(np.arange(1.0, reading.steps), len(between))
    at, before, after = (numbers(reading, inner + shift, QUANTITIES)["alpha_dot"] for shift in (0, -1e-9, 1e-9))
    np.testing.assert_allclose(before, after, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(before, at, rtol=1e-6, atol=1e-8)
    back = level_times(reading, found["log_snr"])
    again = numbers(reading, back, QUANTITIES)["log_snr"]
    np.testing.assert_allclose(again[3:-3], found["log_snr"][3:-3], atol=1e-9)


def test_the_end_of_a_chain_in_noise_is_reached_with_a_finite_velocity(x64):
    reading = READINGS["noise"]
    found = numbers(reading, np.linspace(99, 100, 3701), QUANTITIES)
    assert found["alpha"][-1] == 0
    assert np.all(np.isfinite(found["alpha_dot"]))
    assert np.all(found["alpha_dot"] < 0)
    assert np.all(np.isfinite(found["sigma_dot"]))


def test_a_chain_taken_from_a_smooth_schedule_is_nearly_that(x64):
    """The spline's error is of fourth order in the spacing of the times, to the ends; in α's slope of third."""
    errors = []
    for steps in (20, 40, 80):
        log_alphas = np.asarray(VP().log_alpha(np.linspace(0, 1, steps + 1)), np.float64) * 0.7
        log_alphas *= 1 + 0.3 * np.sin(3 * np.linspace(0, 1, steps + 1))
        reading = InterpolatedBetas.through(Betas(log_alphas))
        u = np.linspace(0, 1, 7 * steps + 3)
        exact = np.asarray(VP().log_alpha(u)) * 0.7 * (1 + 0.3 * np.sin(3 * u))
        errors.append(np.abs(reading.log_alpha(u * steps) - exact).max())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(slopes > 3.7), slopes
    assert errors[-1] < 1e-6


def test_the_spline_has_a_continuous_second_derivative_and_is_bent_only_where_it_would_rise():
    smooth = -np.cumsum(1 + 0.1 * np.random.default_rng(0).random(30))
    slopes, rises = _spline_slopes(smooth), np.diff(smooth)
    after = 6 * rises - 4 * slopes[:-1] - 2 * slopes[1:]
    before = -6 * rises + 2 * slopes[:-1] + 4 * slopes[1:]
    np.testing.assert_allclose(before[:-1], after[1:], atol=1e-12)
    np.testing.assert_array_equal(_falling(smooth, slopes), slopes)
    rough = LONG["rough"].log_alphas
    assert np.any(_falling(rough, _spline_slopes(rough)) != _spline_slopes(rough))


def test_long_chains_tend_to_the_variance_preserving_sde(x64):
    """Song et al. 2021, appendix B: the difference goes like 1/T."""
    u = np.linspace(0.01, 1, 50)
    gaps = [
        np.abs(InterpolatedBetas.through(Betas.linear_rate(steps)).alpha(u * steps) - VP().alpha(u)).max()
        for steps in (200, 400, 800)
    ]
    np.testing.assert_allclose(np.divide(gaps[:-1], gaps[1:]), 2, rtol=0.1)


def test_other_processes_stay_as_they_are():
    process = Process(VP())
    assert continuous(process) is process
    reading = continuous(Process(CHAINS["cosine"]))
    assert isinstance(reading.schedule, InterpolatedBetas)
    assert continuous(reading) is reading


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_a_network_is_told_the_fractional_time_and_none_below_the_first(kind):
    chain = Process(CHAINS["cosine"])
    x, times = jnp.ones((4, 2)), jnp.asarray([0.25, 1.0, 7.5, 100.0])
    told = network_input(Preconditioning(kind), continuous(chain), x, times)[1]
    np.testing.assert_allclose(told, [10, 10, 75, 1000], rtol=1e-6)
    whole = jnp.asarray([1.0, 2.0, 57.0, 100.0])
    for there, here in zip(
        network_input(Preconditioning(kind), chain, x, whole),
        network_input(Preconditioning(kind), continuous(chain), x, whole),
        strict=True,
    ):
        np.testing.assert_array_equal(there, here)


LAW = GaussianLaw.isotropic(np.asarray([0.3, -0.7]), 0.4)


def flow(process, x, t, s):
    """Where the flow of the Gaussian law takes x from t to s: the standardised x stays what it is."""
    (before, after), (noisy, cleaner) = process.alpha(np.asarray([t, s])), process.sigma(np.asarray([t, s]))
    growth = np.sqrt(((0.4 * after) ** 2 + cleaner**2) / ((0.4 * before) ** 2 + noisy**2))
    return after * LAW.center + growth * (x - before * LAW.center)


@jax.jit
def step(sampler, process, x, carry, t, s):
    """A step for the law, compiled once for grids of every length."""
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(2, dtype=jnp.uint32))
    return sampler.step(keys, x, carry, t, s, process, LAW.denoiser(process))


def walk(process, sampler, grid, x):
    """Where the sampler ends."""
    x, carry = jnp.asarray(x), sampler.init(jnp.asarray(x), jnp.asarray(grid))
    for t, s in itertools.pairwise(grid):
        x, carry = step(sampler, process, x, carry, t, s)
    return x


@pytest.mark.parametrize(("sampler", "order"), [(RK4(), 4), (DPMSolverMultistep(order=2, start="lower-order"), 2)])
def test_solvers_follow_the_flow_of_a_gaussian_to_their_order(sampler, order, x64):
    process = continuous(Process(CHAINS["linear"]))
    x = np.random.default_rng(0).standard_normal((2, 2))
    start, end = 90.5, 3.25
    exact, errors = flow(process, x, start, end), []
    for steps in (30, 60, 120):
        levels = np.linspace(process.schedule.log_snr(start), process.schedule.log_snr(end), steps + 1)
        errors.append(np.abs(walk(process, sampler, level_times(process.schedule, levels), x) - exact).max())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert slopes[-1] > order - 0.3, (errors, slopes)
    assert errors[-1] < {2: 2e-3, 4: 1e-4}[order]


@pytest.mark.parametrize("name", ["linear", "noise"])
def test_ddim_on_the_times_of_the_chain_is_the_exponential_euler_of_the_reading(name, x64):
    """x/α goes along ε̂ by Δ(σ/α), with the reading's numbers and its denoiser at the start of each step."""
    chain = Process(CHAINS[name])
    reading, steps = continuous(chain), CHAINS[name].steps
    grid = np.append(np.arange(steps, 0, -steps // 8)[:8], 0).astype(float)
    x = np.random.default_rng(1).standard_normal((2, 2))
    key, answer = jax.random.key(0), LAW.denoiser(reading)
    there = sample(key, chain, LAW.denoiser(chain), DDIM(), grid, x.shape, x_init=x).x
    here = sample(key, reading, answer, DDIM(), grid, x.shape, x_init=x).x
    np.testing.assert_allclose(there, here, rtol=1e-14)
    state = jnp.asarray(x)
    for t, s in itertools.pairwise(grid):
        x_0 = answer(state, t)
        eps = eps_from_x0(reading, state, x_0, t)
        if s == 0:
            state = x_0
        elif reading.alpha(t) == 0:
            state = reading.alpha(s) * x_0 + reading.sigma(s) * eps
        else:
            ratio = [reading.sigma(time) / reading.alpha(time) for time in (t, s)]
            state = reading.alpha(s) * (state / reading.alpha(t) + (ratio[1] - ratio[0]) * eps)
    np.testing.assert_allclose(here, state, rtol=1e-9, atol=1e-12)


def test_solvers_begin_where_nothing_of_the_data_is_left(x64):
    """From α_T = 0 the velocity of the flow is finite; the first interval has the parabola's α."""
    process = continuous(Process(CHAINS["noise"]))
    x = np.random.default_rng(2).standard_normal((2, 2))
    exact, errors = flow(process, x, 100.0, 1.0), []
    for steps in (99, 198, 396):
        errors.append(np.abs(walk(process, Heun(), np.linspace(100, 1, steps + 1), x) - exact).max())
    assert errors[-1] < 1e-4
    assert np.log2(errors[-2] / errors[-1]) > 1.7


@pytest.mark.parametrize("name", ["linear", "noise"])
def test_slopes_at_the_ends_are_those_from_within(name, x64):
    """A clip's derivative at its end is half of the slope, and sampling begins at an end."""
    schedule = READINGS[name]
    h, times = 1e-6, np.asarray([0.0, float(schedule.steps)])
    found = {name: np.asarray(getattr(schedule, name)(times)) for name in ("alpha_dot", "drift", "diffusion_squared")}
    inward = np.asarray([h, -h])
    alphas, variances = (
        [np.asarray(one(times + k * inward)) for k in range(3)] for one in (schedule.alpha, schedule.variance)
    )
    (rise, spread) = ((4 * ys[1] - 3 * ys[0] - ys[2]) / (2 * inward) for ys in (alphas, variances))
    np.testing.assert_allclose(found["alpha_dot"], rise, rtol=1e-5, atol=1e-9)
    slopes = np.asarray(jax.vmap(jax.grad(schedule.variance))(jnp.asarray(times)))
    np.testing.assert_allclose(slopes, spread, rtol=1e-5, atol=1e-9)
    assert np.all(found["diffusion_squared"] >= 0)
    if not schedule.ends_in_noise:  # else both are infinite
        np.testing.assert_allclose(found["drift"], rise / alphas[0], rtol=1e-5, atol=1e-9)
        wanted = spread - 2 * rise / alphas[0] * variances[0]
        np.testing.assert_allclose(found["diffusion_squared"], wanted, rtol=1e-5, atol=1e-9)
    first = [jax.jvp(schedule.network_time, (t,), (1.0,)) for t in (0.5, 1.0, 2.5)]
    assert [(float(told), float(slope)) for told, slope in first] == [(1.0, 0.0), (1.0, 1.0), (2.5, 1.0)]


@pytest.mark.parametrize("name", ["linear", "noise"])
def test_solvers_have_their_order_from_the_very_end_of_the_chain(name, x64):
    process = continuous(Process(CHAINS[name]))
    x = np.random.default_rng(3).standard_normal((2, 2))
    exact, errors = flow(process, x, 100.0, 20.0), []
    for steps in (4, 8, 16):
        errors.append(np.abs(walk(process, RK4(), np.linspace(100, 20, steps + 1), x) - exact).max())
    assert np.log2(errors[1] / errors[2]) > 3.5, errors
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("betas", [[0.1, 0.5, 0.999, 1.0], [0.1, 0.2, 0.99, 1.0]])
def test_alpha_falls_to_none_of_the_data_however_steep_the_chain(betas, x64):
    """The cubic to 0 would swing below it from a slope of ln α under −3."""
    schedule = InterpolatedBetas.through(Betas.from_betas(betas))
    alphas = np.asarray(schedule.alpha(np.linspace(3, 4, 1001)))
    assert alphas[-1] == 0
    assert np.all(np.diff(alphas) <= 0)
    assert np.all(np.isfinite(schedule.log_alpha(np.linspace(3, 3.999, 100))))


def test_to_none_of_the_data_leads_a_parabola(x64):
    """Its third differences are 0, of the last interval alone: a wrong slope at the end would bend it."""
    schedule = InterpolatedBetas.through(Betas.linear(100).zero_terminal_snr())
    alphas = np.asarray(schedule.alpha(99 + np.arange(4) / 3))
    np.testing.assert_allclose(np.diff(alphas, 3), 0.0, atol=1e-12 * alphas[0])
    assert abs(np.diff(alphas, 2)[0]) > 1e-4 * alphas[0]
