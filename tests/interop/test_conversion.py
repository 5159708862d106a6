"""The line that a refusal of pickled weights names does what it says, and diffusers reads the result."""

import os
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.importing.diffusers import plan
from experiments.importing.diffusers_names import to_params
from experiments.importing.plan import Options

NETWORK = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def test_a_pipeline_with_pickled_weights_is_imported_after_the_line(diffusers, tmp_path):
    model = diffusers.UNet2DModel(**NETWORK)
    pipeline = diffusers.DDPMPipeline(model, diffusers.DDPMScheduler(num_train_timesteps=20))
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(CheckpointError) as refused:
        plan(tmp_path, Options())
    line = shlex.split(str(refused.value).partition("run there: ")[2])
    assert line[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *line[1:]], cwd=tmp_path / "unet", check=True, env=dict(os.environ))
    found = plan(tmp_path, Options())
    arrays = {name: array.numpy() for name, array in model.state_dict().items()}
    pairs = zip(jax.tree.leaves(found.read()), jax.tree.leaves(to_params(found.wanted, arrays)), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert diffusers.DDPMPipeline.from_pretrained(tmp_path, use_safetensors=True).unet.config.norm_num_groups == 4
