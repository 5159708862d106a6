"""Solvers of the reverse SDE follow one Brownian path: finer grids lead to the same sample, at strong order 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convergence import PROCESSES, grid_of, line, observed_order

from diffusion import EDM, Process
from diffusion import keys as keys_lib
from diffusion.brownian import BrownianIncrement
from samplers import (
    DDIM,
    ERSDE,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    SDEDPMSolver,
    StochasticHeun,
    karras,
    sample,
)
from samplers.sample import path_clock

KEY, BATCH = jax.random.key(0), 64
STEPS, REFERENCE = (16, 32, 64, 128), 1024
REVERSE_SDE = [EulerMaruyama(), StochasticHeun(), SDEDPMSolver(), Ancestral(), DDIM(eta=1.0)]


@functools.cache
def start(process_name):
    return line().sample_marginal(
        jax.random.key(1), PROCESSES[process_name], BATCH, grid_of(PROCESSES[process_name], 1)[0]
    )


def run_on_paths(process_name, sampler):
    """A function from a number of steps to x at their end, compiled once: what `sample` does, on a padded grid."""
    process, x = PROCESSES[process_name], start(process_name)
    denoise = line().denoiser(process)
    keys = keys_lib.sample_keys(KEY, jnp.arange(BATCH))
    paths = keys_lib.fold(keys, 1_000_099)

    @jax.jit
    def run(grid, steps):
        clock = path_clock(process, grid)

        def body(i, state):
            draws = BrownianIncrement(keys_lib.fold(keys, i + 1), paths, clock[i], clock[i + 1])
            return sampler.step(draws, *state, grid[i], grid[i + 1], process, denoise)

        return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]

    def of_steps(steps):
        grid = grid_of(process, steps)
        return run(jnp.asarray(np.pad(grid, (0, REFERENCE - steps), mode="edge")), steps)

    return of_steps


@functools.cache
def reference(process_name):
    return run_on_paths(process_name, StochasticHeun())(REFERENCE)


@pytest.mark.parametrize("process_name", ["VP", "EDM"])
@pytest.mark.parametrize("sampler", REVERSE_SDE, ids=lambda sampler: type(sampler).__name__)
def test_observed_strong_order(sampler, process_name, x64):
    """All of them have one limit, the reverse SDE along this path. The median: a path may pass between the humps."""
    run, exact = run_on_paths(process_name, sampler), reference(process_name)
    errors = [float(jnp.median(jnp.abs(run(steps) - exact))) for steps in STEPS]
    assert observed_order(STEPS, errors) > sampler.strong_order - 0.15, errors
    assert errors[-1] < 0.02


def test_another_sde_has_a_limit_of_its_own(x64):
    run = run_on_paths("VP", ERSDE())
    exact = run(REFERENCE)
    errors = [float(jnp.median(jnp.abs(run(steps) - exact))) for steps in STEPS]
    assert observed_order(STEPS, errors) > 0.85, errors
    assert float(jnp.median(jnp.abs(exact - reference("VP")))) > 0.1


def test_sample_takes_the_path_on_request(x64):
    process, grid = PROCESSES["VP"], grid_of(PROCESSES["VP"], 32)
    arguments = (KEY, process, line().denoiser(process), EulerMaruyama(), grid, (BATCH, 1))
    on_path = sample(*arguments, x_init=start("VP"), brownian_tree=True).x
    np.testing.assert_allclose(on_path, run_on_paths("VP", EulerMaruyama())(32), rtol=1e-9)
    # Without it the noise of another grid is another noise: nothing to converge to.
    apart = sample(*arguments, x_init=start("VP")).x
    assert float(jnp.median(jnp.abs(apart - reference("VP")))) > 0.1


def shrunk(x, t):
    return x / (1 + t)


def test_samples_on_paths_keep_their_seeds():
    process = Process(EDM())

    def draw(ids):
        shape = (len(ids), 2)
        return sample(KEY, process, shrunk, SDEDPMSolver(), karras(process, 5), shape, ids=ids, brownian_tree=True).x

    np.testing.assert_allclose(draw(np.asarray([4, 2])), draw(np.arange(5))[np.asarray([4, 2])], rtol=1e-5)


@pytest.mark.parametrize(
    "sampler", [Heun(S_churn=5.0), AnnealedLangevin(), PredictorCorrector(), DDIM()], ids=lambda s: type(s).__name__
)
def test_noise_that_is_no_path_s_is_refused(sampler):
    process = Process(EDM())
    with pytest.raises(ValueError, match="does not follow a Brownian path"):
        sample(KEY, process, lambda x, t: x, sampler, karras(process, 5), (1, 2), brownian_tree=True)


def test_steps_below_the_path_s_resolution_are_refused():
    process, grid = Process(EDM()), np.asarray([1.0, 1.0 - 1e-7, 0.0])
    with pytest.raises(ValueError, match="use fewer steps"):
        sample(KEY, process, lambda x, t: x, EulerMaruyama(), grid, (1, 2), brownian_tree=True)
