"""Schedules, spacings and whole sampling runs here and in diffusers' schedulers and pipelines."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import keys as keys_lib
from experiments.importing.diffusers_scheduler import SCHEDULERS, read_scheduler
from samplers import DDIM, Ancestral, sample
from samplers.streams import PRIOR

CHAINS = [name for name in SCHEDULERS if name != "ScoreSdeVeScheduler"]
NETWORK = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
STEPS, BATCH = 10, 2


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_left_out_has_the_defaults_of_the_scheduler(diffusers, name):
    config = getattr(diffusers, name)().config
    for option, default in SCHEDULERS[name].items():
        assert config[option] == default, option


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("shape", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "trained"])
def test_a_chain_has_the_noise_of_diffusers(diffusers, shape, rescaled):
    how = {"trained_betas": list(np.linspace(1e-3, 0.1, 50)), "num_train_timesteps": 50}
    options = {**(how if shape == "trained" else {"beta_schedule": shape}), "rescale_betas_zero_snr": rescaled}
    scheduler = diffusers.DDPMScheduler(**options)
    schedule = read_scheduler(dict(scheduler.config) | {"_class_name": "DDPMScheduler"})
    alphas = np.exp(np.asarray(schedule.process.schedule.log_alphas[1:]))
    # Their table is a product in float32.
    np.testing.assert_allclose(alphas, scheduler.alphas_cumprod.double().sqrt().numpy(), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_grid_has_the_times_of_diffusers(diffusers, name, spacing):
    for steps in (1, 2, 4, 7, 10, 16, 37):
        for offset in (0, 1):
            options = {"timestep_spacing": spacing, "steps_offset": offset}
            scheduler = getattr(diffusers, name)(**options, **({"skip_prk_steps": True} if "PNDM" in name else {}))
            scheduler.set_timesteps(steps)
            times = 1 + np.unique(scheduler.timesteps.double().numpy())[::-1]  # PNDM asks twice at one
            schedule = read_scheduler({"_class_name": name, "set_alpha_to_one": True, **options})
            if np.any(times != np.rint(times)):
                continue
            grid = schedule.grid(steps)
            np.testing.assert_array_equal(grid, [*times, 0])


def test_the_levels_of_score_sde_are_those_of_diffusers(diffusers):
    scheduler = diffusers.ScoreSdeVeScheduler()
    scheduler.set_timesteps(20)
    scheduler.set_sigmas(20)
    grid = read_scheduler(dict(scheduler.config) | {"_class_name": "ScoreSdeVeScheduler"}).grid(20)
    np.testing.assert_allclose(grid[:-1], scheduler.sigmas.numpy(), rtol=1e-4)
    assert grid[-1] == 0


def jax_noise(seed, steps, shape):
    """The noise of each step of `sample`, from its own streams."""
    keys = keys_lib.sample_keys(jax.random.key(seed), jnp.arange(shape[0], dtype=jnp.uint32))
    return [np.asarray(keys_lib.normal(keys_lib.fold(keys, PRIOR + 1 + i), shape[1:])) for i in range(steps)]


def run_theirs(diffusers, pipeline, scheduler, model, x, noise, **options):
    """The states of the pipeline, from the first to the last, images with their channels last."""
    import torch

    states, draws = [x], iter(noise)

    def step(*args, **kwargs):
        answer = scheduler.step_(*args, **kwargs)
        states.append(answer.prev_sample.numpy().transpose(0, 2, 3, 1))
        return answer

    def noise_of(shape, **_):
        return torch.tensor(next(draws).transpose(0, 3, 1, 2))

    scheduler.step_, scheduler.step = scheduler.step, step
    home = "ddim" if pipeline is diffusers.DDIMPipeline else "ddpm"
    begin = torch.tensor(x.transpose(0, 3, 1, 2))
    first = mock.patch(f"diffusers.pipelines.{home}.pipeline_{home}.randn_tensor", return_value=begin)
    later = mock.patch(f"diffusers.schedulers.scheduling_{home}.randn_tensor", noise_of)
    with first, later:
        made = pipeline(model, scheduler)
        made.scheduler = scheduler
        made.set_progress_bar_config(disable=True)
        made(batch_size=len(x), num_inference_steps=STEPS, output_type="np", **options)
    return np.stack(states)


def compare(diffusers, scheduler, sampler, *, outputs=1, limited=True, to_the_end=True, **options):
    """The largest difference of any state, as a part of its largest number, with their tables and with exact ones."""
    import torch

    from tests.interop import sides

    model = sides.make(diffusers, {**NETWORK, "out_channels": 3 * outputs})
    network, params = sides.imported(model)
    schedule = read_scheduler(dict(scheduler.config) | {"_class_name": type(scheduler).__name__})
    x = np.random.default_rng(0).standard_normal((BATCH, *network.event_shape))
    grid = schedule.grid(STEPS)
    denoise = schedule.denoiser(Partial(network, params), limited=limited)
    key, shape = jax.random.key(3), x.shape
    states = sample(key, schedule.process, denoise, sampler, grid, shape, x_init=x, keep_every=1).trajectory
    noise = jax_noise(3, STEPS, shape)
    pipeline = diffusers.DDIMPipeline if isinstance(sampler, DDIM) else diffusers.DDPMPipeline
    config, differences = scheduler.config, []
    for exact in (False, True):
        again = type(scheduler).from_config(config)
        if exact:
            sides.make_precise(model)
            squares = np.exp(2 * np.asarray(schedule.process.schedule.log_alphas[1:]))
            again.alphas_cumprod = torch.tensor(squares)
            again.one = torch.tensor(1.0, dtype=torch.float64)
            # Each has a table of its own for the step to the data.
            if hasattr(again, "final_alpha_cumprod"):
                again.final_alpha_cumprod = again.one if config.set_alpha_to_one else again.alphas_cumprod[0]
        theirs = run_theirs(diffusers, pipeline, again, model, x, noise, **options)[: len(grid)]
        pairs = list(zip(np.asarray(states), theirs, strict=True))[: None if to_the_end else -1]
        differences.append(max(sides.difference(*pair) for pair in pairs))
    return differences


RUNS = {
    "leading": {},
    "leading-offset": {"steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "v": {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "v-zero-terminal-snr": {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    },
    "sample": {"prediction_type": "sample", "beta_schedule": "scaled_linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "thresholding": {"thresholding": True},
    "thresholding-endless": {"thresholding": True, "sample_max_value": float("inf")},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_ddim_is_that_of_its_pipeline(diffusers, name, x64):
    options = {"clip_sample": False, **RUNS[name]}
    rough, exact = compare(diffusers, diffusers.DDIMScheduler(**options), DDIM(), use_clipped_model_output=True)
    assert exact < 1e-10
    assert rough < 1e-4


def test_a_run_that_is_clipped_is_that_of_its_pipeline(diffusers, x64):
    """Its noise read off the clipped answer, where the pipeline is asked for that, or off the unclipped one."""
    for sampler, options in ((DDIM(), {"use_clipped_model_output": True}), (DDIM(clip=1.0), {"limited": False})):
        rough, exact = compare(diffusers, diffusers.DDIMScheduler(), sampler, **options)
        assert exact < 1e-10
        assert rough < 1e-4


def test_a_run_that_ends_at_the_first_noise_is_that_of_its_pipeline(diffusers, x64):
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    rough, exact = compare(diffusers, scheduler, DDIM())
    assert exact < 1e-10
    assert rough < 1e-4


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_run_of_ancestral_steps_is_that_of_its_pipeline(diffusers, spacing, variance, x64):
    scheduler = diffusers.DDPMScheduler(variance_type=variance, timestep_spacing=spacing)
    schedule = read_scheduler(dict(scheduler.config) | {"_class_name": "DDPMScheduler"})
    outputs = 2 if variance == "learned_range" else 1
    # Behind any time but 0 diffusers adds noise to the last step, which leads to the data.
    to_the_end = spacing != "trailing"
    sampler = Ancestral(schedule.variance)
    rough, exact = compare(diffusers, scheduler, sampler, outputs=outputs, to_the_end=to_the_end)
    assert exact < 1e-10
    assert rough < 1e-4
