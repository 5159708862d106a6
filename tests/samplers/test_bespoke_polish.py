"""Times and weights of a solver moved through all of its steps: slopes, the loss, and where it comes to rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Process
from diffusion.pytree import as_partial
from samplers import Bespoke, bespoke_polish
from samplers.bespoke_fit import _Fit, _Flow
from samplers.bespoke_polish import Ends, _Parameters, _slopes, mean_squares, polished, pseudo_huber, typical_square
from samplers.grid_fit import fixed_grids
from tests.samplers.test_bespoke import KEY, mixture, root


def problem(schedule, draws=64, steps=4, dimensions=4):
    """(Draws, as many others, the solver that is fitted to the first step by step on the cosine grid.)"""
    process, law = Process(schedule), mixture(0, dimensions, 3)
    denoise, shape = as_partial(law.denoiser(process)), (draws, dimensions)
    flows = [_Flow(KEY, process, denoise, shape, np.arange(k * draws, (k + 1) * draws), 150) for k in (0, 1)]
    for flow in flows:
        flow.states = np.array(flow.states)
    return *flows, _Fit(flows[0], 3).on(fixed_grids(process, steps)["cosine"])[0]


@pytest.fixture(scope="module", params=[EDM(), VP()], ids=lambda s: type(s).__name__)
def fitted(request):
    with jax.enable_x64(True):
        yield problem(request.param)


def test_the_vector_holds_every_number_that_there_is(fitted):
    """N − 1 times, N weights of states, and of answers 1 + 2 + 3 + 3; those from before the beginning stay 0."""
    solver = fitted[2]
    parameters = _Parameters(solver)
    vector = parameters.of(solver)
    assert len(vector) == 3 + 4 + 9
    again = parameters.solver(vector)
    for name in ("times", "states", "answers"):
        np.testing.assert_allclose(getattr(again, name), getattr(solver, name), rtol=1e-12)
    moved = parameters.solver(vector + 0.01)
    assert [list(row) for row in np.asarray(moved.answers)[:2] == 0] == [[False, True, True], [False, False, True]]
    assert moved.times[0] == solver.times[0]
    assert moved.times[-1] == 0.0
    np.testing.assert_allclose(moved.times[1:-1], solver.times[1:-1] * np.exp(0.01))


def test_slopes_are_those_of_difference_quotients(fitted, x64):
    flow, _, solver = fitted
    parameters = _Parameters(solver)
    vector, h = parameters.of(solver), 1e-6
    slopes = _slopes(flow.ends, solver, parameters.directions(vector))
    for unit, slope in zip(np.eye(len(vector)), slopes, strict=True):
        ends = [flow.ends.residual(parameters.solver(vector + sign * h * unit)) for sign in (1, -1)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]).ravel() / (2 * h), atol=1e-6)


@pytest.mark.parametrize("far", [0.0, 0.5])
def test_every_round_is_nearer_and_the_last_is_at_rest(fitted, far, x64, monkeypatch):
    """Where it stops, no number can be moved alone to gain a hundredth of what it could before the first round."""
    monkeypatch.setattr(bespoke_polish, "_ENOUGH", 0.0)
    flow, other, solver = fitted
    flow.states[-1, :3] += far  # draws that the flow takes elsewhere count as pseudo-Huber's loss has them
    scale = typical_square(flow.ends.residual(solver))
    way = [solver, *polished(flow.ends, solver, 150)]
    losses = [pseudo_huber(flow.ends.residual(each), scale) for each in way]
    assert losses == sorted(losses, reverse=True)
    assert far or root(other.ends.residual(way[-1])) < 0.8 * root(other.ends.residual(solver))

    def steepest(solver):
        """The largest relative gain that a step along one number promises to first order."""
        residual = flow.ends.residual(solver)
        importance = (1 / np.sqrt(1 + mean_squares(residual) / scale))[:, None]
        parameters = _Parameters(solver)
        slopes = _slopes(flow.ends, solver, parameters.directions(parameters.of(solver)))
        gradient = slopes @ (importance * residual).ravel()
        squares = np.sum(slopes.reshape(-1, *residual.shape) ** 2 * importance, axis=(1, 2))
        return float(np.max(gradient**2 / squares)) / np.sum(importance * residual**2)

    ends = [steepest(each) for each in (way[-1], solver)]
    flow.states[-1, :3] -= far
    assert ends[0] < 0.01 * ends[1]


def test_the_loss_is_a_square_near_0_and_linear_far_off():
    scale = 4.0
    near, far = np.asarray([[1e-3, 1e-3]]), np.asarray([[1e4, -1e4]])
    assert pseudo_huber(near, scale) == pytest.approx(1e-6, rel=1e-5)
    assert pseudo_huber(far, scale) == pytest.approx(2 * 1e4 * 2.0, rel=1e-3)
    assert pseudo_huber(np.asarray([[np.nan]]), scale) == np.inf
    np.testing.assert_allclose(mean_squares(np.asarray([[3.0, 4.0], [0.0, 2.0]])), [12.5, 2.0])
    assert typical_square(np.asarray([[1.0], [2.0], [70.0]])) == 36.0
    assert typical_square(np.zeros((3, 1))) > 0


def test_what_is_exact_stays(x64):
    """Zero everywhere: nothing moves the end, and no round is taken."""
    process = Process(EDM())
    ends = Ends(process, as_partial(lambda x, t: 0.0 * x), jnp.ones((3, 2)), np.zeros((3, 2)))
    solver = Bespoke(np.asarray([80.0, 1.0, 0.0]), np.zeros(2), np.zeros((2, 2)))
    assert list(polished(ends, solver, 5)) == []
