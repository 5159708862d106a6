"""Files in the form of EDM's authors, with random arrays."""

import json

import numpy as np
import pytest

from experiments.importing.edm import layout
from tests.experiments.importing.published import write

NCSNPP = {
    "precond": "VEPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 0,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
DDPMPP = {
    **NCSNPP,
    "precond": "VPPrecond",
    "label_dim": 3,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "skip",
    "decoder_type": "skip",
    "augment_dim": 9,
}
ADM = {
    "precond": "iDDPMPrecond",
    "model_type": "DhariwalUNet",
    "img_resolution": 8,
    "img_channels": 2,
    "label_dim": 4,
    "model_channels": 32,
    "channel_mult": [1, 4],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "label_dropout": 0.1,
    "augment_dim": 9,
}
TINY = {**NCSNPP, "precond": "EDMPrecond", "channel_mult": [1], "attn_resolutions": [], "encoder_type": "standard"}


def arrays_of(config, seed=0):
    """Random arrays for a configuration of the authors', by name."""
    rng, found = np.random.default_rng(seed), layout("a file", config)
    arrays = {}
    for one in found.wanted:
        fan = np.prod(one.shape[1:]) if len(one.shape) > 1 else 16
        arrays[one.name] = (rng.standard_normal(one.shape) / np.sqrt(fan)).astype(np.float32)
        if "norm" in one.name and one.name.endswith("weight"):
            arrays[one.name] += 1
        if one.name.startswith("model.enc.8x8_conv."):  # so that what is added to a variance is seen
            arrays[one.name] *= 1e-3
    return arrays | {name: value.astype(np.float32) for name, value in found.constants.items()}


@pytest.fixture
def published(tmp_path):
    """published(config, **changes): the path of a file with random arrays; None takes one away, others replace it."""

    def make(config, changes=(), *, seed=0):
        arrays = arrays_of(config, seed)
        for name, array in dict(changes).items():
            arrays.pop(name, None)
            if array is not None:
                arrays[name] = array
        return write(tmp_path / "published.safetensors", arrays, {"config": json.dumps(config)})

    return make
