"""Folders of diffusers: what was imported is written as it was, and what diffusers cannot compute is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.config.chain import Chain
from experiments.errors import UsageError
from experiments.exporting.diffusers import export_diffusers
from experiments.importing.plan import Options, plan_import
from experiments.importing.safetensors import open_safetensors
from experiments.runs.model import Model
from experiments.training.model import network_of
from tests.experiments.importing.folders import SCHEDULER, UNET, WEIGHTS, arrays_of, write_folder
from tests.experiments.runs.test_kept_runs import KEPT

CLASSES = {"num_class_embeds": 4}
LEARNED = {"out_channels": 6}
DDIM = {"_class_name": "DDIMScheduler"}
V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SCALED = {"beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1}
DYNAMIC = {"thresholding": True, "sample_max_value": float("inf")}
VE = {"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50.0}
KINDS = {
    "ddpm": ({}, {}, None),
    "classes, of which one is none": (CLASSES, DDIM, 3),
    "learned variance": (LEARNED, {"variance_type": "learned_range", "clip_sample": False}, None),
    "v, no signal at the end": ({}, {**DDIM, **V}, None),
    "trained betas": ({}, {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}, None),
    "cosine": ({"sample_size": [8, 16]}, {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}, None),
    "scaled, thresholded": ({}, {**DDIM, **SCALED, **DYNAMIC}, None),
    "pndm": ({}, {"_class_name": "PNDMScheduler", "skip_prk_steps": True}, None),
    "dpm-solver++": ({}, {"_class_name": "DPMSolverMultistepScheduler"}, None),
    "ve": ({"time_embedding_type": "fourier"}, VE, None),
}


def imported(folder, classes=None):
    """The model of the run that an import would write."""
    plan = plan_import(f"diffusers:{folder}", Options(classes=classes))
    return Model(plan.config, plan.facts, network_of(plan.config, plan.facts), plan.read())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_imported_is_written_as_it_was(kind, tmp_path):
    unet, scheduler, classes = KINDS[kind]
    model = imported(write_folder(tmp_path / "from", unet=unet, scheduler=scheduler), classes)
    said = export_diffusers(tmp_path / "to", model)
    wanted = {**SCHEDULER, **scheduler}
    assert said["scheduler"] == wanted["_class_name"]
    index = json.loads((tmp_path / "to" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert index["scheduler"] == ["diffusers", wanted["_class_name"]]
    written = json.loads((tmp_path / "to" / "unet" / "config.json").read_text())
    assert {name: written[name] for name in {**UNET, **unet}} == {**UNET, **unet}
    file = open_safetensors(tmp_path / "to" / "unet" / WEIGHTS)
    arrays = arrays_of(unet)
    assert (set(file.entries), file.metadata) == (set(arrays), {"format": "pt"})
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.read(name), array, err_msg=name)
    again = imported(tmp_path / "to", classes)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert dataclasses.replace(again.config, schedule=model.config.schedule) == model.config
    np.testing.assert_allclose(*(levels(one) for one in (again, model)), rtol=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "to"]


def levels(model):
    schedule = model.config.schedule
    return schedule.build().log_alphas if isinstance(schedule, Chain) else [schedule.sigma_min, schedule.sigma_max]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("imported")
    return imported(write_folder(place / "from"))


def changed(model, **fields):
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **fields))


def test_a_chain_of_another_shape_is_written_beta_by_beta(model, tmp_path):
    export_diffusers(tmp_path / "to", changed(model, schedule=Chain(shape="linear-rate", steps=1000)))
    said = json.loads((tmp_path / "to" / "scheduler" / "scheduler_config.json").read_text())
    np.testing.assert_allclose(said["trained_betas"], np.linspace(1e-4, 0.02, 1000), rtol=1e-9)


def test_a_sampler_that_diffusers_does_not_have_becomes_ddim(model, tmp_path):
    sampling = dataclasses.replace(model.config.sampling, sampler="restart", grid="uniform-time", variance="auto")
    assert export_diffusers(tmp_path / "to", changed(model, sampling=sampling))["scheduler"] == "DDIMScheduler"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (lambda one: {"preconditioning": dataclasses.replace(one.preconditioning, sigma_data=0.5)}, "preconditioning"),
        (lambda one: {"schedule": dataclasses.replace(one.schedule, steps=500)}, "network"),
        (lambda one: {"network": dataclasses.replace(one.network, time_offset=0.0)}, "network"),
        (lambda one: {"preconditioning": dataclasses.replace(one.preconditioning, kind="velocity")}, "prediction_type"),
    ],
)
def test_what_diffusers_cannot_compute_is_refused_by_name(model, fields, sentence, tmp_path):
    with pytest.raises(UsageError, match=f"diffusers cannot compute what this run does: .*{sentence}"):
        export_diffusers(tmp_path / "to", changed(model, **fields(model.config)))
    assert list(tmp_path.iterdir()) == []


def test_another_network_and_another_place_are_refused(model, tmp_path, run_command):
    done = run_command("export", "--run", KEPT / "points", "--diffusers", tmp_path / "to")
    assert (done.status, "this one's network is MLP; --weights writes any network" in done.err) == (2, True), done.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UsageError, match="is there already; give another --diffusers"):
        export_diffusers(tmp_path / "mine", model)
