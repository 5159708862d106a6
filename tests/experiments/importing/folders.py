"""Folders in diffusers' layout, with random arrays."""

import json

import numpy as np

from experiments.importing.diffusers_names import unet2d_network, wanted
from tests.experiments.importing.published import write

UNET = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.42.1",
    "sample_size": 8,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "norm_eps": 1e-06,
}
SCHEDULER = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.42.1", "variance_type": "fixed_large"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def arrays_of(unet, seed=0):
    """Random arrays for a network's configuration, by name."""
    rng, arrays = np.random.default_rng(seed), {}
    for one in wanted(unet2d_network({**UNET, **unet})):
        fan = np.prod(one.shape[1:]) if len(one.shape) > 1 else 16
        arrays[one.name] = (0.5 * rng.standard_normal(one.shape) / np.sqrt(fan)).astype(np.float32)
        if "norm" in one.name and one.name.endswith("weight"):
            arrays[one.name] += 1
    return arrays


def write_folder(place, *, unet=(), scheduler=(), index=(), changes=(), shards=1):
    """A pipeline's folder; `changes` to the arrays take away those that are None, and replace or add others."""
    unet, scheduler = {**UNET, **dict(unet)}, {**SCHEDULER, **dict(scheduler)}
    (place / "unet").mkdir(parents=True)
    (place / "scheduler").mkdir()
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", scheduler["_class_name"]]}
    said = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.42.1", **parts, **dict(index)}
    (place / "model_index.json").write_text(json.dumps(said))
    (place / "unet" / "config.json").write_text(json.dumps(unet))
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    arrays = arrays_of(unet) | dict(changes)
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if shards == 1:
        write(place / "unet" / WEIGHTS, arrays, {"format": "pt"})
        return place
    places = {}
    for i in range(shards):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors"
        some = dict(list(arrays.items())[i::shards])
        write(place / "unet" / name, some, {"format": "pt"})
        places |= dict.fromkeys(some, name)
    (place / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return place
