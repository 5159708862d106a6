"""Folders that `scorefield export --diffusers` writes load in diffusers, whose answers and pictures are the run's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.exporting.diffusers import export_diffusers
from experiments.importing.plan import Options, plan_import, write_run
from experiments.runs.load import load_model
from experiments.runs.model import make_denoiser
from samplers import DDIM, sample
from tests.experiments.importing.folders import write_folder

TIMES = (37, 500, 999)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(The run, what was exported of it after its parameters have moved, as those of a training do)."""
    place = tmp_path_factory.mktemp("export")
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "clip_sample": False}
    write_folder(place / "from", scheduler=scheduler)
    write_run(plan_import(f"diffusers:{place / 'from'}", Options()), place / "run")
    model = load_model(place / "run")
    rng = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.01 * rng.standard_normal(leaf.shape), jnp.float32), model.params
    )
    model = type(model)(model.config, model.facts, model.network, moved, model.path, model.step, model.digest)
    export_diffusers(place / "to", model)
    return model, place / "to"


def test_the_network_answers_the_same(folder, diffusers):
    import torch

    model, place = folder
    theirs = diffusers.UNet2DModel.from_pretrained(place / "unet", use_safetensors=True).eval()
    x = np.random.default_rng(0).standard_normal((len(TIMES), 8, 8, 3)).astype(np.float32)
    with torch.no_grad():
        there = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(TIMES)).sample.numpy().transpose(0, 2, 3, 1)
    t = jnp.asarray(TIMES, jnp.float32) + 1
    x_0 = make_denoiser(model, None)(jnp.asarray(x), t)
    alpha, sigma = (np.asarray(part(t))[:, None, None, None] for part in (model.process.alpha, model.process.sigma))
    eps = (x - alpha * np.asarray(x_0)) / sigma
    assert np.abs(eps - there).max() < 1e-4 * np.abs(there).max()


def test_its_pipeline_draws_the_same_pictures(folder, diffusers, monkeypatch):
    import torch

    model, place = folder
    pipeline = diffusers.DiffusionPipeline.from_pretrained(place, use_safetensors=True)
    assert type(pipeline).__name__ == "DDIMPipeline"
    pipeline.set_progress_bar_config(disable=True)
    x = np.random.default_rng(2).standard_normal((2, 8, 8, 3)).astype(np.float32)
    start = torch.tensor(x.transpose(0, 3, 1, 2))
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: start)
    there = pipeline(batch_size=2, num_inference_steps=10, output_type="np").images
    times = np.append(1 + np.arange(0, 1000, 100)[::-1], 0)
    made = sample(
        jax.random.key(0), model.process, make_denoiser(model, None), DDIM(), times.astype(float), x.shape, x_init=x
    ).x
    np.testing.assert_allclose(np.clip(np.asarray(made) / 2 + 0.5, 0, 1), there, rtol=0, atol=1e-4)
