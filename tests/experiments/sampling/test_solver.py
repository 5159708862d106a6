"""From a choice of sampler to a solver: blanks that the run fills in, variances by name, refusals by their flags."""

import dataclasses

import jax
import numpy as np
import pytest

from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Learned
from diffusion.interpolated import continuous
from diffusion.networks.configs import MLPConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM, Cosine
from experiments.config.nodes import Chain, SamplingConfig
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.runs.model import Model
from experiments.sampling.choice import AncestralOptions, SamplerChoice
from experiments.sampling.drawing import draw, gather
from experiments.sampling.guidance import Guidance
from experiments.sampling.solver import build, build_own
from experiments.sampling.throughput import Throughput
from experiments.sampling.variance import variance_name, variance_without_data
from experiments.training.data import Facts
from experiments.training.model import network_of
from samplers.grids import karras
from samplers.ode import Heun
from samplers.registry import SAMPLERS

NETWORK = MLPConfig(hidden=2, layers=1, embedding=2)
FACTS = Facts((2, 2, 1), 0)
EDM_RUN = Config(schedule=EDM(), network=NETWORK, sampling=SamplingConfig(sampler="heun", steps=7, grid="karras"))
CHAIN = {"schedule": Chain(steps=20), "network": NETWORK, "preconditioning": Preconditioning("eps")}
"""Fields of a run on a discrete chain."""


def model(config):
    """A model that is not asked for an answer."""
    return Model(config, FACTS, network_of(config, FACTS), None)


def nothing():
    """The training data of a solver that needs none."""
    raise AssertionError("no data are needed")


def test_the_run_fills_in_what_its_own_sampler_leaves_open():
    own = SamplerChoice.own(EDM_RUN)
    assert (own.name, own.options, own.steps, own.grid) == ("heun", Heun(), 7, "karras")
    assert dataclasses.replace(SamplerChoice.of(EDM_RUN), flag=own.flag) == own
    assert SamplerChoice.of(EDM_RUN, "Heun") == SamplerChoice.of(EDM_RUN)
    other = SamplerChoice.of(EDM_RUN, "DPMPP_2M")
    assert (other.name, other.steps, other.grid) == ("dpmpp-2m", 20, "auto")
    assert other.options == SAMPLERS["dpmpp-2m"].default()
    given = SamplerChoice.of(EDM_RUN, "heun", options=Heun(S_churn=4.0), steps=3, grid="uniform_time")
    assert (given.options, given.steps, given.grid) == (Heun(S_churn=4.0), 3, "uniform-time")
    with pytest.raises(UsageError, match=r"--sampler hein does not exist \(did you mean 'heun'\?"):
        SamplerChoice.of(EDM_RUN, "hein")


def test_a_solver_is_the_choice_on_its_grid():
    choice = SamplerChoice.of(EDM_RUN, "ddim", steps=5, grid="karras", limits={"sigma_max": 3.0, "rho": 1.0})
    solver = build(choice, model(EDM_RUN), nothing, given_class=False)
    assert solver.grid.shape == (6,)
    np.testing.assert_allclose(np.diff(solver.grid[:-1], 2), 0, atol=1e-6)  # exponent 1: even steps in σ
    said = solver.provenance
    assert (said["sampler"], said["steps"], said["grid"], said["sigma_max"]) == ("ddim", 5, "karras", 3.0)
    assert said["first_time"] == pytest.approx(3.0)
    own = build_own(EDM_RUN)
    assert (own.sampler, own.provenance["steps"]) == (Heun(), 7)


@pytest.mark.parametrize("learned", [False, True])
def test_variances_have_one_name_each(learned):
    config = Config(**CHAIN, learned_variance=learned)
    for name, kind in (("small", FixedSmall), ("large", FixedLarge), ("auto", Learned if learned else FixedSmall)):
        variance = variance_without_data(name, config, auto="small", flag="--variance")
        assert type(variance) is kind
        solver = build(
            SamplerChoice.of(config, "ancestral", options=AncestralOptions(name)),
            model(config),
            nothing,
            given_class=False,
        )
        assert solver.provenance["options"] == {"variance": variance_name(variance)}
    assert variance_without_data("optimal", config, auto="small", flag="--variance") is None
    if learned:
        assert variance_without_data("auto", config, auto="optimal", flag="--variance") == Learned()
    else:
        assert variance_without_data("auto", config, auto="optimal", flag="--variance") is None
        with pytest.raises(UsageError, match="--x learned needs a run trained with --learned-variance"):
            variance_without_data("learned", config, auto="small", flag="--x")


def test_refusals_name_the_flag_that_chose():
    config = Config(
        schedule=Cosine(),
        network=NETWORK,
        preconditioning=Preconditioning("v"),
        sampling=SamplingConfig(sampler="ddim", grid="karras"),
    )
    with pytest.raises(UsageError, match=r"prior of Cosine; give --sampling\.grid uniform-time\.$"):
        build_own(config)
    choice = SamplerChoice.of(config, "ddim")
    with pytest.raises(UsageError, match=r"give --grid karras --sigma-max 80, or --grid uniform-time\.$"):
        build(choice, model(config), nothing, given_class=False)
    limited = dataclasses.replace(choice, grid="uniform-time", limits={"rho": 3.0})
    with pytest.raises(UsageError, match="--rho does not go with the grid uniform-time"):
        build(limited, model(config), nothing, given_class=False)
    with pytest.raises(UsageError, match="--grid fitted needs a run's folder"):
        build(dataclasses.replace(choice, grid="fitted"), model(config), nothing, given_class=False)
    with pytest.raises(UsageError, match="--sampler euler: "):
        build(SamplerChoice.of(EDM_RUN, "euler", grid="none-such"), model(EDM_RUN), nothing, given_class=False)


def test_a_chain_is_asked_between_its_times_by_what_needs_it_and_by_nothing_else():
    config = Config(**CHAIN)

    def built(name, **options):
        return build(SamplerChoice.of(config, name, **options), model(config), nothing, given_class=False)

    for name in ("ddim", "ancestral", "dpmpp-2m", "unipc", "ipndm"):
        solver = built(name, steps=6)
        assert not solver.between
        assert "between_times" not in solver.provenance
        np.testing.assert_array_equal(solver.grid, np.rint(solver.grid))
    for name in ("heun", "rk4", "deis", "restart", "midpoint"):
        solver = built(name, steps=18, grid="karras")
        assert solver.between
        assert solver.provenance["between_times"] is True
        np.testing.assert_array_equal(solver.grid, karras(continuous(config.process()), 18))
    assert built("heun", steps=5, grid="leading").grid.tolist() == [17, 13, 9, 5, 1, 0]
    with pytest.raises(UsageError, match="--sampler deis: "):
        built("deis", steps=1)


def test_what_cannot_be_drawn_is_refused_before_anything_is():
    """When `draw` is called, not when its first batch is asked for."""
    solver, run = build_own(EDM_RUN), model(EDM_RUN)
    with pytest.raises(UsageError, match="--weak is what --guidance leads away from"):
        draw(run, solver, range(2), guidance=Guidance(weak=run))


def test_all_samples_are_those_of_the_batches():
    config = dataclasses.replace(EDM_RUN, sampling=SamplingConfig(sampler="euler", steps=2))
    network = network_of(config, FACTS)
    run = Model(config, FACTS, network, network.init(jax.random.key(0)))
    batches = list(draw(run, build_own(config), range(5), batch=3))
    samples = gather(batches, Throughput(3))
    assert (samples.throughput.count, samples.nfe) == (5, 2)
    np.testing.assert_array_equal(samples.images, np.concatenate([batch.images for batch in batches]))
    assert samples.images.shape == (5, 2, 2, 1)
    assert samples.report()["nfe"] == 2
