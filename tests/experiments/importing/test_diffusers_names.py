"""A configuration and arrays of diffusers: read by name, refused by name, and written back as they came."""

import functools
import re

import jax
import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.importing.diffusers_names import to_arrays, to_params, unet2d_network, wanted

CONFIG = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.42.1",
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "downsample_type": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
}


@functools.cache
def small():
    return unet2d_network(CONFIG)


def random_arrays(network):
    rng = np.random.default_rng(0)
    return {one.name: rng.standard_normal(one.shape).astype(np.float32) for one in wanted(network)}


def test_names_and_shapes_are_those_of_published_files():
    shapes = {one.name: one.shape for one in wanted(small())}
    for name, shape in {
        "conv_in.weight": (8, 3, 3, 3),
        "time_embedding.linear_1.weight": (32, 8),
        "down_blocks.0.downsamplers.0.conv.bias": (8,),
        "down_blocks.1.resnets.0.conv_shortcut.weight": (16, 8, 1, 1),
        "down_blocks.1.resnets.0.time_emb_proj.weight": (16, 32),
        "down_blocks.1.attentions.0.group_norm.weight": (16,),
        "mid_block.attentions.0.to_out.0.weight": (16, 16),
        "up_blocks.0.resnets.1.norm1.bias": (24,),
        "up_blocks.0.upsamplers.0.conv.weight": (16, 16, 3, 3),
        "conv_norm_out.weight": (8,),
        "conv_out.bias": (3,),
    }.items():
        assert shapes[name] == shape, name
    assert not any(".downsamplers." in name for name in shapes if name.startswith("down_blocks.1"))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"time_embedding_type": "fourier", "resnet_time_scale_shift": "scale_shift"},
        {"time_embedding_type": "learned", "num_train_timesteps": 7, "num_class_embeds": 5},
        {"class_embed_type": "timestep", "mid_block_type": None, "downsample_type": "resnet"},
        {
            "block_out_channels": [32, 32],
            "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
            "up_block_types": ["UNetResAttnSkipUpBlock2D", "SkipUpBlock2D"],
        },
    ],
)
def test_arrays_that_were_read_are_written_as_they_came(more):
    classes = 4 if more.get("class_embed_type") else None
    network = unet2d_network({**CONFIG, **more}, num_classes=classes)
    arrays = random_arrays(network)
    params = to_params(wanted(network), arrays)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, params)
    back = to_arrays(network, params)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) and back[name].flags.c_contiguous for name in arrays)


def test_a_kernel_is_turned_and_not_reread():
    arrays = random_arrays(small())
    params = to_params(wanted(small()), arrays)
    kernel, matrix = params["conv_in"]["kernel"], params["time_embedding"]["linear_1"]["kernel"]
    for out, into, row, column in ((0, 2, 1, 0), (7, 0, 2, 1)):
        assert kernel[row, column, into, out] == arrays["conv_in.weight"][out, into, row, column]
    assert matrix[3, 17] == arrays["time_embedding.linear_1.weight"][17, 3]


def test_old_names_of_attention_are_read():
    arrays = random_arrays(small())
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, array in arrays.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = array
    assert "mid_block.attentions.0.proj_attn.bias" in renamed
    back = to_arrays(small(), to_params(wanted(small(), renamed), renamed))
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "UNet2DConditionModel"},
            "config.json is of a UNet2DConditionModel, which cannot be imported; g",
        ),
        (
            {"down_block_types": ["DownBlock2D", "KDownBlock2D"]},
            "config.json: down_block_types is 'KDownBlock2D'; choose",
        ),
        (
            {"norm_num_group": 4},
            "config.json has norm_num_group, which no UNet2DModel has here (did you mean 'norm_num_",
        ),
        ({"time_factor": 2.0}, "config.json has time_factor, which no UNet2DModel has here"),
        ({"layers_per_block": 1.5}, "config.json has layers_per_block 1.5; it is a whole number."),
        ({"add_attention": "yes"}, "config.json has add_attention 'yes'; it is true or false."),
        ({"norm_eps": "1e-6"}, "config.json has norm_eps '1e-6'; it is a number."),
        ({"attention_head_dim": 2.5}, "config.json has attention_head_dim 2.5; it is null or a whole number."),
        ({"act_fn": None}, "config.json has act_fn None; it is a word."),
        (
            {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
            "config.json: mid_block_type is 'UNetMidBlock2DSimpleCross",
        ),
        ({"block_out_channels": 8}, "config.json has block_out_channels 8; it is a list."),
        (
            {"block_out_channels": [8, "a"]},
            "config.json: block_out_channels is (8, 'a'); give a tuple of positive inte",
        ),
        (
            {"sample_size": None},
            "config.json: sample_size is None; a number of pixels is wanted, such as 32,",
        ),
        (
            {"sample_size": 9},
            "config.json: an image of 9×9 pixels cannot be halved 1 times; give sides that are multiple",
        ),
        (
            {"out_channels": 4},
            "config.json: in_channels is 3 and out_channels is 4; a denoiser's are equal, or twice as",
        ),
    ],
)
def test_a_configuration_without_a_counterpart_is_named(change, message, as_users_call_it):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        unet2d_network({**CONFIG, **change})


def test_what_a_configuration_says_of_the_data_is_the_networks():
    network = unet2d_network({**CONFIG, "sample_size": [8, 6], "in_channels": 1, "out_channels": 2})
    assert (network.event_shape, network.outputs, network.num_classes) == ((8, 6, 1), 2, 0)
    network = unet2d_network({**CONFIG, "sample_size": None, "num_class_embeds": 5}, image_size=(4, 4), num_classes=4)
    assert (network.event_shape, network.num_classes) == ((4, 4, 3), 4)
    assert unet2d_network({**CONFIG, "num_class_embeds": 5}).num_classes == 5
