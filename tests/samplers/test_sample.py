"""The loop: seeds that never move, one compilation, honest counts, exact last steps, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, StudentT, SubVP
from diffusion import keys as keys_lib
from diffusion.ddpm.reverse_steps import FixedLarge
from diffusion.pytree import as_traced
from samplers import (
    DDIM,
    DEIS,
    ERSDE,
    IPNDM,
    RK4,
    Ancestral,
    AnnealedLangevin,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    EulerMaruyama,
    Heun,
    Interval,
    Midpoint,
    PredictorCorrector,
    Restart,
    SDEDPMSolver,
    StochasticHeun,
    UniPC,
    karras,
    sample,
    uniform_log_snr,
    uniform_time,
)
from samplers.inpainting import RePaint
from tests.samplers.programs import chosen

CHURNED = Heun(S_churn=5.0, S_min=0.01, S_max=50.0)
ODE = [
    *(DDIM(), Euler(), Heun(), RK4(), Midpoint(), DPMSolverSinglestep(order=3), DPMSolverMultistep()),
    *(DPMSolverMultistep(order=3), DEIS(order=4), IPNDM(), UniPC(order=3)),
]
SDE = [
    *(Ancestral(FixedLarge()), DDIM(eta=1.0), EulerMaruyama(), CHURNED),
    *(SDEDPMSolver(order=3), ERSDE(), Restart(intervals=(Interval(0.1, 1.0, 1, 2),))),
    *(StochasticHeun(), PredictorCorrector(), AnnealedLangevin(repeats=2)),
]
CALLS = {PredictorCorrector: 2, Heun: 2, StochasticHeun: 2, RK4: 4, Midpoint: 2, DPMSolverSinglestep: 3}
"""Denoiser calls in a step that does not end at the data, where it is not one."""
KEY = jax.random.key(3)
STEPS = 4


def name(value):
    return value if isinstance(value, str) else repr(value)


MIDDLE = 0.3
TRACES, CALLED = [], []


def shrink(scale, x, t):
    """A denoiser with a parameter: E[x_0 | x] for N(0.3, scale) data on EDM, for a scale of 0 that of a point."""
    TRACES.append(1)
    return MIDDLE + scale / (scale + t**2) * (x - MIDDLE)


def kind(value):
    return type(value).__name__


def counted(scale, x, t):
    """The same, each call of which is counted when it is computed."""
    jax.debug.callback(lambda: CALLED.append(1))
    return shrink(scale, x, t)


DENOISE = Partial(shrink, jnp.float32(0.5))


DRAWING = (Ancestral, Restart, PredictorCorrector, AnnealedLangevin)
"""The ways to draw noise: one draw a step, as in all that are not here, or with numbers of its own."""
OTHER_OPTIONS = {
    DDIM: DDIM(eta=0.3),
    EulerMaruyama: EulerMaruyama(level=0.5),
    Heun: Heun(S_churn=2, S_min=0.1, S_max=40, S_noise=1.003),
    SDEDPMSolver: SDEDPMSolver(order=3, level=0.5),
    ERSDE: ERSDE(power=0.2, offset=3.0),
    Restart: Restart(Heun(), (Interval(0.2, 2.0, 1, 2),)),
    StochasticHeun: StochasticHeun(level=0.5),
    PredictorCorrector: PredictorCorrector(snr=0.1),
    AnnealedLangevin: AnnealedLangevin(repeats=2, size=0.2),
}


def expected_calls(sampler, to_data):
    """Denoiser calls in STEPS steps."""
    calls_a_step, start = CALLS.get(type(sampler), 1), getattr(sampler, "extra", 0)
    if isinstance(sampler, AnnealedLangevin):  # as many at the last level, and the jump
        calls_a_step, start = 2, 2 * to_data
    if isinstance(sampler, Restart):  # one interval of two steps, two calls each
        calls_a_step, start = 2, 4
    return calls_a_step * STEPS - (calls_a_step - 1) * to_data + start


MIDPOINTS = (
    Midpoint(),
    DPMSolverSinglestep(order=3),
    StochasticHeun(),
    DPMSolverMultistep(order=4, start="single-step"),
)
WRAPPED = (
    Restart(Midpoint(), (Interval(0.3, 1.0, 2, 2),)),
    RePaint(Midpoint(), np.zeros(2), np.zeros(2, bool), resamplings=3, jump=2),
    RePaint(MIDPOINTS[3], np.zeros(2), np.zeros(2, bool), resamplings=3, jump=1),
)


def test_a_chain_needs_times_at_the_thirds_for_order_three():
    """Of 5 -> 2 both are there, 4 and 3; of 5 -> 3 only one, which is enough for order two. From no signal none is
    asked for."""
    chain = Process(Betas.linear(20))
    DPMSolverSinglestep(order=3).check(chain, np.asarray([5.0, 2.0, 0.0]))
    DPMSolverSinglestep(order=2).check(chain, np.asarray([5.0, 3.0, 0.0]))
    with pytest.raises(ValueError, match=r"no 2 time\(s\) between 5 and 3 for a method of order 3"):
        DPMSolverSinglestep(order=3).check(chain, np.asarray([5.0, 3.0, 0.0]))
    endless = Process(Betas.linear(20).zero_terminal_snr())
    DPMSolverSinglestep(order=3).check(endless, np.asarray([20.0, 19.0, 0.0]))


@pytest.mark.parametrize("sampler", MIDPOINTS + WRAPPED + (Heun(), PredictorCorrector()), ids=name)
def test_calls_from_no_signal_are_counted(sampler):
    """A step from α = 0 is of first order, and costs one call where others cost more; so do they in a chain."""
    flow, chain = Process(RectifiedFlow()), Process(Betas.linear(60).zero_terminal_snr())
    kinds = [(flow, uniform_time(flow, 6)), (flow, uniform_time(flow, 6)[:-1]), (flow, uniform_time(flow, 6)[1:])]
    if sampler in MIDPOINTS:
        kinds += [(chain, uniform_time(chain, 6))]
    if sampler in MIDPOINTS[:3]:
        kinds += [(flow, np.asarray([1.0, 0.0])), (flow, np.asarray([1.0, 0.5]))]
    for process, grid in kinds:
        CALLED.clear()
        result = sample(KEY, process, Partial(counted, jnp.float32(0.5)), sampler, grid, (1, 2))
        result.x.block_until_ready()
        jax.effects_barrier()
        assert len(CALLED) == result.nfe
        assert result.nfe <= sampler.nfe(len(grid) - 1, bool(grid[-1] == 0))


@pytest.mark.parametrize("sampler", ODE + SDE, ids=name)
def test_samples_keep_their_seeds_and_programs_their_compilations(sampler):
    """Sample i is a function of (key, i): at another place, in another company and, where there is a way of its own to
    draw noise, alone. New weights, σ_max, grid values and options trace nothing. And `nfe` is the number of calls."""

    def draw(ids, weight=0.5, sigma_max=80.0, sampler=sampler, to_data=True):
        process = Process(EDM(sigma_max=sigma_max))
        denoise = Partial(counted, jnp.float32(weight))
        grid = karras(process, STEPS) if to_data else karras(process, STEPS + 1)[:-1]
        CALLED.clear()
        result = sample(KEY, process, denoise, sampler, grid, (len(ids), 3), ids=ids)
        result.x.block_until_ready()
        jax.effects_barrier()
        assert len(CALLED) == result.nfe == expected_calls(sampler, to_data)
        assert result.trajectory is None
        return np.asarray(result.x)

    whole, seven = draw(np.arange(64)), np.asarray([9, 63, 0, 31, 5, 6, 7])
    company = np.concatenate([seven, np.arange(100, 157)])
    assert len(np.unique(whole[:, 0])) == 64
    count = len(TRACES)
    assert count > 0
    np.testing.assert_allclose(draw(company)[:7], whole[seven], rtol=1e-5, atol=1e-6)
    draw(company, to_data=False)
    changed = draw(company, 0.7, 60, OTHER_OPTIONS.get(type(sampler), sampler))
    assert len(TRACES) == count
    assert not np.allclose(whole[seven], changed[:7])

    if sampler == DDIM() or isinstance(sampler, DRAWING):
        np.testing.assert_allclose(draw(np.asarray([5])), whole[5:6], rtol=1e-5, atol=1e-6)


def test_samples_do_not_depend_on_the_number_of_devices():
    """Of a sampler that draws noise at the start and on the way."""
    sampler, process, grid = Ancestral(), Process(EDM()), karras(Process(EDM()), 4)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    ids = jax.device_put(jnp.arange(8), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    assert len(ids.sharding.device_set) == 4
    spread = sample(KEY, process, DENOISE, sampler, grid, (8, 3), ids=ids).x
    alone = sample(KEY, process, DENOISE, sampler, grid, (8, 3)).x
    np.testing.assert_allclose(spread, alone, rtol=1e-5)


def bent(x, t, xp=jnp):
    """A denoiser that is linear in nothing: enough where no law is needed, and quick to compile."""
    return xp.tanh(x) + 0.1 * xp.cos(t)


SCHEDULES = (VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow())


FROM_FINITE = (EulerMaruyama, Restart, SDEDPMSolver, ERSDE, StochasticHeun, PredictorCorrector, AnnealedLangevin)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_the_last_step_returns_the_denoiser(schedule):
    """On every process, and the rule is the same for every method: see the next test."""
    check_last_step(chosen(schedule, SCHEDULES), Euler(), 2)


FEW = [DPMSolverMultistep, DEIS, IPNDM, UniPC]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("method", FEW, ids=lambda method: method.__name__)
def test_one_and_two_steps_are_enough(method, steps):
    """Of order one and two. What does not remember its steps takes one as it takes the last of three: next test."""
    check_last_step(Process(RectifiedFlow()), method(order=steps), steps)


def check_last_step(process, sampler, steps):
    result = sample(KEY, process, bent, sampler, uniform_time(process, steps), (4, 1), keep_every=1)
    trajectory, times = np.asarray(result.trajectory), np.asarray(result.times)
    np.testing.assert_allclose(result.x, bent(trajectory[-2], times[-2], np), rtol=1e-5, atol=1e-6)
    assert trajectory.shape == (steps + 1, 4, 1)


# An order of 2 is a part of order 3, and a gradient through Heun's steps is taken by Heun itself, as one through the
# step that begins an order of 3 is by DPM-Solver++.
WITHIN = (DPMSolverMultistep(), DEIS(order=4))
DIFFERENTIATED = [
    *(sampler for sampler in ODE + SDE if not isinstance(sampler, Restart) and sampler not in WITHIN),
    *(DEIS(order=3, start="lower-order"), Restart(DDIM(), (Interval(0.1, 1.0, 1, 2),))),
]


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def total(scale, sampler, process, grid):
    """(|x|² of samples, (x, the trajectory)), and the derivative by the scale of the denoiser."""
    result = sample(KEY, process, Partial(shrink, scale), sampler, grid, (2, 2), keep_every=1)
    return jnp.sum(result.x**2), (result.x, result.trajectory)


@pytest.mark.parametrize("sampler", DIFFERENTIATED, ids=name)
def test_a_single_point_is_sampled_exactly_and_gradients_are_right(sampler, x64):
    """A point's denoiser is constant: whatever the method, no noise may be left. And d samples / d weight, against
    central differences, at the same compilation's cost.

    Three steps are enough, or as many as the order, and the last returns the denoiser's answer; where the method can
    start there, from the prior of a rectified flow, at which σ/α is infinite."""
    process = Process(EDM() if isinstance(sampler, FROM_FINITE) else RectifiedFlow())
    grid = (karras if isinstance(sampler, FROM_FINITE) else uniform_time)(process, max(3, sampler.order))

    def at(scale):
        return total(jnp.asarray(scale), as_traced(sampler), as_traced(process), grid)

    np.testing.assert_allclose(at(0.0)[0][1][0], np.full((2, 2), MIDDLE), rtol=1e-12)
    scale, h = 0.5, 1e-5
    (_, (x, trajectory)), gradient = at(scale)
    np.testing.assert_allclose(gradient, (at(scale + h)[0][0] - at(scale - h)[0][0]) / (2 * h), rtol=1e-7)
    if not isinstance(sampler, AnnealedLangevin) and sampler != CHURNED:  # which move x before they ask
        np.testing.assert_allclose(x, shrink(scale, np.asarray(trajectory)[-2], grid[-2]), rtol=1e-12)


@pytest.mark.parametrize("sampler", [DPMSolverMultistep(), DEIS(order=2), UniPC()], ids=name)
def test_two_step_methods_need_two_steps(sampler):
    process = Process(RectifiedFlow())
    with pytest.raises(ValueError, match="order 2 needs at least 2"):
        sample(KEY, process, bent, sampler, uniform_time(process, 1), (1, 1))


def test_a_chain_without_a_time_in_between_is_refused():
    process = Process(Betas.linear(50))
    with pytest.raises(ValueError, match=r"the chain has no 1 time\(s\) between 50 and 49 for a method of order 2"):
        sample(KEY, process, bent, DPMSolverSinglestep(), uniform_time(process, 50), (1, 1))
    assert np.isfinite(sample(KEY, process, bent, Midpoint(), uniform_time(process, 4), (2, 1)).x).all()
    with pytest.raises(ValueError, match=r"the chain has no 2 time\(s\) between 50 and 49 for the start of order 4"):
        sample(KEY, process, bent, DPMSolverMultistep(order=4), uniform_time(process, 50), (1, 1))
    free = DPMSolverMultistep(order=4, start="lower-order")
    assert np.isfinite(sample(KEY, process, bent, free, uniform_time(process, 50), (2, 1)).x).all()


def test_trajectory_may_be_thinned():
    process, grid = Process(EDM()), karras(Process(EDM()), 7)
    full = sample(KEY, process, DENOISE, Euler(), grid, (2, 3), keep_every=1)
    np.testing.assert_allclose(full.times, grid, rtol=1e-6)
    trajectory = np.asarray(full.trajectory)
    np.testing.assert_array_equal(trajectory[-1], full.x)
    for every, places in ((3, [0, 3, 6, 7]), (7, [0, 7]), (100, [0, 7])):
        thin = sample(KEY, process, DENOISE, Euler(), grid, (2, 3), keep_every=every)
        np.testing.assert_allclose(thin.trajectory, trajectory[places], rtol=1e-6)
        np.testing.assert_allclose(thin.times, grid[places], rtol=1e-6)


def test_start_may_be_given():
    x, grid = jnp.asarray(np.ones((2, 3), np.float32)), np.asarray([1.0, 0.5, 0.1, 0.0])
    result = sample(KEY, Process(EDM()), DENOISE, Euler(), grid, (2, 3), x_init=x, keep_every=3)
    np.testing.assert_array_equal(result.trajectory[0], x)


def test_a_gradient_s_memory_does_not_hold_every_step_s_activations():
    """A denoiser with 4,096 hidden numbers for each sample, whose state has two."""
    process, width = Process(EDM()), 4096

    def wide(weights, x, t):
        return jnp.tanh(jnp.tanh(x @ weights) @ weights.T) / (1 + t)

    def temporary(steps):
        def total(weights):
            return jnp.sum(sample(KEY, process, Partial(wide, weights), DDIM(), karras(process, steps), (64, 2)).x)

        weights = jnp.full((2, width), 1 / width)
        return jax.jit(jax.grad(total)).lower(weights).compile().memory_analysis().temp_size_in_bytes

    activations = 64 * width * 4
    assert temporary(40) - temporary(10) < 30 * activations / 10


def test_precision_follows_the_switch(x64):
    process, denoise = Process(EDM()), Partial(shrink, jnp.asarray(0.5))
    end = jax.eval_shape(lambda: sample(KEY, process, denoise, Heun(), karras(process, 3), (2, 3)).x)
    assert end.dtype == jnp.float64


def perhaps_half(is_half, x, t):
    """In bfloat16, or in the type of the state: one program for both."""
    half = shrink(0.5, x.astype(jnp.bfloat16), t.astype(jnp.bfloat16)).astype(x.dtype)
    return jnp.where(is_half, half, shrink(0.5, x, t))


def test_a_bfloat16_network_keeps_a_float32_state():
    process = Process(EDM())
    for sampler in (DDIM(), Heun(), DPMSolverMultistep(order=3), DEIS(), UniPC()):
        low, high = (
            sample(KEY, process, Partial(perhaps_half, is_half), sampler, karras(process, 8), (16, 3)).x
            for is_half in (True, False)
        )
        assert low.dtype == jnp.float32
        low, high = np.asarray(low), np.asarray(high)
        # 2⁻⁸ of relative rounding in each of 8 steps
        assert 0 < np.max(np.abs(low - high)) < 8 * 2.0**-8 * np.max(np.abs(high))


SEEN = []


def watched(x, t):
    jax.debug.callback(lambda u: SEEN.append(float(u)), t)
    return bent(x, t)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DDIM(eta=1.0), DPMSolverMultistep(), UniPC()], ids=name)
def test_the_discrete_chain_is_sampled_between_its_integers(sampler):
    process = Process(Betas.linear(50))
    for grid in (uniform_time(process, 7), karras(process, 7), uniform_log_snr(process, 7)):
        SEEN.clear()
        result = sample(KEY, process, watched, sampler, grid, (3, 1))
        result.x.block_until_ready()
        jax.effects_barrier()
        assert np.isfinite(result.x).all()
        assert sorted(SEEN, reverse=True) == list(grid[:-1])
        assert all(time == round(time) for time in SEEN)


def test_the_chain_has_no_velocity():
    process = Process(Betas.linear(50))
    with pytest.raises(TypeError, match="no derivative in t"):
        sample(KEY, process, DENOISE, Heun(), uniform_time(process, 5), (1, 2))


BAD = [
    ({"grid": np.asarray([1.0])}, "at least two times"),
    ({"grid": np.asarray([1.0, 2.0, 0.0])}, "grid rises from 1 to 2"),
    ({"grid": np.asarray([100.0, 1.0])}, r"lives on \[0, 80\]"),
    ({"grid": np.asarray([np.nan, 0.0])}, "must be finite"),
    ({"shape": (3,)}, "shape = "),
    ({"ids": np.arange(3)}, "ids has shape"),
    ({"keep_every": 0}, "keep_every = 0"),
    ({"x_init": jnp.zeros((1, 3))}, "x_init has shape"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_arguments_are_refused_in_a_sentence(change, words):
    process = Process(EDM())
    arguments = {"grid": karras(process, 3), "shape": (2, 3)} | change
    with pytest.raises(ValueError, match=words):
        sample(KEY, process, DENOISE, DDIM(), arguments.pop("grid"), arguments.pop("shape"), **arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Heun(S_churn=1.0, S_min=2.0, S_max=1.0), "leave no noise level to churn at"),
        (lambda: Heun(S_churn=1.0, S_max=0.0), "leave no noise level to churn at"),
        (lambda: Heun(S_churn=-1.0), "S_churn = -1"),
        (lambda: DDIM(eta=-0.1), "eta = -0.1"),
        (lambda: EulerMaruyama(level=-1.0), "level = -1"),
        (lambda: DPMSolverMultistep(order=5), "order = 5"),
        (lambda: DPMSolverMultistep(published=True), "published = True goes with order = 3"),
        (lambda: DPMSolverMultistep(start="warm"), "start = 'warm'"),
        (lambda: DPMSolverSinglestep(order=1), "order = 1"),
        (lambda: DPMSolverSinglestep(prediction="v"), "prediction = 'v'"),
        (lambda: DEIS(order=5), "order = 5"),
        (lambda: DEIS(polynomial="lambda"), "polynomial = 'lambda'"),
        (lambda: IPNDM(order=0), "order = 0"),
        (lambda: UniPC(order=4), "order = 4"),
        (lambda: UniPC(variant="bh3"), "variant = 'bh3'"),
        (lambda: SDEDPMSolver(level=-1.0), "level = -1"),
        (lambda: StochasticHeun(level=-1.0), "level = -1"),
        (lambda: PredictorCorrector(predictor="euler"), "predictor = 'euler'"),
        (lambda: PredictorCorrector(corrections=-1), "corrections = -1"),
        (lambda: PredictorCorrector(snr=0.0), "snr = 0"),
        (lambda: ERSDE(order=4), "order = 4"),
        (lambda: ERSDE(power=0.0), "power = 0"),
        (lambda: ERSDE(offset=-1.0), "offset = -1"),
        (lambda: AnnealedLangevin(repeats=0), "repeats = 0"),
        (lambda: AnnealedLangevin(size=5.0), "size = 5"),
    ],
)
def test_inconsistent_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("sampler", SDE, ids=name)
def test_stochastic_samplers_need_gaussian_noise(sampler):
    process = Process(EDM(), StudentT(3.0))
    with pytest.raises(TypeError, match="exists for Gaussian noise only"):
        sample(KEY, process, DENOISE, sampler, karras(process, 3), (2, 3))


def test_more_noise_than_there_is_room_for_is_refused():
    process = Process(VP())
    with pytest.raises(ValueError, match="eta = 3 asks for more noise than there is room for"):
        sample(KEY, process, DENOISE, DDIM(eta=3.0), uniform_time(process, 4), (1, 2))


def test_the_room_for_noise_is_each_step_s_own():
    """On every step σ̃² = η² σ_s² (1 − a² σ_s²/σ_t²) may be σ_s² and no more; the last, onto the data, has none."""
    process = Process(VP())
    grid = np.asarray([1.0, 0.9, 0.8, 0.4, 0.3, 0.2, 0.0])
    alpha, sigma = (np.asarray(part(grid)) for part in (process.alpha, process.sigma))
    kept = (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])) ** 2
    largest = 1 / np.sqrt(1 - kept[:-1])
    tightest = int(np.argmin(largest))
    assert 0 < tightest < len(largest) - 1
    DDIM(eta=0.999 * largest[tightest]).check(process, grid)
    with pytest.raises(ValueError, match=f"{grid[tightest]:g} -> {grid[tightest + 1]:g}; use eta <= ") as refusal:
        DDIM(eta=1.001 * largest[tightest]).check(process, grid)
    assert f"eta <= {largest[tightest]:.3g}" in str(refusal.value)


def test_euler_maruyama_refuses_an_infinite_start():
    process = Process(RectifiedFlow())
    with pytest.raises(ValueError, match=r"t_start=0\.999"):
        sample(KEY, process, DENOISE, EulerMaruyama(), uniform_time(process, 4), (1, 2))


@pytest.mark.parametrize(("key", "words"), [(jax.random.PRNGKey(0), "an array of uint32"), (3, "of type int")])
def test_a_key_of_the_old_kind_is_refused(key, words):
    """Asked directly: in the tests the run-time type checker speaks first in the functions that call it."""
    with pytest.raises(TypeError, match=f"key is {words}; give jax.random.key"):
        keys_lib.require_key(key)
    with pytest.raises(TypeError):
        sample(key, Process(EDM()), DENOISE, DDIM(), karras(Process(EDM()), 3), (2, 3))
