"""A run in Python gives what the commands give, and a training as a loop the parameters of the command."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import keys as keys_lib
from diffusion.likelihood import Adaptive, Exact, FixedStep, Hutchinson, log_likelihood
from diffusion.prediction import network_denoiser
from diffusion.pytree import pytree
from experiments.config.file import load_config
from experiments.config.tree import Config
from experiments.data.scaling import to_model, to_uint8
from experiments.errors import CheckpointError, UsageError
from experiments.interface.run import load
from experiments.interface.steps import training
from experiments.sampling.guidance import Guidance
from experiments.training import checkpoint
from samplers import DDIM, DPMSolverMultistep, Heun, sample


@pytest.fixture(scope="module")
def run(conditional_run):
    """A conditional run on EDM."""
    return load(conditional_run)


@pytest.fixture(scope="module")
def images(run):
    return run.data()[1].images[:5]


def pixels(run_command, folder, outdir, *flags):
    """What `scorefield sample` draws."""
    outcome = run_command("sample", "--run", folder, "--outdir", outdir, "--format", "npz", "--json", *flags)
    assert outcome.status == 0, outcome.err
    return np.load(outcome.value["files"][0])["images"]


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ((), {}),
        (
            *[("--sampler", "DPMPP_2M", "--steps", "5", "--class", "2", "--guidance", "1.5", "--grid", "uniform-time")],
            {"sampler": "DPMPP_2M", "steps": 5, "label": 2, "guidance": 1.5, "grid": "uniform-time", "batch": 2},
        ),
        (("--sampler", "dpmpp-3m"), {"sampler": DPMSolverMultistep(order=3)}),
    ],
)
def test_samples_are_the_commands_to_the_pixel(run, conditional_run, run_command, tmp_path, flags, arguments):
    theirs = pixels(run_command, conditional_run, tmp_path, "--seeds", "0-4", *flags)
    np.testing.assert_array_equal(run.sample(range(5), **arguments), theirs)
    if "label" in arguments:
        named = {**arguments, "label": ["2"] * 5}
        np.testing.assert_array_equal(run.sample(range(5), **named), theirs)


def test_a_chain_is_sampled_as_by_the_command(tiny_run, run_command, tmp_path):
    np.testing.assert_array_equal(
        load(tiny_run).sample([3, 1]), pixels(run_command, tiny_run, tmp_path, "--seeds", "3,1")
    )


@pytree
class Mine(DDIM):
    """A sampler that no catalogue has."""


def test_a_sampler_of_ones_own_is_sampled_with(run):
    mine = run.sample(range(2), Mine(), 4)
    np.testing.assert_array_equal(mine, run.sample(range(2), "ddim", 4))
    assert run.solver(Mine()).provenance["steps"] == 20
    assert repr(run.solver("ddim", 4)) == "Solver(ddim, 4 steps of the grid karras)"
    assert run.solver(DPMSolverMultistep(order=3)).name == "dpmpp-3m"
    assert run.solver(DPMSolverMultistep(order=1)).name == "dpmpp-2m"


def test_the_denoiser_goes_with_the_samplers_of_the_core(run):
    labels, guide = jnp.asarray([1, 2, 3]), Guidance(strength=2.0, low=0.5, high=5.0)
    denoise, grid = run.denoiser(labels, guide), run.solver("heun", 4).grid
    x = sample(jax.random.key(0), run.process, denoise, Heun(), grid, (3, *run.model.event_shape)).x
    np.testing.assert_array_equal(to_uint8(x), run.sample(range(3), "heun", 4, label=[1, 2, 3], guidance=guide))
    plain = network_denoiser(run.model.network, run.model.params, run.process, run.config.preconditioning)
    np.testing.assert_array_equal(run.denoiser()(x, 0.5), plain(x, 0.5))
    with pytest.raises(UsageError, match=r"labels has shape \(\); give one class for each element"):
        run.denoiser(3)
    with pytest.raises(UsageError, match="--guidance strengthens a class"):
        run.denoiser(guidance=2.0)


def test_the_likelihood_is_that_of_the_core_and_knows_no_batch(run, images):
    found = run.log_likelihood(images, batch=2)
    assert found.dtype == np.float64
    # By hand: uniform noise of one level's width, a density, and the width's volume.
    noise = jax.random.fold_in(jax.random.key(0), 0)
    u = keys_lib.uniform(keys_lib.sample_keys(noise, jnp.arange(5)), images.shape[1:])
    y = to_model(images) + (u - 0.5) * 2 / 255
    exact = log_likelihood(run.process, run.denoiser(), y, solver=Adaptive(), method=Exact())
    np.testing.assert_allclose(found, exact.log_prob + 64 * np.log(2 / 255), rtol=1e-5)
    np.testing.assert_allclose(run.log_likelihood(np.asarray(y)), exact.log_prob, rtol=1e-5)
    labels = np.arange(5)
    told = run.log_likelihood(images, labels=labels, method=Hutchinson(4), seed=3)
    one = run.log_likelihood(images[:1], labels=labels[:1], method=Hutchinson(4), seed=3)
    np.testing.assert_allclose(told[:1], one, rtol=1e-4)
    assert np.all(told != found)


def test_latents_lead_back_to_the_images(run, images):
    latents = run.latents(images, batch=3)
    np.testing.assert_allclose(run.decode(latents, batch=4), to_model(images), atol=1e-3)
    exact = log_likelihood(
        run.process, run.denoiser(), jnp.asarray(to_model(images)), solver=Adaptive(), method=Exact()
    )
    np.testing.assert_allclose(latents, exact.latent, rtol=1e-3, atol=0.05)


def test_the_report_is_the_commands(run, conditional_run, run_command, feature_cache):
    flags = ("--samples", "12", "--elbo-images", "4", "--elbo-draws", "2", "--cache", feature_cache, "--json")
    outcome = run_command("evaluate", "--run", conditional_run, "--sampler", "ddim", "--steps", "3", *flags)
    assert outcome.status == 0, outcome.err
    ours = run.evaluate("ddim", 3, samples=12, elbo_images=4, elbo_draws=2, cache=feature_cache)
    clock = ("seconds", "samples_per_second")
    assert {key: value for key, value in ours.items() if key not in clock} == {
        key: value for key, value in outcome.value.items() if key not in clock
    }
    with pytest.raises(UsageError, match=r"evaluate has no option smaples \(did you mean 'samples'"):
        run.evaluate(smaples=3)


def test_a_chain_has_the_flow_that_goes_through_its_times(tiny_run, images):
    """The run read between its times gives the core a process and a denoiser that go together."""
    chain = load(tiny_run)
    reading = chain.continuous()
    assert chain.process.schedule.discrete
    assert not reading.process.schedule.discrete
    jax.tree.map(np.testing.assert_array_equal, reading.continuous().process, reading.process)
    solver = FixedStep(np.asarray([1.0, 4.0, 20.0]))
    floats = to_model(images)[:2]
    exact = log_likelihood(
        reading.process, reading.denoiser(), jnp.asarray(floats), solver=solver, method=Exact()
    ).log_prob
    for run in (chain, reading):
        np.testing.assert_allclose(run.log_likelihood(floats, solver=solver), exact, rtol=1e-5)


def test_inpainting_keeps_what_is_known(run, images):
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    both = {"steps": 4, "resamplings": 2, "sampler": "ddim"}
    made = run.inpaint(images[:3], mask, **both, batch=2)
    np.testing.assert_array_equal(made[:, :, :4], images[:3, :, :4])
    assert not np.array_equal(made[0, :, 4:], images[0, :, 4:])
    np.testing.assert_array_equal(run.inpaint(images[1], mask[..., None], seeds=[1], **both)[0], made[1])
    several = run.inpaint(images[1], mask, seeds=[7, 1, 8], **both)
    np.testing.assert_array_equal(several[1], made[1])
    assert not np.array_equal(several[0], several[2])
    with pytest.raises(UsageError, match="mask is an array of int64; give booleans"):
        run.inpaint(images, mask.astype(int))
    with pytest.raises(UsageError, match=r"mask has shape \(3, 3\) and the images \(5, 8, 8, 1\)"):
        run.inpaint(images, np.ones((3, 3), bool))
    with pytest.raises(UsageError, match="5 images have 2 seeds"):
        run.inpaint(images, mask, seeds=[0, 1])
    with pytest.raises(UsageError, match="seeds are one or more whole numbers"):
        run.inpaint(images, mask, seeds=[0, 1, 2, 3, 2**31])
    with pytest.raises(UsageError, match="batch is 0; give at least 1"):
        run.inpaint(images, mask, batch=0)


def test_one_seed_may_be_sampled_in_two_classes(run):
    both = run.sample([3, 3], "ddim", 2, label=[1, 2], batch=1)
    np.testing.assert_array_equal(both[1:], run.sample([3], "ddim", 2, label=2))


@pytest.mark.parametrize(("value", "what"), [(200.0, "reach 200 in absolute value"), (np.nan, "are not all finite")])
def test_floats_in_other_units_than_the_networks_are_refused(run, value, what):
    wrong, mask = np.full((1, 8, 8, 1), value), np.ones((8, 8), bool)
    for ask in (run.log_likelihood, run.latents, lambda images: run.inpaint(images, mask)):
        with pytest.raises(
            UsageError, match=rf"floats that {what}.*the network, \[-1, 1\]; give uint8, or pixels / 127"
        ):
            ask(wrong)


def test_what_a_mask_leaves_out_may_be_in_any_units(run, images):
    mask, known = np.ones((8, 8), bool), to_model(images[:1])
    mask[0] = False
    known[:, 0] = np.nan
    made = run.inpaint(known, mask, sampler="ddim", steps=2, resamplings=1)
    np.testing.assert_array_equal(made[:, 1:], images[:1, 1:])


def test_latents_are_decoded_from_any_range(run):
    assert np.all(np.isfinite(run.decode(np.full((1, 8, 8, 1), 200.0))))


def test_what_cannot_be_asked_of_a_run_is_said_in_a_sentence(run, images, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be trusted"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="nope does not exist; give the folder that `scorefield train` wrote"):
        load(tmp_path / "nope")
    for place in (None, 3, ""):
        with pytest.raises(UsageError, match=f"the place of a run is {place!r}; give the folder"):
            load(place)
    with pytest.raises(UsageError, match="average is 'raw'; give its number, counted from 0, its relative width, or"):
        load(run.path, average="raw")
    for seeds in ([], [-1], [2**31]):
        with pytest.raises(UsageError, match="seeds are one or more whole numbers"):
            run.sample(seeds)
    with pytest.raises(UsageError, match="steps is 0; give at least 1"):
        run.sample(steps=0)
    with pytest.raises(UsageError, match=r"--sampler hevn does not exist \(did you mean 'heun'"):
        run.sample(sampler="hevn")
    with pytest.raises(UsageError, match=r"images are int64 \(5, 8, 8\); give uint8 or uint16, or floats"):
        run.latents(images[..., 0].astype(int))
    with pytest.raises(UsageError, match=r"labels has shape \(2,\) for 5 images"):
        run.latents(images, labels=[1, 2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seeds": 5}, r"seeds are one or more whole numbers .*; give range\(64\)"),
        ({"seeds": [0.5]}, "seeds are one or more whole numbers"),
        ({"seeds": "0-3"}, "seeds are one or more whole numbers"),
        ({"steps": 2.5}, "steps is 2.5; give a whole number"),
        ({"steps": "3"}, "steps is '3'; give a whole number"),
        ({"batch": 0}, "batch is 0; give at least 1"),
        ({"batch": -1}, "batch is -1; give at least 1"),
        ({"batch": 1.5}, "batch is 1.5; give a whole number"),
        ({"label": [1, 2, 3]}, r"label is \[1, 2, 3\] for 2 seeds; give one class for all"),
        ({"label": "three"}, "the class three in label does not exist; this model knows the classes 0 to 9"),
        ({"label": ["3"] * 3}, r"label is \['3', '3', '3'\] for 2 seeds"),
        ({"label": 2.5}, "label is 2.5 where a class is wanted; give one by number or by name"),
        ({"label": True}, "label is True where a class is wanted; give one by number or by name"),
        ({"label": [1, True]}, "label is True where a class is wanted; give one by number or by name"),
        ({"label": ["3", None]}, "label has None for the seed 1; .* by themselves, with label='none'"),
        ({"guidance": "x"}, "guidance is 'x'; give a number"),
        ({"guidance": "2"}, "guidance is '2'; give a number"),
        ({"guidance": True}, "guidance is True; give a number"),
        ({"seeds": [True]}, "seeds are one or more whole numbers"),
        ({"seeds": [4, 1, 4]}, "seeds has 4 twice, and the same image would be drawn again"),
        ({"seeds": [1, 1], "label": [2, 2]}, "seeds has 1 twice"),
        ({"steps": True}, "steps is True; give a whole number"),
        ({"sampler": 3}, "sampler is 3; give a name of `scorefield samplers`, or a sampler"),
        ({"sampler": Heun}, r"a sampler, such as Heun\(\)"),
        ({"grid": np.linspace(1, 0, 5)}, "grid is of type ndarray; give a name, such as 'karras'"),
        ({"limits": 3}, "limits is 3; give a dictionary"),
        ({"limits": {"sigma_mx": 3}}, r"limits has no 'sigma_mx' \(did you mean 'sigma_max'"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(run, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        run.sample(**{"seeds": [0, 1], **arguments})


def test_a_training_is_told_where_it_writes():
    for outdir in ("", None):
        with pytest.raises(UsageError, match=f"outdir is {outdir!r}; give a folder to write in"):
            training(Config(), outdir)


@pytest.mark.parametrize("wrong", [-1, 99])
def test_a_class_that_the_model_does_not_know_is_refused_wherever_one_is_given(run, images, wrong):
    labels = [0, 1, 2, 3, wrong]
    for ask in (
        run.denoiser,
        *(lambda labels, f=f: f(images, labels=labels) for f in (run.log_likelihood, run.latents)),
    ):
        with pytest.raises(UsageError, match=f"class {wrong} in labels does not exist; this model knows the classes"):
            ask(labels)
    with pytest.raises(UsageError, match="give whole numbers"):
        run.denoiser([0.5])
    with pytest.raises(UsageError, match="batch is 0; give at least 1"):
        run.log_likelihood(images, batch=0)


def test_what_measures_a_run_is_checked(run, images):
    for options, sentence in (
        ({"sample": 3}, r"evaluate has no option sample \(did you mean 'samples'"),
        ({"samples": "a"}, "samples is 'a'; give a whole number"),
        ({"samples": True}, "samples is True; give a whole number"),
        ({"variance": "smal"}, "variance is 'smal'; choose auto, small"),
    ):
        with pytest.raises(UsageError, match=sentence):
            run.evaluate(**options)
    with pytest.raises(UsageError, match=r"method is 'exact'; give one of scorefield's, such as Hutchinson\(\)"):
        run.log_likelihood(images, method="exact")
    with pytest.raises(UsageError, match=r"solver is 'heun'; give one of scorefield's, such as Adaptive\(\)"):
        run.latents(images, solver="heun")


def test_a_run_says_what_it_is(run, conditional_run, tiny_run):
    assert repr(run).splitlines()[0] == f"Run({conditional_run}, step 12; sampled by heun in 4 steps)"
    assert repr(run).splitlines()[1] == f"  {run.model!r}"
    assert (run.path, run.step, run.config) == (conditional_run, 12, load_config(conditional_run / "config.json"))
    one = load(str(conditional_run / "checkpoints" / "00000006"), average=None)
    assert (one.path, one.step, one.model.average) == (conditional_run, 6, None)


def test_a_loop_trains_what_the_command_trains_to_the_bit(tiny_run, tmp_path, one_device):
    config = load_config(tiny_run / "config.json")
    pictures = average = None
    for step in training(config, tmp_path):
        if step.step == 7:
            pictures = step.run().sample(range(2), "ddim", 3)
            average = step.model().params
            break
    resumed = load(tmp_path)
    assert resumed.step == 7
    jax.tree.map(np.testing.assert_array_equal, resumed.model.params, average)
    np.testing.assert_array_equal(resumed.sample(range(2), "ddim", 3), pictures)
    for step in training(config, tmp_path):
        assert step.model(None).step == step.step
    ours, theirs = (checkpoint.load(folder / "checkpoints" / "00000012")[0] for folder in (tmp_path, tiny_run))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    with pytest.raises(UsageError, match=r"a run with --training.seed 0, and this command says 1"):
        next(training(dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1)), tmp_path))
