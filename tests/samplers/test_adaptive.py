"""Any diffrax solver, with steps of its own for each sample, to the tolerance that is asked for."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process, RectifiedFlow, StudentT
from diffusion.arrays import expand
from diffusion.oracles import GaussianLaw, flow_map_1d
from diffusion.oracles.examples import line
from samplers import Euler, sample
from samplers.adaptive import calls_of, sample_adaptive
from tests.samplers.programs import chosen, coefficients, marginal

KEY = jax.random.key(0)
CONSTANT = diffrax.ConstantStepSize()


SOLVED = (VP(), RectifiedFlow())


@pytest.mark.parametrize("schedule", SOLVED, ids=lambda schedule: type(schedule).__name__)
def test_the_flow_is_solved_to_the_tolerance(schedule, x64):
    """Against the quantile map of a mixture; a thousandth of the tolerance buys a smaller error for more calls."""
    process, law, end = chosen(schedule, SOLVED), line(), 0.02 * float(schedule.t_max)
    start = 0.98 * float(schedule.t_max)
    x = marginal(law, jax.random.key(1), process, 8, start)
    exact = jax.jit(flow_map_1d)(law, process, x, start, end)
    errors, calls = [], []
    for tolerance in (1e-4, 1e-7):
        result = sample_adaptive(
            *(KEY, process, law.denoiser(process), diffrax.Tsit5(), (8, 1)),
            rtol=tolerance,
            atol=tolerance,
            t_start=start,
            t_end=end,
            to_data=False,
            x_init=x,
        )
        errors.append(float(np.max(np.abs(np.asarray(result.x) - np.asarray(exact)))))
        calls.append(np.max(np.asarray(result.nfe)))
    assert errors[0] < 0.02
    assert errors[1] < 2e-5
    assert calls[1] > calls[0]


def shrink(scale, x, t):
    return x * (scale / (scale + t**2))[:, None]


def test_a_sample_is_a_function_of_its_seed_and_may_have_a_class_of_its_own():
    """Steps are each sample's own, and what belongs to a sample finds it: here the scale of its data."""
    process = Process(EDM())

    def draw(scales, ids):
        denoise = Partial(shrink, jnp.asarray(scales))
        return sample_adaptive(KEY, process, denoise, diffrax.Tsit5(), (len(ids), 2), ids=ids)

    whole = draw([0.1, 1.0, 4.0, 9.0], np.arange(4))
    some = draw([9.0, 1.0, 2.0, 0.5], np.asarray([3, 1, 7, 8]))
    np.testing.assert_allclose(np.asarray(some.x)[:2], np.asarray(whole.x)[[3, 1]], rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(some.nfe)[:2], np.asarray(whole.nfe)[[3, 1]])
    # The exact flow of N(0, v): x_0 = x_T √(v/(v + T²)), and the last call shrinks what is left at t_min.
    shrunk = draw([0.0] * 4, np.arange(4)).x
    assert np.abs(np.asarray(shrunk)).max() == 0.0
    assert len(set(np.asarray(whole.accepted))) > 1


def test_nfe_is_the_number_of_calls():
    """Counted by the denoiser itself, on one sample: under a map, samples that have arrived are still computed."""
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return x / (1 + t[:, None] ** 2) if jnp.ndim(t) else x / (1 + t**2)

    for solver in (diffrax.Tsit5(), diffrax.Heun()):
        calls.clear()
        result = sample_adaptive(KEY, Process(EDM()), counted, solver, (1, 2), rtol=1e-3, atol=1e-3)
        result.x.block_until_ready()
        jax.effects_barrier()
        assert [len(calls)] == list(np.asarray(result.nfe))


def test_the_reverse_sde_ends_in_the_law():
    process, law, count = Process(VP()), GaussianLaw.isotropic(np.asarray([0.7]), 0.6), 500
    result = sample_adaptive(
        *(KEY, process, law.denoiser(process), diffrax.SPaRK(), (count, 1)),
        **{"level": 1.0, "rtol": 3e-2, "atol": 3e-2, "t_end": 0.05, "to_data": False},
    )
    alpha, sigma = map(float, coefficients(process, 0.05))
    mean, std = alpha * 0.7, np.hypot(alpha * 0.6, sigma)
    # Four standard errors, and the solver's own error.
    x = np.asarray(result.x)
    assert abs(x.mean() - mean) < 4 * std / np.sqrt(count) + 0.01
    assert abs(x.std() - std) < 4 * std / np.sqrt(2 * count) + 0.01
    assert len(set(np.asarray(result.nfe))) > 1


def test_steps_may_be_given():
    """diffrax's Euler with constant steps is ours on an even grid; here neither ends at the data."""
    process, law = Process(VP()), GaussianLaw.isotropic(np.asarray([0.7]), 0.6)
    grid, x = np.linspace(1.0, 0.5, 5), jax.device_put(np.asarray([[0.3], [-1.0]], np.float32))
    ours = sample(KEY, process, law.denoiser(process), Euler(), grid, (2, 1), x_init=x)
    theirs = sample_adaptive(
        *(KEY, process, law.denoiser(process), diffrax.Euler(), (2, 1)),
        **{"controller": diffrax.ConstantStepSize(), "first_step": 0.125, "t_end": 0.5, "to_data": False, "x_init": x},
    )
    np.testing.assert_allclose(theirs.x, ours.x, rtol=1e-5)
    assert list(np.asarray(theirs.nfe)) == [ours.nfe, ours.nfe]


def test_a_step_of_the_reverse_sde_has_the_noise_of_its_level(x64):
    """Euler-Maruyama by hand, under EDM with x̂_0 = 0: the drift is (1 + level²) x/t, the noise level √(2t) ΔW.

    ΔW is the same for both levels, so the noise at 2 is four times that at ½.
    """
    x, start, end = np.asarray([[1.0, -0.5]]), 2.0, 1.9
    nothing = Partial(shrink, jnp.zeros(1))

    def noise_of(level):
        result = sample_adaptive(
            *(KEY, Process(EDM()), nothing, diffrax.Euler(), (1, 2)),
            **{"controller": CONSTANT, "first_step": 0.1, "level": level, "x_init": jax.device_put(x)},
            **{"t_start": start, "t_end": end, "to_data": False},
        )
        return np.asarray(result.x) - x - (end - start) * (1 + level**2) * x / start

    least, most = noise_of(0.5), noise_of(2.0)
    assert np.abs(least).min() > 1e-3
    np.testing.assert_allclose(most, 4 * least, rtol=1e-9)


def test_the_last_answer_is_that_at_the_last_time():
    """A denoiser that answers with the time it is asked at."""
    result = sample_adaptive(
        *(KEY, Process(EDM()), lambda x, t: 0 * x + expand(t, x), diffrax.Euler(), (2, 1)),
        **{"controller": CONSTANT, "first_step": 0.5, "t_start": 2.0, "t_end": 0.25},
    )
    np.testing.assert_array_equal(result.x, np.full((2, 1), 0.25, np.float32))


def test_an_implicit_solver_is_not_counted(x64):
    """Against the flow of N(m, v): x − α m grows as √(α² v + σ²), from the first time to the last."""
    process, law, end = Process(VP()), GaussianLaw.isotropic(np.asarray([0.7]), 0.6), 0.1
    x = np.asarray([[0.3], [-1.0]])
    result = sample_adaptive(
        KEY,
        process,
        law.denoiser(process),
        diffrax.Kvaerno3(),
        (2, 1),
        rtol=1e-6,
        atol=1e-6,
        t_end=end,
        to_data=False,
        x_init=jax.device_put(x),
    )
    assert result.nfe is None
    assert calls_of(diffrax.Kvaerno3(), CONSTANT, 0.1, False) is None
    alpha, sigma = map(np.asarray, coefficients(process, np.asarray([1.0, end])))
    widths = np.hypot(alpha * 0.6, sigma)
    np.testing.assert_allclose(result.x, alpha[1] * 0.7 + widths[1] / widths[0] * (x - alpha[0] * 0.7), atol=1e-4)


def test_it_may_stand_inside_a_jitted_function():
    process, law = Process(VP()), GaussianLaw.isotropic(np.asarray([0.7]), 0.6)

    @jax.jit
    def draw(key):
        result = sample_adaptive(key, process, law.denoiser(process), diffrax.Tsit5(), (2, 1), max_steps=3)
        assert result.nfe is None
        return result.x, result.arrived

    assert not np.asarray(draw(KEY)[1]).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_steps": 3}, "did not arrive in max_steps = 3"),
        ({"rtol": -1.0}, "rtol = -1"),
        ({"atol": -1.0}, "atol = -1"),
        ({"level": -1.0}, "level = -1"),
        ({"t_start": 2.0}, "t_start = 2"),
        ({"t_end": 1.0}, "t_end the smaller"),
        ({"t_end": 0.0}, "is the data, where the score is infinite"),
        ({"solver": diffrax.Euler()}, "Euler does not estimate its error"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, words):
    process, law = Process(VP()), GaussianLaw.isotropic(np.asarray([0.7]), 0.6)
    solver = options.pop("solver", diffrax.Tsit5())
    with pytest.raises(ValueError, match=words):
        sample_adaptive(KEY, process, law.denoiser(process), solver, (2, 1), **options)


def test_what_has_no_such_equation_is_refused():
    chain, heavy, flow = Process(Betas.linear(50)), Process(EDM(), StudentT(3.0)), Process(RectifiedFlow())
    with pytest.raises(TypeError, match="no derivative in t"):
        sample_adaptive(KEY, chain, lambda x, t: x, diffrax.Tsit5(), (2, 1))
    with pytest.raises(TypeError, match="exists for Gaussian noise only"):
        sample_adaptive(KEY, heavy, lambda x, t: x, diffrax.SPaRK(), (2, 1), level=1.0)
    with pytest.raises(ValueError, match="start just below, at t_start=0"):
        sample_adaptive(KEY, flow, lambda x, t: x, diffrax.SPaRK(), (2, 1), level=1.0)
