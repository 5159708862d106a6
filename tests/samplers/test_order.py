"""Every ODE sampler reaches its stated order against the exact flow, and docs/orders.md prints what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import VP, Process, StudentT
from diffusion.oracles import StudentTMixture
from diffusion.pytree import pytree
from diffusion.schedules import Schedule
from experiments.verification.chosen import OneOf
from experiments.verification.orders import deterministic
from experiments.verification.orders.deterministic import CASES, COLUMNS, STEPS, Case
from experiments.verification.orders.problems import (
    PROCESSES,
    SCHEDULES,
    chosen,
    grid_of,
    observed_order,
    padded,
    problem,
    root_mean_square,
    run_on,
)
from samplers import DDIM, DPMSolverMultistep, Euler, Heun, UniPC, sample
from tests.samplers.orders_page import PRINTED


@pytest.mark.parametrize("name", CASES)
def test_observed_order(name):
    """On three processes, on the line and in eight dimensions; what the page prints is what is measured."""
    found, stated = deterministic.measured(name), CASES[name].sampler.stated_order
    for place, order in found.items():
        assert order > stated - 0.15, place
    printed = PRINTED[name]
    assert int(printed[1]) == stated
    for place, cell in zip(COLUMNS.values(), printed[2:], strict=True):
        assert float(cell) == pytest.approx(found[place], abs=0.05)  # for other machines' rounding


def said_by(schedule, facts, times):
    """What a schedule says at these times, by the name of the fact."""
    return {name: getattr(schedule, name)(times) for name in facts} | {"ends": (schedule.t_max, schedule.t_min)}


def test_a_chosen_schedule_is_the_schedule_itself(x64):
    """All that a schedule says, so that the process on which an order is measured is the one that is printed."""
    facts = [said for said in vars(OneOf) if said in vars(Schedule) and callable(vars(Schedule)[said])]
    assert {"alpha", "variance", "time_from_log_snr", "diffusion_squared"} <= set(facts)
    both = {name: (chosen(name).schedule, SCHEDULES[name]) for name in PROCESSES}
    times = jnp.asarray([0.02, 0.3, 0.9])
    answers = jax.jit(lambda both, times: jax.tree.map(lambda s: said_by(s, facts, times), both, is_leaf=is_schedule))
    for name, (one, own) in answers(both, times).items():
        jax.tree.map(lambda a, b, name=name: np.testing.assert_array_equal(a, b, err_msg=name), one, own)
    facts_of_others = {"discrete", "ends_in_noise", "is_noise_at"}  # which are made of α, and asked outside of programs
    assert {said for said in vars(Schedule) if not said.startswith("_")} <= {*vars(OneOf), *facts_of_others}


def is_schedule(value):
    return isinstance(value, Schedule)


def test_the_loop_of_these_tests_is_the_samplers_own(x64):
    """Of UniPC, whose steps remember predictions, a state and a time, the first of which is the grid's."""
    sampler = UniPC(order=3)
    process, denoise, x, _ = problem("VP", 1)
    grid = grid_of(process, 11)
    whole = sample(jax.random.key(0), process, denoise, sampler, grid, x.shape, x_init=x).x
    np.testing.assert_allclose(run_on(process, denoise, sampler, x)(padded(grid, 16), 11), whole, rtol=1e-12)


def errors_on(process, denoise, sampler, grids, x, exact):
    run = run_on(process, denoise, sampler, x)
    return [root_mean_square(run(padded(grid, max(STEPS)), len(grid) - 1), exact) for grid in grids]


HEAVY = {"euler": Euler(), "heun": Heun(), "ddim": DDIM(), "dpmpp-2m": DPMSolverMultistep()}


@pytest.mark.parametrize("name", HEAVY)
def test_observed_order_under_heavy_tails(name, log_snr_grid, x64):
    """Cauchy data of width γ and Cauchy noise: x_s = x_t (α_s γ + σ_s)/(α_t γ + σ_t) exactly.

    E[x_0|x_t] is then x_t γ/(α_t γ + σ_t), constant along the flow, which exponential integrators solve exactly.
    """
    process, sampler, width = Process(VP(), StudentT(1.0)), HEAVY[name], 0.7
    law = StudentTMixture(np.zeros((1, 3)), np.asarray([width]), df=1.0)
    grids = [log_snr_grid(process, steps) for steps in STEPS]
    ends = grids[0][[0, -1]]
    wide = np.asarray(process.alpha(ends)) * width + np.asarray(process.sigma(ends))
    x = wide[0] * np.random.default_rng(1).standard_cauchy((8, 3))
    exact = x * wide[1] / wide[0]
    if name in ("ddim", "dpmpp-2m"):
        result = sample(
            jax.random.key(0), process, law.denoiser(process), sampler, grids[0], x.shape, x_init=jnp.asarray(x)
        ).x
        np.testing.assert_allclose(result, exact, rtol=1e-11)
    else:
        errors = errors_on(process, law.denoiser(process), sampler, grids, jnp.asarray(x), exact)
        assert observed_order(STEPS, errors) > sampler.order - 0.15, errors


@pytree
class HalfHearted(DPMSolverMultistep):
    """2M with half of its extrapolation."""

    def coefficients(self, process, t, s, nodes, used):
        first, last = super().coefficients(process, t, s, nodes, used)
        return jnp.stack([first + 0.5 * last, 0.5 * last])


def test_a_wrong_method_is_found_out(x64):
    """The power of the order test: 2M with its extrapolation halved is first order, and seen to be."""
    errors = deterministic.errors(Case("half-hearted", HalfHearted()))
    assert observed_order(STEPS, errors["VP", 1]) < 1.3
