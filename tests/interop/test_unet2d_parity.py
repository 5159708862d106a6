"""UNet2DModel here and in diffusers, with the same random weights, over configurations drawn over the options."""

import json

import numpy as np
import pytest

from experiments.importing.diffusers_names import to_arrays, to_params, unet2d_network, wanted
from tests.interop import drawn

NUMBERS = range(drawn.COUNT)


def labels_for(model, config, rng):
    if config["class_embed_type"] == "identity":
        return rng.standard_normal((4, model.time_embedding.linear_2.out_features))
    classed = config["class_embed_type"] or config["num_class_embeds"]
    # With the features of a logarithm class 0 is NaN on both sides.
    first = int(config["class_embed_type"] == "timestep" and config["time_embedding_type"] == "fourier")
    return rng.integers(first, 5, 4) if classed else None


def test_every_value_of_every_option_is_drawn():
    configs = [drawn.configuration(i) for i in NUMBERS]
    for name, values in drawn.OPTIONS.items():
        assert {config[name] for config in configs} == set(values), name
    for name, kinds in (("down", drawn.DOWN + drawn.SKIP_DOWN), ("up", drawn.UP + drawn.SKIP_UP)):
        assert {block for config in configs for block in config[f"{name}_block_types"]} == set(kinds)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_network_answers_as_diffusers_does(diffusers, number, x64):
    from tests.interop import sides

    config, rng = drawn.configuration(number), np.random.default_rng(number)
    model = sides.make(diffusers, config)
    labels = labels_for(model, config, rng)
    classes = sides.CLASSES if config["class_embed_type"] == "timestep" else None
    network, params = sides.imported(model, num_classes=classes)
    x = rng.standard_normal((len(sides.TIMES), *network.event_shape))
    answer = sides.ours(network, params, x, sides.TIMES, labels)
    assert sides.difference(answer, sides.theirs(model, x, sides.TIMES, labels)) < 1e-4
    sides.make_precise(model)
    assert sides.difference(answer, sides.theirs(model, x, sides.TIMES, labels)) < 1e-10


def test_arrays_go_back_as_they_came_and_diffusers_loads_them(diffusers, tmp_path):
    from safetensors.numpy import load_file, save_file

    config = drawn.configuration(5)
    model = diffusers.UNet2DModel(**config)
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    arrays = load_file(path)
    network = unet2d_network(json.loads((tmp_path / "config.json").read_text()), num_classes=5)
    back = to_arrays(network, to_params(wanted(network), arrays))
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    save_file(back, path, {"format": "pt"})
    again = diffusers.UNet2DModel.from_pretrained(tmp_path).state_dict()
    assert all(np.array_equal(again[name].numpy(), arrays[name]) for name in arrays)


def test_the_old_names_of_attention_are_read_as_diffusers_reads_them(diffusers, tmp_path):
    from safetensors.numpy import load_file, save_file

    config = drawn.configuration(0) | {"down_block_types": ("AttnDownBlock2D",) * 2, "class_embed_type": None}
    model = diffusers.UNet2DModel(**config)
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = load_file(path)
    renamed = {}
    for name, array in arrays.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = array
    assert renamed.keys() != arrays.keys()
    save_file(renamed, path, {"format": "pt"})
    loaded = diffusers.UNet2DModel.from_pretrained(tmp_path).state_dict()
    network = unet2d_network(json.loads((tmp_path / "config.json").read_text()))
    back = to_arrays(network, to_params(wanted(network, renamed), renamed))
    assert all(np.array_equal(back[name], loaded[name].numpy()) for name in loaded)
