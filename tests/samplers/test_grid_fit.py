"""A fitted grid is better than every fixed one: where it was fitted, and on laws that it was not fitted to."""

import jax
import numpy as np
import pytest

from diffusion import EDM, Betas, Process, RectifiedFlow
from diffusion.oracles import GaussianMixture
from diffusion.pytree import as_partial
from samplers import DPMSolverMultistep, EulerMaruyama, optimised_grid, uniform_time
from samplers.grid_fit import fixed_grids, reference_grid
from samplers.sample import run_steps
from tests.samplers.programs import chosen, coefficients

KEY, STEPS = jax.random.key(0), 8
FITTED = (EDM(), RectifiedFlow())


def mixture(seed, dimensions, humps):
    rng = np.random.default_rng(seed)
    return GaussianMixture.isotropic(
        means=0.6 * rng.normal(size=(humps, dimensions)),
        stds=rng.uniform(0.15, 0.3, size=humps),
        weights=rng.dirichlet(5 * np.ones(humps)),
    )


def errors(process, law, sampler, grids, reference):
    """Median distances to a fine solution, from starts that no fit has seen.

    The median of the samples, not their mean square: that is made by the few paths that a small error sends to another
    hump, and these are other ones on every grid.
    """
    drawn = np.random.default_rng(9).normal(size=(128, law.means.shape[-1]))
    x = jax.device_put(float(coefficients(process, float(process.t_max))[1]) * drawn)
    denoise = as_partial(law.denoiser(process))
    exact = run_steps(process, denoise, DPMSolverMultistep(order=3), jax.device_put(reference), x)
    ends = [run_steps(process, denoise, sampler, jax.device_put(grid), x) for grid in grids]
    return [np.median(np.linalg.norm(np.asarray(end) - np.asarray(exact), axis=1)) for end in ends]


@pytest.mark.parametrize("schedule", FITTED, ids=lambda s: type(s).__name__)
def test_it_beats_every_fixed_grid_on_laws_it_was_not_fitted_to(schedule, x64):
    process, sampler = chosen(schedule, FITTED), DPMSolverMultistep()
    fitted = optimised_grid(KEY, process, mixture(0, 16, 5).denoiser(process), sampler, STEPS, (128, 16))
    assert fitted.grid.shape == (STEPS + 1,)
    assert fitted.grid[0] == float(schedule.t_max)
    assert fitted.grid[-1] == 0
    assert np.all(np.diff(fitted.grid) < 0)
    assert fitted.error < 0.5 * fitted.error_before
    grids = [fitted.grid, *fixed_grids(Process(schedule), STEPS).values()]
    reference = reference_grid(Process(schedule), 300 - schedule.ends_in_noise)  # of 300 steps
    for other in (mixture(1, 2, 4), mixture(2, 16, 3), mixture(3, 32, 8)):
        mine, *fixed = errors(process, other, sampler, grids, reference)
        assert mine < 0.9 * min(fixed)


@pytest.mark.parametrize("schedule", FITTED, ids=lambda s: type(s).__name__)
def test_every_fixed_grid_is_there_to_begin_from(schedule):
    """Also those in σ/α where that is infinite at the prior, whose time then comes before them."""
    process = Process(schedule)
    found = fixed_grids(process, STEPS)
    assert set(found) == {"uniform-time", "cosine", "karras 3", "karras 5", "karras 7", "uniform-log-snr"}
    for grid in found.values():
        assert (len(grid), grid[0], grid[-1]) == (STEPS + 1, float(process.t_max), 0.0)


def test_the_error_is_what_it_says_and_never_above_the_candidates(x64):
    """With no rounds at all the best of the candidates comes back."""
    process, law = Process(EDM()), mixture(0, 2, 3)
    candidates = {"mine": uniform_time(process, STEPS), **fixed_grids(process, STEPS)}
    arguments = (KEY, process, law.denoiser(process), DPMSolverMultistep(), STEPS, (16, 2))
    kept = optimised_grid(*arguments, rounds=0, candidates=candidates)
    assert kept.error <= kept.error_before
    assert optimised_grid(*arguments, rounds=2, candidates={"mine": candidates["mine"]}).before == "mine"
    again = optimised_grid(*arguments, rounds=0, candidates={"kept": kept.grid})
    np.testing.assert_allclose(again.error_before, kept.error, rtol=1e-9)


@pytest.mark.parametrize(
    ("sampler", "steps", "words"), [(EulerMaruyama(), 8, "is stochastic"), (DPMSolverMultistep(), 1, "steps = 1")]
)
def test_what_cannot_be_fitted_is_refused(sampler, steps, words):
    process, law = Process(EDM()), mixture(0, 2, 3)
    with pytest.raises(ValueError, match=words):
        optimised_grid(KEY, process, law.denoiser(process), sampler, steps, (4, 2))


def test_where_every_grid_is_exact_the_best_candidate_comes_back():
    found = optimised_grid(KEY, Process(EDM()), lambda x, t: 0.0 * x, DPMSolverMultistep(), 4, (4, 2), rounds=2)
    assert found.error == found.error_before == 0.0


@pytest.mark.parametrize(
    ("candidates", "words"),
    [({}, "candidates is empty"), ({"short": np.asarray([80.0, 1.0, 0.0])}, "the candidate short has 2 steps")],
)
def test_candidates_that_do_not_fit_are_refused(candidates, words):
    with pytest.raises(ValueError, match=words):
        optimised_grid(KEY, Process(EDM()), lambda x, t: x, DPMSolverMultistep(), 4, (4, 2), candidates=candidates)


def test_a_chain_is_refused():
    process, law = Process(Betas.linear(50)), mixture(0, 2, 3)
    with pytest.raises(TypeError, match="no derivative in t"):
        optimised_grid(KEY, process, law.denoiser(process), DPMSolverMultistep(), 8, (4, 2))
