"""Picard's iteration ends at the sequential answer: exactly, or to the tolerance that is asked for."""

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Process
from diffusion.oracles.examples import space
from samplers import (
    DDIM,
    Ancestral,
    DPMSolverMultistep,
    EulerMaruyama,
    Heun,
    Interval,
    Restart,
    UniPC,
    karras,
    sample,
    sample_parallel,
    uniform_time,
)

KEY, SHAPE = jax.random.key(0), (6, 8)
SAMPLERS = [DDIM(), Heun(), Ancestral(), EulerMaruyama(), Restart(DDIM(), (Interval(0.1, 1.0),))]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_without_tolerance_it_is_the_sequential_answer(sampler, x64):
    process, grid = Process(EDM()), karras(Process(EDM()), 10)
    denoise = space().denoiser(process)
    answer = sample(KEY, process, denoise, sampler, grid, SHAPE).x
    for window in (None, 4) if sampler in (DDIM(), Ancestral()) else (4,):
        parallel = sample_parallel(KEY, process, denoise, sampler, grid, SHAPE, tolerance=0.0, window=window)
        np.testing.assert_allclose(parallel.x, answer, rtol=1e-9, atol=1e-10)
        assert int(parallel.rounds) == 10
        assert int(parallel.steps) == 10 * (window or 10)


def test_fewer_rounds_than_steps_end_within_the_tolerance(x64):
    """On many steps: the errors shrink with the tolerance, and so do the rounds that are saved."""
    process, grid = Process(VP()), uniform_time(Process(VP()), 100)
    denoise = space().denoiser(process)
    answer = sample(KEY, process, denoise, DDIM(), grid, SHAPE).x
    rounds, errors = [], []
    for tolerance in (1e-1, 1e-3, 1e-5):
        parallel = sample_parallel(KEY, process, denoise, DDIM(), grid, SHAPE, tolerance=tolerance)
        rounds.append(int(parallel.rounds))
        errors.append(np.sqrt(np.mean((np.asarray(parallel.x) - np.asarray(answer)) ** 2)))
    assert rounds[0] <= rounds[1] < rounds[2] < 20, rounds
    # The last change is at most the tolerance times the σ before the data's end; the changes before it add to that.
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def scaled(unit, denoise, x, t):
    return unit * denoise(x / unit, t / unit)


def test_the_tolerance_is_one_of_the_noise_and_has_no_unit(x64):
    """Data, noise and grid ten times as large: the same rounds, and samples ten times as large."""
    process, denoise = Process(EDM()), space().denoiser(Process(EDM()))
    x = 5.0 * np.random.default_rng(3).normal(size=SHAPE)
    rounds = []
    for unit in (1.0, 10.0):
        grid = unit * np.geomspace(5.0, 0.05, 41)
        larger = Partial(scaled, np.asarray(unit), denoise)
        found = sample_parallel(
            KEY, process, larger, DDIM(), grid, SHAPE, tolerance=1e-3, x_init=jax.device_put(unit * x)
        )
        rounds.append((int(found.rounds), np.asarray(found.x) / unit))
    assert rounds[0][0] == rounds[1][0] < 40
    np.testing.assert_allclose(rounds[1][1], rounds[0][1], rtol=1e-10)


def test_ids_and_a_start_may_be_given():
    process, grid = Process(EDM()), karras(Process(EDM()), 6)
    denoise, ids = space().denoiser(process), np.asarray([3, 1, 7, 8])
    whole = sample_parallel(KEY, process, denoise, Ancestral(), grid, (4, 8), tolerance=0.0).x
    some = sample_parallel(KEY, process, denoise, Ancestral(), grid, (4, 8), tolerance=0.0, ids=ids).x
    np.testing.assert_allclose(np.asarray(some)[:2], np.asarray(whole)[ids[:2]], rtol=1e-4, atol=1e-5)
    x = jax.device_put(np.ones((4, 8), np.float32))
    given = sample_parallel(KEY, process, denoise, DDIM(), grid, (4, 8), tolerance=0.0, x_init=x).x
    np.testing.assert_allclose(
        given, sample(KEY, process, denoise, DDIM(), grid, (4, 8), x_init=x).x, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sampler", [DPMSolverMultistep(), UniPC()], ids=lambda sampler: type(sampler).__name__)
def test_a_method_with_a_memory_is_refused(sampler):
    process = Process(EDM())
    with pytest.raises(ValueError, match="remembers its last steps"):
        sample_parallel(KEY, process, space().denoiser(process), sampler, karras(process, 6), SHAPE)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tolerance": -1.0}, "tolerance = -1"), ({"window": 7}, "window = 7"), ({"window": 0}, "window = 0")],
)
def test_bad_options_are_refused_in_a_sentence(options, words):
    process = Process(EDM())
    with pytest.raises(ValueError, match=words):
        sample_parallel(KEY, process, space().denoiser(process), DDIM(), karras(process, 6), SHAPE, **options)
