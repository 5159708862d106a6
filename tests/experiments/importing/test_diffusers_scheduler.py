"""Schedulers of diffusers: their chains, times and ranges, against laws whose denoisers are known."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion.betas import Betas
from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Learned
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.schedules import EDM
from experiments.errors import CheckpointError, UsageError
from experiments.importing.diffusers_scheduler import SCHEDULERS, read_scheduler
from samplers import DDIM, sample
from samplers.grids import check_grid, leading, trailing

CHAINS = [name for name in SCHEDULERS if name != "ScoreSdeVeScheduler"]
SPREAD = 0.7
"""The standard deviation of the data, N(0, s²), in the tests with an exact network."""


def read(name="DDPMScheduler", **options):
    return read_scheduler({"_class_name": name, "_diffusers_version": "0.42.1", **options})


def exact(schedule, kind):
    """The network that is right for N(0, s²), told diffusers' time: it adds 1, or takes it for σ, by itself."""
    process = schedule.process

    def network(x, time):
        t = time + 1 if schedule.is_chain else time
        alpha, sigma = (part(t)[:, None] for part in (process.alpha, process.sigma))
        x_0 = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x
        eps = (x - alpha * x_0) / sigma
        return {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "score": -eps / sigma}[kind]

    return network


@pytest.mark.parametrize(
    ("word", "kind"), [("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v"), (None, "score")]
)
def test_the_denoiser_of_an_exact_network_is_exact(word, kind, x64):
    """x̂_0 = α s²/(α² s² + σ²) x, and DDIM takes N(0, 1) at the prior to nearly N(0, s²)."""
    schedule = read("ScoreSdeVeScheduler") if word is None else read("DDIMScheduler", prediction_type=word)
    assert schedule.kind == kind
    denoise = schedule.denoiser(Partial(exact(schedule, kind)), limited=False)
    x = np.random.default_rng(0).standard_normal((3, 4))
    for t in (1.0, 2.0, 500.0, 1000.0):
        alpha, sigma = float(schedule.process.alpha(t)), float(schedule.process.sigma(t))
        expected = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x
        np.testing.assert_allclose(denoise(jnp.asarray(x), t), expected, rtol=1e-8, atol=1e-9)
    grid = schedule.grid(200 if word is None else 500)
    start = float(schedule.process.schedule.prior_std(grid[0])) * x
    end = sample(jax.random.key(0), schedule.process, denoise, DDIM(), grid, x.shape, x_init=start).x
    np.testing.assert_allclose(end, SPREAD * x, rtol=0.05)


def test_under_its_preconditioning_the_network_of_a_chain_is_told_the_same(x64):
    schedule = read(num_train_timesteps=50, beta_end=0.2)
    inner, told = exact(schedule, "eps"), schedule.time

    def network(params, x, c_noise, labels):
        return inner(x, told["time_factor"] * c_noise + told["time_offset"])

    usual = network_denoiser(network, (), schedule.process, Preconditioning(*schedule.preconditioning))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    for t in (1.0, 25.0, 50.0):
        expected = schedule.denoiser(Partial(inner), limited=False)(x, t)
        np.testing.assert_allclose(usual(x, t), expected, rtol=1e-9, atol=1e-12)


def test_a_learned_variance_is_half_of_the_answer(x64):
    schedule = read(variance_type="learned_range")
    assert isinstance(schedule.variance, Learned)
    inner = exact(schedule, "eps")

    def network(x, time):
        return jnp.concatenate([inner(x, time), jnp.full_like(x, 0.5)], axis=-1)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    x_0, v = schedule.denoiser(Partial(network), limited=False)(x, 400.0)
    np.testing.assert_allclose(v, 0.75)
    np.testing.assert_allclose(x_0, read().denoiser(Partial(inner), limited=False)(x, 400.0), rtol=1e-9)


def test_a_chain_is_that_of_its_betas():
    table = [0.1, 0.2, 0.4]
    trained = read(trained_betas=table, num_train_timesteps=3).process.schedule
    np.testing.assert_allclose(np.exp(2 * trained.log_alphas), [1, 0.9, 0.72, 0.432])
    for shape, chain in {
        "linear": Betas.linear(100, 1e-3, 0.1),
        "scaled_linear": Betas.scaled_linear(100, 1e-3, 0.1),
        "sigmoid": Betas.sigmoid(100, 1e-3, 0.1),
        "squaredcos_cap_v2": Betas.cosine(100),
    }.items():
        options = {"beta_schedule": shape, "beta_start": 1e-3, "beta_end": 0.1, "num_train_timesteps": 100}
        np.testing.assert_array_equal(read(**options).process.schedule.log_alphas, chain.log_alphas)
        rescaled = read(**options, rescale_betas_zero_snr=True).process.schedule
        np.testing.assert_array_equal(rescaled.log_alphas, chain.zero_terminal_snr().log_alphas)
        assert rescaled.ends_in_noise
    assert read("ScoreSdeVeScheduler", sigma_max=50.0).process.schedule == EDM(0.01, 50.0)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", CHAINS)
def test_every_grid_descends_within_the_chain_and_ends_where_it_says(name, spacing):
    for steps in (2, 7, 10, 28, 112):
        for offset in (0, 1):
            schedule = read(name, timestep_spacing=spacing, steps_offset=offset)
            if "Euler" in name and spacing == "linspace" and 999 % (steps - 1):
                with pytest.raises(UsageError, match="not whole"):
                    schedule.grid(steps)
                continue
            grid = schedule.grid(steps)
            check_grid(schedule.process, grid)
            assert grid[-1] == (name == "PNDMScheduler")
            # A step that would begin where the run ends is none.
            begins_there = name == "PNDMScheduler" and (spacing == "linspace" or (spacing == "leading" and not offset))
            assert len(grid) == steps + 1 - begins_there


def test_leading_and_trailing_are_the_chains_own():
    schedule = read("DDIMScheduler")
    for steps in (4, 10, 13):
        np.testing.assert_array_equal(schedule.grid(steps), leading(schedule.process, steps))
        turned = read("DDIMScheduler", timestep_spacing="trailing")
        np.testing.assert_array_equal(turned.grid(steps), trailing(schedule.process, steps))


def test_where_a_run_ends():
    assert read("DDIMScheduler", set_alpha_to_one=False, steps_offset=1).grid(4).tolist() == [752, 502, 252, 2, 1]
    assert read("DDIMScheduler", set_alpha_to_one=False).grid(4).tolist() == [751, 501, 251, 1]
    assert read("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min").grid(4)[-1] == 1
    assert read("UniPCMultistepScheduler", timestep_spacing="leading").grid(4).tolist() == [801, 601, 401, 201, 0]


def test_what_limits_an_answer():
    assert read().clip == 1.0
    assert read(clip_sample=False).clip is None
    assert read(clip_sample_range=2.0).clip == 2.0
    assert read("PNDMScheduler", clip_sample=True).clip is None
    assert (read(thresholding=True).clip, read(thresholding=True).percentile) == (1.0, None)
    endless = read(thresholding=True, sample_max_value=math.inf)
    assert (endless.clip, endless.percentile) == (None, 99.5)
    x = jnp.asarray([[3.0, -0.5]])
    network = Partial(lambda x, time: x)
    assert read(prediction_type="sample").denoiser(network)(x, 3.0).tolist() == [[1.0, -0.5]]
    narrow = endless.__class__(**{**vars(endless), "kind": "x0"}).denoiser(network)(x, 3.0)
    assert float(jnp.abs(narrow).max()) == 1.0
    assert float(jnp.abs(narrow).min()) < 0.2


def test_the_variance_of_ancestral_steps():
    assert read().variance == FixedSmall()
    assert read(variance_type="fixed_small_log").variance == FixedSmall()
    assert read(variance_type="fixed_large").variance == FixedLarge()
    assert read("DPMSolverMultistepScheduler").variance == FixedSmall()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"_class_name": "HeunDiscreteScheduler"},
            "scheduler_config.json is of HeunDiscreteScheduler, which cannot be imported; known, with",
        ),
        ({"_class_name": None}, "scheduler_config.json is of None, which cannot be imported; known, with Scheduler"),
        (
            {"beta_schedule": "laplace"},
            "beta_schedule is 'laplace', which has no counterpart here; choose one of linea",
        ),
        (
            {"prediction_type": "flow_prediction"},
            "prediction_type is 'flow_prediction', which has no counterpart here;",
        ),
        (
            {"variance_type": "learned"},
            "variance_type is 'learned', which has no counterpart here; choose one of fixed",
        ),
        (
            {"timestep_spacing": "even"},
            "timestep_spacing is 'even', which has no counterpart here; choose one of leadi",
        ),
        (
            {"thresholding": True, "sample_max_value": 1.5},
            "thresholding with sample_max_value 1.5 has no counterpart h",
        ),
        (
            {"thresholding": True, "sample_max_value": 0.5},
            "thresholding with sample_max_value 0.5 has no counterpart h",
        ),
        (
            {"trained_betas": [0.1, 0.2]},
            "scheduler_config.json: trained_betas has 2 numbers and num_train_timesteps is",
        ),
        ({"beta_end": 2.0}, "scheduler_config.json: betas contains"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0; a positive whole number is wanted, such as 1000."),
        ({"steps_offset": -1}, "steps_offset is -1, of a chain of 1000; a whole number below that is wanted, usually"),
        ({"steps_offset": 5000}, "steps_offset is 5000, of a chain of 1000; a whole number below that is wanted"),
        ({"steps_offset": True}, "steps_offset is True, of a chain of 1000"),
        ({"clip_sample": "yes"}, "clip_sample is 'yes'; true or false is wanted."),
        ({"clip_sample_range": 0}, "clip_sample_range is 0; a number above 0 is wanted, usually 1."),
        ({"beta_start": "0.1"}, "beta_start is '0.1'; a number is wanted."),
        (
            {"predict_epsilon": False},
            "predict_epsilon false is of an old diffusers; write prediction_type sample in it",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas makes DPMSolverMultistepScheduler a flow, which cannot be imported; choose another",
        ),
        (
            {"_class_name": "ScoreSdeVeScheduler", "sigma_min": 2000.0},
            "scheduler_config.json: sigma_min = 2000.0 and sigma_max = 1348.0 do not satisfy",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "timestep_type is 'continuous'; only networks that are told discrete times are imported.",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(options, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_scheduler({"_class_name": "DDPMScheduler", **options})


@pytest.mark.parametrize(
    ("name", "options", "steps", "message"),
    [
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True},
            10,
            "use_karras_sigmas spaces noise levels between thos",
        ),
        (
            "DPMSolverMultistepScheduler",
            {"use_lu_lambdas": True},
            10,
            "use_lu_lambdas spaces noise levels between those",
        ),
        (
            "EulerDiscreteScheduler",
            {"sigma_max": 10.0},
            10,
            "sigma_max 10.0 moves an end of the grid; choose a grid of",
        ),
        (
            "EulerDiscreteScheduler",
            {},
            20,
            "EulerDiscreteScheduler with timestep_spacing linspace takes 20 times that ar",
        ),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1}, 10, "lambda_min_clipped -5.1 has no grid here;"),
        ("DDPMScheduler", {"steps_offset": 1}, 1000, "steps_offset 1 leads to time 1001 of a chain of 1000; use fewer"),
        ("PNDMScheduler", {}, 1, "1 step of PNDMScheduler would begin at time 1, where the run ends; give more steps."),
        ("DDPMScheduler", {}, 1001, "1001 steps do not fit a chain of 1000; choose from 1 to"),
    ],
)
def test_a_spacing_that_a_chain_does_not_have_is_named(name, options, steps, message):
    schedule = read(name, **options)
    with pytest.raises(UsageError, match=re.escape(message)):
        schedule.grid(steps)


def test_score_sde_is_told_the_logarithm_under_its_preconditioning():
    schedule = read("ScoreSdeVeScheduler")
    assert schedule.preconditioning == ("ve", 1.0)
    c_noise = math.log(7.0 / 2)
    assert math.exp(c_noise + float(schedule.time["time_offset"])) == pytest.approx(7.0)
    assert schedule.time["time_is_log"] is True
