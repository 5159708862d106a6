"""A solver whose times and weights are fitted: exact where it can be, and nearer to the flow than every fixed one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Betas, Process, RectifiedFlow
from diffusion.oracles import GaussianLaw, GaussianMixture
from diffusion.pytree import as_partial
from samplers import (
    DDIM,
    Bespoke,
    DPMSolverMultistep,
    bespoke_fit,
    bespoke_solver,
    karras,
    optimised_grid,
    sample,
    uniform_time,
)
from samplers.bespoke_fit import _Fit, _Flow, _rooted
from samplers.bespoke_polish import pseudo_huber
from samplers.grid_fit import fixed_grids, reference_grid
from samplers.sample import run_steps
from tests.samplers.programs import bent, coefficients

KEY = jax.random.key(0)
SCHEDULES = (EDM(), VP(), RectifiedFlow())
by_name = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def mixture(seed, dimensions, humps):
    rng = np.random.default_rng(seed)
    return GaussianMixture.isotropic(
        means=0.6 * rng.normal(size=(humps, dimensions)),
        stds=rng.uniform(0.15, 0.3, size=humps),
        weights=rng.dirichlet(5 * np.ones(humps)),
    )


def drawn(process, law, solver, key=9, count=256):
    """(Where the solver ends, where the flow does) from draws that no fit has seen."""
    shape = (count, law.event_shape[0])

    x = float(coefficients(process, float(process.t_max))[1]) * jax.random.normal(jax.random.key(key), shape)
    denoise = as_partial(law.denoiser(process))
    fine = jnp.asarray(reference_grid(process, 300))
    exact = run_steps(process, denoise, DPMSolverMultistep(order=3), fine, x)
    return run_steps(process, denoise, solver, jnp.asarray(solver.times), x), exact, x


def root(residual):
    return float(np.sqrt(np.mean(np.square(np.asarray(residual)))))


@by_name
def test_with_the_weights_of_ddim_it_is_ddim(schedule, x64):
    """x_s = (σ_s/σ_t) x_t + (α_s − α_t σ_s/σ_t) x̂_0."""
    process = Process(schedule)
    grid = uniform_time(process, 6)
    alpha, sigma = (np.asarray(each) for each in coefficients(process, jnp.asarray(grid)))
    ratio = sigma[1:] / sigma[:-1]
    weights = np.zeros((6, 3))
    weights[:, 0] = alpha[1:] - alpha[:-1] * ratio
    solver = Bespoke(grid, ratio, weights)
    mine, its = (sample(KEY, process, bent, each, grid, (4, 2)).x for each in (solver, DDIM()))
    np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-12)


def test_with_the_weights_of_two_answers_it_is_the_multistep_method(x64):
    """DPM-Solver++(2M): x̂_0 and its difference from the one before, by h and r (Lu et al. 2022, algorithm 2)."""
    process = Process(EDM())
    grid = karras(process, 7)
    sigma, weights = grid, np.zeros((7, 2))
    half = -np.log(grid[:-1])
    weights[:, 0] = 1 - sigma[1:] / sigma[:-1]
    for i in range(1, 6):  # the first step and the one onto the data are of first order
        extra = weights[i, 0] * (half[i + 1] - half[i]) / (2 * (half[i] - half[i - 1]))
        weights[i] += [extra, -extra]
    solver = Bespoke(grid, sigma[1:] / sigma[:-1], weights)
    mine, its = (sample(KEY, process, bent, each, grid, (4, 2)).x for each in (solver, DPMSolverMultistep()))
    np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-12)


@by_name
def test_a_gaussian_of_two_variances_is_solved_exactly_on_any_grid(schedule, x64):
    """Each step has at least two columns, x and x̂_0, and so solves for two factors; DDIM is far from it."""
    process, law = Process(schedule), GaussianLaw.full(np.zeros(2), np.diag([0.09, 0.81]))
    flow = _Flow(KEY, process, as_partial(law.denoiser(process)), (16, 2), np.arange(16), 400)
    for grid in list(fixed_grids(process, 3).values())[:3]:
        solver, _ = _Fit(flow, 1).on(grid)
        assert root(flow.residual(solver)) < 1e-5 < 1e-3 < root(flow.residual(DDIM(), grid))


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_it_is_nearer_to_the_flow_than_every_fixed_solver(schedule, x64):
    """On draws that it has not seen, and on another law of the same kind."""
    process, law, steps = Process(schedule), mixture(0, 16, 5), 6
    found = bespoke_solver(KEY, process, law.denoiser(process), steps, (64, 16), reference_steps=100, rounds=4)
    assert found.error < 0.5 * found.error_before
    for other in (law, mixture(2, 16, 3)):
        end, exact, x = drawn(process, other, found.sampler)
        denoise = as_partial(other.denoiser(process))
        fixed = [
            root(run_steps(process, denoise, DPMSolverMultistep(), jnp.asarray(each), x) - exact)
            for each in fixed_grids(process, steps).values()
        ]
        assert root(end - exact) < min(fixed)


def test_numbers_moved_together_are_nearer_than_those_of_step_by_step(x64, monkeypatch):
    process, law = Process(EDM()), mixture(0, 16, 5)
    errors = []
    for way in (bespoke_fit.polished, lambda ends, solver, rounds: ()):
        monkeypatch.setattr(bespoke_fit, "polished", way)
        found = bespoke_solver(KEY, process, law.denoiser(process), 5, (64, 16), reference_steps=80, rounds=4)
        end, exact, _ = drawn(process, law, found.sampler)
        errors.append(root(end - exact))
    assert errors[0] < 0.8 * errors[1]


def test_the_search_has_the_loss_that_it_compares(x64):
    residual = np.random.default_rng(0).standard_cauchy((50, 3))
    for scale in (0.01, 1.0, 100.0):
        assert np.mean(_rooted(residual, scale) ** 2) == pytest.approx(pseudo_huber(residual, scale), rel=1e-12)


def test_it_is_nearer_to_the_flow_than_a_sampler_on_a_fitted_grid(x64):
    process, law = Process(EDM()), mixture(0, 16, 5)
    found, grid = (
        fit(KEY, process, law.denoiser(process), *more, 6, (64, 16), reference_steps=100, rounds=4)
        for fit, more in ((bespoke_solver, ()), (optimised_grid, (DPMSolverMultistep(),)))
    )
    assert found.error < 0.5 * grid.error


def test_the_errors_are_what_they_say(x64):
    process, law = Process(EDM()), mixture(0, 2, 3)
    found = bespoke_solver(
        KEY, process, law.denoiser(process), 4, (16, 2), reference_steps=80, rounds=0, fixed={"ddim": DDIM()}
    )
    denoise = as_partial(law.denoiser(process))
    for ids, error in ((np.arange(16), found.error_of_fit), (np.arange(16, 32), found.error)):
        flow = _Flow(KEY, process, denoise, (16, 2), ids, 80)
        end = sample(
            KEY, process, law.denoiser(process), found.sampler, found.sampler.times, (16, 2), x_init=flow.start
        )
        np.testing.assert_allclose(root(np.asarray(end.x) - flow.states[-1]), error, rtol=1e-9)
        best = min(root(flow.residual(DDIM(), grid)) for grid in fixed_grids(process, 4).values())
    np.testing.assert_allclose(found.error_before, best, rtol=1e-9)
    assert found.before.startswith("ddim on ")
    assert end.nfe == 4


def test_one_draw_on_the_border_of_two_basins_does_not_spoil_the_fit(x64):
    """Its path is as good as random; the weights are those of the draws whose paths are smooth."""
    process, law = Process(EDM()), mixture(0, 2, 3)
    flow = _Flow(KEY, process, as_partial(law.denoiser(process)), (64, 2), np.arange(64), 100)
    grid = fixed_grids(process, 6)["cosine"]
    before = _Fit(flow, 4).on(grid)[0]
    flow.states = flow.states.copy()
    flow.states[60:, 0] += 1.0  # the flow takes it elsewhere from here on
    after = _Fit(flow, 4).on(grid)[0]
    flow.states[60:, 0] -= 1.0
    assert root(flow.residual(after)) < 1.5 * root(flow.residual(before))


def test_the_fine_solution_is_known_at_every_time(x64):
    """Against one that goes through that very time; the cubic is of fourth order, so half the steps are 16 × as far."""
    process, law = Process(RectifiedFlow()), mixture(0, 2, 3)
    denoise, grid = as_partial(law.denoiser(process)), np.asarray([1.0, 0.93, 0.41, 0.07, 0.0])
    exact = _Flow(KEY, process, denoise, (8, 2), np.arange(8), 1600)
    wanted = list(exact.along(grid))
    far = []
    for steps in (50, 100):
        flow = _Flow(KEY, process, denoise, (8, 2), np.arange(8), steps)
        far.append(max(root(got - want) for got, want in zip(flow.along(grid), wanted, strict=True)))
    assert far[1] < far[0] / 6
    assert far[1] < 1e-3


def test_other_grids_and_other_shapes_are_refused():
    solver = Bespoke(np.asarray([80.0, 1.0, 0.0]), np.ones(2), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"belong to its own grid of 2 steps.*give solver.times"):
        sample(KEY, Process(EDM()), bent, solver, np.asarray([80.0, 2.0, 0.0]), (1, 2))
    with pytest.raises(ValueError, match=r"a solver of 2 steps has weights of shapes \(3,\)"):
        Bespoke(np.asarray([80.0, 1.0, 0.0]), np.ones(3), np.ones((3, 3)))


@pytest.mark.parametrize(
    ("steps", "options", "words"), [(1, {}, "steps = 1; give 2"), (4, {"answers": 0}, "answers = 0; give 1")]
)
def test_what_cannot_be_fitted_is_refused(steps, options, words):
    with pytest.raises(ValueError, match=words):
        bespoke_solver(KEY, Process(EDM()), bent, steps, (4, 2), **options)


def test_a_chain_is_refused():
    with pytest.raises(TypeError, match="no derivative in t"):
        bespoke_solver(KEY, Process(Betas.linear(50)), bent, 4, (4, 2))


def test_where_everything_is_exact_nothing_is_lost():
    found = bespoke_solver(KEY, Process(EDM()), lambda x, t: 0.0 * x, 3, (4, 2), reference_steps=20, rounds=2)
    assert found.error <= 1e-6
    assert np.isfinite(found.sampler.states).all()
