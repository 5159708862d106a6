"""Solvers of the reverse SDE follow one Brownian path: finer grids lead to the same sample, at strong order 1."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Process
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
from tests.samplers.convergence import PROCESSES, grid_of, line, observed_order
from tests.samplers.sde_convergence import (
    BATCH,
    KEY,
    STRONG,
    STRONG_STEPS,
    WEAK,
    reference,
    run_on_paths,
    start,
    strong_errors,
    weak_errors,
    weak_orders,
)

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("process_name", ["VP", "EDM"])
@pytest.mark.parametrize("name", STRONG)
def test_observed_strong_order(name, process_name, x64):
    """All but ER-SDE have one limit, the reverse SDE along this path."""
    errors = strong_errors(name, process_name)
    order = observed_order(STRONG_STEPS, errors)
    assert order > STRONG[name].strong_order - 0.15, errors
    assert errors[-1] < 0.02
    printed = readme_row(name)[-2:][["VP", "EDM"].index(process_name)]
    assert float(printed) == pytest.approx(order, abs=0.05)


def readme_row(name):
    """The cells after a sampler's name, of the README's second table."""
    section = README[README.index("<!-- sde orders:") : README.index("<!-- /sde orders -->")]
    row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", section, re.MULTILINE)
    assert row, name
    return [cell.strip() for cell in row[1].split("|")]


@pytest.mark.parametrize("name", ["Stochastic Heun", "Ancestral (β)"])
def test_the_readme_prints_the_weak_orders_that_are_measured(name, x64):
    """Two of them; the rows come from the functions that the tests of all call."""
    printed = readme_row(name)
    assert int(printed[0]) == WEAK[name].stated_order
    for process, cell in zip(PROCESSES.values(), printed[1:4], strict=True):
        assert float(cell) == pytest.approx(weak_orders(weak_errors(process, WEAK[name]))[1], abs=0.05)


def test_another_sde_has_a_limit_of_its_own(x64):
    assert float(jnp.median(jnp.abs(reference("VP", ERSDE()) - reference("VP")))) > 0.1


def test_more_predictions_help_er_sde_where_steps_are_long(x64):
    """Eight steps down Karras's grid, against many on the same path."""
    process, law = PROCESSES["EDM"], line()

    def draw(order, steps):
        arguments = (KEY, process, law.denoiser(process), ERSDE(order=order), karras(process, steps), (32, 1))
        return sample(*arguments, brownian_tree=True).x

    exact = draw(1, 250)
    first, second, third = (float(jnp.median(jnp.abs(draw(order, 8) - exact))) for order in (1, 2, 3))
    assert second < 0.8 * first
    assert third < 0.8 * first


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
