"""SDE samplers reach their stated orders: weakly by exact moments, strongly along one Brownian path."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Process
from diffusion import keys as keys_lib
from diffusion.oracles.examples import line
from diffusion.pytree import pytree
from experiments.verification.orders import stochastic
from experiments.verification.orders.problems import PROCESSES, grid_of, observed_order
from experiments.verification.orders.stochastic import (
    BATCH,
    CASES,
    KEY,
    REVERSE_SDE,
    STRONG_PROCESSES,
    STRONG_STEPS,
    Paths,
    ends_of_paths,
    references,
    starts,
    weak_errors,
    weak_orders,
)
from samplers import (
    DDIM,
    ERSDE,
    AnnealedLangevin,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    SDEDPMSolver,
    karras,
    sample,
)
from tests.samplers.orders_page import PRINTED


@pytest.mark.parametrize("name", CASES)
def test_observed_orders(name):
    """Of the mean, the variance and the path; what the page prints is what is measured."""
    sampler, found, printed = CASES[name].sampler, stochastic.measured(name), PRINTED[name]
    assert int(printed[1]) == sampler.stated_order
    for process, errors in found.weak.items():
        mean, variance = weak_orders(errors)
        assert variance > sampler.stated_order - 0.15, errors
        # A mean may be exact, as ancestral sampling's is where the noise alone is approximated.
        assert mean > sampler.stated_order - 0.15 or errors[:, 0].max() < 1e-12, errors
        cell = printed[2 + list(PROCESSES).index(process)]
        assert float(cell) == pytest.approx(variance, abs=0.05)
    assert printed[5] == (str(sampler.strong_order) if sampler.strong_order else "none")
    for process, errors in found.strong.items():
        order = observed_order(STRONG_STEPS, errors)
        assert order > sampler.strong_order - 0.15, errors
        assert errors[-1] < 0.02
        assert float(printed[6 + STRONG_PROCESSES.index(process)]) == pytest.approx(order, abs=0.05)
    assert [bool(cell) for cell in printed[2:5]] == [CASES[name].weak] * 3
    assert [bool(cell) for cell in printed[6:]] == [CASES[name].strong] * 2


@pytree
class TooNoisy(EulerMaruyama):
    """Euler-Maruyama with the noise of a diffusion 1% too large, and the right drift."""

    def step(self, keys, x, carry, t, s, process, denoise):
        moved, carry = super().step(keys, x, carry, t, s, process, denoise)
        spread = jnp.sqrt(process.schedule.diffusion_squared(t) * (t - s))
        return moved + 0.01 * spread * keys_lib.normal(keys, x.shape[1:], x.dtype), carry


def test_a_wrong_noise_level_is_found_out(x64):
    """The power of this test: with too much noise by 1% the variance does not converge to the law's."""
    errors = weak_errors(TooNoisy())["VP"]
    assert weak_orders(errors)[1] < 0.85, errors


def median_distance(found, exact):
    return float(np.median(np.abs(np.asarray(found) - np.asarray(exact))))


def test_another_sde_has_a_limit_of_its_own(x64):
    assert median_distance(references(ERSDE())["VP"], references(REVERSE_SDE)["VP"]) > 0.1


def test_more_predictions_help_er_sde_where_steps_are_long(x64):
    """Eight steps down Karras's grid of EDM, from its prior to the data, against many on the same path."""
    noise = np.random.default_rng(0).normal(size=(BATCH, 1))
    priors = [float(process.sigma(process.t_max)) for process in map(PROCESSES.get, STRONG_PROCESSES)]
    x = jnp.asarray(np.stack([prior * noise for prior in priors]))

    many, few = (Paths([karras(PROCESSES[name], steps) for name in STRONG_PROCESSES]) for steps in (250, 8))
    exact = many.follow(ERSDE(order=1), x)["EDM"]
    first, second, third = (median_distance(few.follow(ERSDE(order=k), x)["EDM"], exact) for k in (1, 2, 3))
    assert second < 0.8 * first
    assert third < 0.8 * first


def test_sample_takes_the_path_on_request(x64):
    process, grid = PROCESSES["VP"], grid_of(PROCESSES["VP"], 32)
    arguments = (KEY, process, line().denoiser(process), EulerMaruyama(), grid, (BATCH, 1))
    x = starts()[STRONG_PROCESSES.index("VP")]
    on_path = sample(*arguments, x_init=x, brownian_tree=True).x
    np.testing.assert_allclose(on_path, ends_of_paths(EulerMaruyama(), 32)["VP"], rtol=1e-9)
    # Without it the noise of another grid is another noise: nothing to converge to.
    elsewhere = sample(*arguments, x_init=x).x
    assert median_distance(elsewhere, references(REVERSE_SDE)["VP"]) > 0.1


def shrunk(x, t):
    return x / (1 + t)


def test_samples_on_paths_keep_their_seeds():
    process = Process(EDM())

    def draw(ids):
        shape = (len(ids), 2)
        return sample(KEY, process, shrunk, SDEDPMSolver(), karras(process, 5), shape, ids=ids, brownian_tree=True).x

    np.testing.assert_allclose(draw(np.asarray([4, 2])), np.asarray(draw(np.arange(5)))[[4, 2]], rtol=1e-5)


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
