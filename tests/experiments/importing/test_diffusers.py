"""Folders of diffusers as runs: what is read, what is refused, and that the run samples as its scheduler says."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from PIL import Image

from diffusion.betas import Betas
from diffusion.ddpm.reverse_steps import FixedLarge
from diffusion.networks import UNet2DConfig
from experiments.config.chain import Chain
from experiments.errors import CheckpointError, UsageError
from experiments.importing.diffusers import plan
from experiments.importing.diffusers_names import to_params, unet2d_network, wanted
from experiments.importing.diffusers_scheduler import read_scheduler
from experiments.importing.plan import Options, plan_import, write_run
from experiments.runs.load import load_model
from experiments.sampling.guidance import UNGUIDED
from experiments.sampling.solver import build_own
from samplers import DDIM, Ancestral, sample
from tests.experiments.importing.folders import SCHEDULER, UNET, WEIGHTS, arrays_of, write_folder


def planned(place, **options):
    return plan(place, Options(**options))


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_a_folder_becomes_a_run_with_its_arrays_and_the_digests_of_its_files(tmp_path):
    place = write_folder(tmp_path / "given")
    found = plan_import(f"diffusers:{place}", Options())
    record = write_run(found, tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert same(model.params, to_params(wanted(model.network), arrays_of(UNET)))
    names = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", f"unet/{WEIGHTS}"]
    assert record.sha256 == {
        (place / name).name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names
    }
    assert model.imported == record
    assert isinstance(model.config.network, UNet2DConfig)
    assert found.parameters == sum(array.size for array in arrays_of(UNET).values())


def test_the_grid_of_a_run_is_that_of_the_scheduler(tmp_path):
    for number, (scheduler, steps) in enumerate(
        [
            ({"steps_offset": 1, "_class_name": "DDIMScheduler"}, 50),
            ({"timestep_spacing": "trailing", "_class_name": "DDIMScheduler", "set_alpha_to_one": False}, 50),
            ({"timestep_spacing": "linspace", "num_train_timesteps": 100, "_class_name": "DDIMScheduler"}, 50),
            ({"_class_name": "PNDMScheduler"}, 50),
            ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}, 50),
        ]
    ):
        found = planned(write_folder(tmp_path / str(number), scheduler=scheduler))
        expected = read_scheduler({**SCHEDULER, **scheduler}).grid(steps)
        np.testing.assert_array_equal(build_own(found.config).grid, expected)


def test_what_the_scheduler_says_is_in_the_configuration(tmp_path):
    betas = list(np.linspace(0.001, 0.2, 30))
    scheduler = {"trained_betas": betas, "num_train_timesteps": 30, "prediction_type": "v_prediction"}
    more = {"rescale_betas_zero_snr": True, "clip_sample": False, "variance_type": "fixed_small"}
    config = planned(write_folder(tmp_path / "a", scheduler={**scheduler, **more})).config
    expected = Betas.from_betas(betas).zero_terminal_snr()
    np.testing.assert_array_equal(config.process().schedule.log_alphas, expected.log_alphas)
    assert (config.preconditioning.kind, config.sampling.clip, config.sampling.variance) == ("v", "no", "auto")
    endless = {"thresholding": True, "sample_max_value": 1e30, "dynamic_thresholding_ratio": 0.9}
    with pytest.raises(CheckpointError, match="sample_max_value 1e\\+30 has no counterpart here"):
        planned(write_folder(tmp_path / "b", scheduler=endless))
    config = planned(write_folder(tmp_path / "c", scheduler={**endless, "sample_max_value": float("inf")})).config
    assert (config.sampling.clip, config.sampling.percentile) == ("dynamic", 90.0)
    cosine = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}
    config = planned(write_folder(tmp_path / "d", scheduler=cosine)).config
    assert config.schedule == Chain(shape="cosine", steps=50)


def test_noise_that_is_all_of_x_leaves_epsilon_without_an_image(tmp_path):
    with pytest.raises(CheckpointError, match="prediction_type epsilon does not determine the image at the noisiest"):
        planned(write_folder(tmp_path / "given", scheduler={"rescale_betas_zero_snr": True}))


@pytest.mark.parametrize(
    ("options", "sampler", "note"),
    [
        ({}, "dpmpp-2m", None),
        ({"algorithm_type": "sde-dpmsolver++"}, "sde-dpmpp", None),
        ({"solver_order": 3}, "dpmpp-3m", None),
        ({"algorithm_type": "dpmsolver"}, "dpmpp-2m", "algorithm_type dpmsolver of DPMSolverMultistepScheduler has no"),
        ({"solver_type": "heun"}, "dpmpp-2m", "solver_type heun of DPMSolverMultistepScheduler has no counterpart"),
        ({"use_lu_lambdas": True}, "dpmpp-2m", "use_lu_lambdas spaces noise levels between those of the chain"),
        ({"use_beta_sigmas": True}, "dpmpp-2m", "use_beta_sigmas spaces noise levels between those of the chain"),
    ],
)
def test_what_a_scheduler_steps_by_is_followed_or_told(options, sampler, note, tmp_path):
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", **options}
    index = {"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}
    found = planned(write_folder(tmp_path / "given", scheduler=scheduler, index=index))
    assert found.config.sampling.sampler == sampler
    said = [line for line in found.notes if "has no counterpart" in line or "spaces noise levels" in line]
    assert len(said) == (note is not None)
    assert all(note in line for line in said)


def test_a_network_that_is_told_the_logarithm_of_a_chains_time_is_noted(tmp_path):
    found = planned(write_folder(tmp_path / "given", unet={"time_embedding_type": "fourier"}))
    assert any("--grid trailing leaves that time out" in note for note in found.notes)


def test_the_class_of_the_pipeline_goes_before_that_which_wrote_the_schedulers_file(tmp_path):
    place = write_folder(tmp_path / "given", index={"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]})
    found = planned(place)
    assert (found.config.sampling.sampler, found.config.sampling.grid) == ("dpmpp-2m", "linspace")
    assert any("leaves out the time nearest to the data" in note for note in found.notes)


def test_shards_flat_folders_and_networks_alone_are_read(tmp_path):
    whole = planned(write_folder(tmp_path / "whole"))
    several = planned(write_folder(tmp_path / "several", shards=3))
    assert len(several.files) == len(whole.files) + 2
    assert same(several.read(), whole.read())
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (tmp_path / "whole").rglob("*.*"):
        shutil.copy(file, flat)
    assert same(planned(flat).read(), whole.read())
    assert same(planned(tmp_path / "whole" / "unet").read(), whole.read())
    shutil.rmtree(tmp_path / "whole" / "scheduler")
    with pytest.raises(CheckpointError, match=r"unet has no scheduler_config.json, which says with what noise"):
        planned(tmp_path / "whole" / "unet")


BIAS = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_out.bias": None}, "lacks conv_out.bias; the network of its configuration needs it."),
        ({"extra": BIAS}, "has extra, which the network of its configuration does not have."),
        ({"conv_out.bias": BIAS[:2]}, r"conv_out.bias has shape \[2\], and the network of its configuration needs \[3"),
        ({"conv_out.bias": BIAS.astype(np.int32)}, "conv_out.bias is of type I32; its numbers are to be floating-po"),
    ],
)
@pytest.mark.parametrize("shards", [1, 2])
def test_arrays_that_do_not_belong_are_named_before_any_is_read(changes, message, shards, tmp_path, monkeypatch):
    from experiments.importing.safetensors import SafeTensors

    monkeypatch.setattr(SafeTensors, "read", lambda *_: pytest.fail("an array was read"))
    with pytest.raises(CheckpointError, match=message):
        planned(write_folder(tmp_path / "given", changes=changes, shards=shards))


def test_numbers_that_are_not_finite_and_a_file_that_is_cut_off_are_named(tmp_path):
    found = planned(write_folder(tmp_path / "a", changes={"conv_out.bias": np.array([0, np.nan, 0], np.float32)}))
    with pytest.raises(CheckpointError, match=r"conv_out.bias holds numbers that are not finite"):
        found.read()
    weights = write_folder(tmp_path / "b") / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS} is cut off within .*: it has "):
        planned(tmp_path / "b")


def test_an_index_that_does_not_agree_with_its_files_is_refused(tmp_path):
    place = write_folder(tmp_path / "given", shards=2)
    index = place / "unet" / f"{WEIGHTS}.index.json"
    said = json.loads(index.read_text())
    for change, message in [
        ({"conv_in.bias": "../../elsewhere.safetensors"}, "conv_in.bias is in '../../elsewhere.safetensors'; it is a"),
        ({"nothing.bias": sorted(said["weight_map"].values())[0]}, "lacks nothing.bias, which "),
        ({"conv_in.bias": "missing.safetensors"}, "missing.safetensors cannot be read"),
    ]:
        index.write_text(json.dumps({"weight_map": said["weight_map"] | change}))
        with pytest.raises(CheckpointError, match=message):
            planned(place)
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(CheckpointError, match="has no weight_map from arrays to files"):
        planned(place)


def test_a_pickle_is_not_opened_and_the_line_that_converts_it_is_told(tmp_path):
    place = write_folder(tmp_path / "given")
    weights = place / "unet" / WEIGHTS
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError) as refused:
        planned(place)
    sentence = str(refused.value)
    assert "unet has pickled weights, which are not opened." in sentence
    line = (
        "python -c \"import torch as t, safetensors.torch as s; n='diffusion_pytorch_model'; s.save_file({k: v.clone() "
    )
    assert line + "for k, v in t.load(n+'.bin', weights_only=True).items()}, n+'.safetensors')\"" in sentence
    weights.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=rf"unet has no {WEIGHTS}; fetch it."):
        planned(place)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unet": {"down_block_types": ["DownBlock2D", "KDownBlock2D"]}}, "down_block_types is 'KDownBlock2D'; choose"),
        ({"unet": {"mid_block_type": "Foo"}}, "mid_block_type is 'Foo'"),
        ({"unet": {"class_embed_type": "identity"}}, "class_embed_type identity takes a vector for each image; a run"),
        (
            {"unet": {"out_channels": 6}},
            "the network answers twice the channels of an image, and variance_type is 'fix",
        ),
        ({"scheduler": {"variance_type": "learned_range"}}, "answers the channels of an image, and variance_type is"),
        ({"scheduler": {"_class_name": "LCMScheduler"}}, "scheduler_config.json is of LCMScheduler"),
        (
            {"index": {"vqvae": ["diffusers", "VQModel"]}},
            "is of DDPMPipeline, which has a vqvae of VQModel; only pipel",
        ),
        ({"index": {"unet": ["diffusers", "UNet1DModel"]}}, "its unet is a UNet1DModel; only UNet2DModel is known"),
        (
            {"unet": {"class_embed_type": "timestep"}},
            "class_embed_type is timestep, which does not say how many",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(given, message, tmp_path, as_users_call_it):
    place = write_folder(tmp_path / "given", **{**given, "unet": {}})
    (place / "unet" / "config.json").write_text(json.dumps({**UNET, **given.get("unet", {})}))
    with pytest.raises(CheckpointError, match=message):
        planned(place)


def test_classes_are_those_of_the_table_or_as_many_as_are_told(tmp_path):
    place = write_folder(tmp_path / "given", unet={"num_class_embeds": 5})
    found = planned(place)
    assert (found.facts.num_classes, found.config.conditional, found.config.label_dropout) == (5, True, 0.0)
    found = planned(place, classes=4)
    assert (found.facts.num_classes, found.config.conditional, found.config.label_dropout) == (4, True, 0.1)
    with pytest.raises(CheckpointError, match="num_classes is 2, and the table has 5 rows"):
        planned(place, classes=2)
    with pytest.raises(CheckpointError, match="--classes is 3, and this network takes no class; leave it out"):
        planned(write_folder(tmp_path / "of none"), classes=3)
    with pytest.raises(UsageError, match=r"--df 128 goes with edm:FILE.safetensors, and this is diffusers; leave it"):
        plan_import(f"diffusers:{place}", Options(df=128))


def test_a_folder_that_is_none_is_told_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is no folder; give one with model_index.json"):
        planned(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no config.json; give a folder with model_index.json"):
        planned(tmp_path)
    place = write_folder(tmp_path / "given")
    (place / "unet" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        planned(place)


def test_whole_runs_are_those_of_the_schedulers_own_denoiser(tmp_path):
    """Through configuration, checkpoint and `Preconditioning` as with the network told diffusers' time, and clipped."""
    scheduler = {"num_train_timesteps": 20, "beta_end": 0.4, "steps_offset": 1, "clip_sample_range": 0.6}
    write_run(planned(write_folder(tmp_path / "given", scheduler=scheduler)), tmp_path / "run")
    model = load_model(tmp_path / "run")
    schedule, network = read_scheduler({**SCHEDULER, **scheduler}), unet2d_network(UNET)
    solver = build_own(model.config)
    assert (solver.name, solver.sampler, len(solver.grid)) == ("ancestral", Ancestral(FixedLarge()), 20)
    np.testing.assert_array_equal(solver.grid, schedule.grid(19))
    params = jax.tree.map(jnp.asarray, to_params(wanted(network), arrays_of(UNET)))
    theirs, x = schedule.denoiser(Partial(network, params)), np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    ends = [
        sample(jax.random.key(0), model.process, denoise, DDIM(), schedule.grid(4), x.shape, x_init=x.astype("f4")).x
        for denoise in (UNGUIDED.denoiser(model, None), theirs)
    ]
    assert np.abs(ends[0]).max() <= 0.6
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)


def test_a_run_is_one_like_any_other(tmp_path, run_command):
    """Samplers that need a velocity, a grid fitted to the flow, and the cost of solvers, on an imported chain."""
    place, run = write_folder(tmp_path / "given"), tmp_path / "run"
    assert run_command("import", f"diffusers:{place}", "--out", run).status == 0
    odd = write_folder(tmp_path / "odd", changes={"conv_out.bias": np.array([0, np.nan, 0], np.float32)})
    said = run_command("import", f"diffusers:{odd}", "--dry-run")
    assert (said.status, "conv_out.bias holds numbers that are not finite" in said.err) == (4, True)
    drawn = ("sample", "--run", run, "--seeds", "0-1", "--json")
    said = run_command(*drawn, "--sampler", "heun", "--steps", "2", "--outdir", tmp_path / "heun")
    assert said.status == 0, said.err
    assert said.value["between_times"] is True
    fit = ("--images", "2", "--reference-steps", "6", "--rounds", "0", "--json")
    said = run_command("grid", "--run", run, "--sampler", "ddim", "--steps", "3", *fit)
    assert said.status == 0, said.err
    times = said.value["times"]
    assert times != np.rint(times).tolist()
    said = run_command(*drawn, "--sampler", "ddim", "--steps", "3", "--grid", "fitted", "--outdir", tmp_path / "fitted")
    assert (said.status, said.value["fitted"]["times"]) == (0, times)
    png = tmp_path / "one.png"
    Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(png)
    edit = ("edit", "--run", run, "--image", png, "--sampler", "heun", "--steps", "2", "--seeds", "0", "--json")
    said = run_command(*edit, "--strength", "0.5", "--outdir", tmp_path / "redrawn")
    assert (said.status, said.value["between_times"]) == (0, True), said.err
    told = ("--samplers", "ddim,euler", "--steps", "3", "--images", "2", "--reference-steps", "10", "--json")
    said = run_command("work-precision", "--run", run, *told)
    assert said.status == 0, said.err
    rows = said.value["rows"]
    assert {(row["sampler"], row["grid"]) for row in rows} >= {
        ("ddim", "fitted"),
        ("ddim", "leading"),
        ("euler", "karras"),
    }
