"""DINOv2 against the paper's formulas in float64, under the names of three libraries."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from scipy.special import erf

from experiments.errors import CheckpointError
from experiments.evaluation.networks.dinov2 import assembled, shape_of, wanted
from experiments.evaluation.networks.resizing import matrix
from experiments.evaluation.networks.weights import open_network
from experiments.importing.safetensors import open_safetensors
from tests.experiments.evaluation.networks.files import PATCH, arrays, as_hugging_face, as_timm, dinov2_file, write

X = np.random.default_rng(1).normal(size=(2, 224, 224, 3)).astype(np.float32)


def reference(found, x):
    """Features by the formulas, a token and a head at a time."""
    found = {name: array.astype(np.float64) for name, array in found.items()}

    def norm(h, name):
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
        return h * found[f"{name}.weight"] + found[f"{name}.bias"]

    def linear(h, name):
        return h @ found[f"{name}.weight"].T + found[f"{name}.bias"]

    answers = []
    for image in x.astype(np.float64):
        side, kernel = 224 // PATCH, found["patch_embed.proj.weight"]
        cut = [image[i * PATCH :, j * PATCH :][:PATCH, :PATCH] for i in range(side) for j in range(side)]
        tokens = [np.einsum("hwc,dchw->d", one, kernel) + found["patch_embed.proj.bias"] for one in cut]
        h = np.stack([found["cls_token"][0, 0], *tokens]) + found["pos_embed"][0]
        registers = found.get("register_tokens", np.zeros((1, 0, h.shape[1])))[0]
        h = np.concatenate([h[:1], registers, h[1:]])
        for i in range(2):
            name = f"blocks.{i}"
            q, k, v = np.split(linear(norm(h, f"{name}.norm1"), f"{name}.attn.qkv"), 3, 1)
            logits = q @ k.T / math.sqrt(64)
            weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            h = h + found[f"{name}.ls1.gamma"] * linear(weights @ v, f"{name}.attn.proj")
            inner = norm(h, f"{name}.norm2")
            if f"{name}.mlp.w12.weight" in found:
                gate, value = np.split(linear(inner, f"{name}.mlp.w12"), 2, 1)
                inner = linear(gate / (1 + np.exp(-gate)) * value, f"{name}.mlp.w3")
            else:
                inner = linear(inner, f"{name}.mlp.fc1")
                inner = linear(inner * (1 + erf(inner / math.sqrt(2))) / 2, f"{name}.mlp.fc2")
            h = h + found[f"{name}.ls2.gamma"] * inner
        answers.append(norm(h, "norm")[0])
    return np.stack(answers)


@pytest.mark.parametrize(("registers", "gated"), [(0, False), (3, True)])
def test_features_are_those_of_the_formulas(tmp_path, registers, gated):
    path = dinov2_file(tmp_path, registers=registers, gated=gated)
    network = open_network(path)
    seen = jax.jit(network.body)(network.params, X)
    np.testing.assert_allclose(seen, reference(arrays(registers=registers, gated=gated), X), rtol=1e-4, atol=1e-4)
    assert network.title == f"DINOv2 ViT-64x2/{PATCH}" + (" with 3 registers" if registers else "")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
def test_the_names_of_three_libraries_give_the_same_parameters(tmp_path, registers, gated):
    found, read = arrays(registers=registers, gated=gated), []
    for number, renamed in enumerate((found, as_hugging_face(found), as_timm(found))):
        file = open_safetensors(write(tmp_path / f"{number}.safetensors", renamed))
        shape = shape_of(file)
        assert set(wanted(shape)) | {"mask_token", "embeddings.mask_token"} >= set(renamed)
        assert (shape.registers, shape.gated, shape.hidden) == (registers, gated, 96)
        read.append(assembled(shape, file.read))
    for other in read[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), read[0], other)


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_of_another_grid_are_resized(tmp_path, registers):
    """Without registers by the scale with which its authors trained to be used, 3/(2 + 0.1), and with them by 3/2."""
    found = arrays(registers=registers, grid=3)
    file = open_safetensors(write(tmp_path / "f.safetensors", found))
    table = found["pos_embed"][0, 1:].reshape(3, 3, -1).astype(np.float64)
    rule = matrix("antialiased-bicubic", 3, 2) if registers else matrix("bicubic", 3, 2, 3 / 2.1)
    positions = assembled(shape_of(file), file.read)["positions"]
    np.testing.assert_allclose(positions, np.einsum("ih,jw,hwd->ijd", rule, rule, table).reshape(4, -1), atol=1e-5)


def test_the_published_sizes_have_their_names(tmp_path):
    file = open_safetensors(dinov2_file(tmp_path))
    shape = shape_of(file)
    assert shape.title == "DINOv2 ViT-64x2/112"
    for channels, size in ((384, "S"), (768, "B"), (1024, "L"), (1536, "g")):
        assert dataclasses.replace(shape, channels=channels, patch=14).title == f"DINOv2 ViT-{size}/14"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pos_embed": None}, "lacks pos_embed, which tells the size"),
        ({"cls_token": np.zeros(64, np.float32)}, "cls_token has shape [64]"),
        ({"pos_embed": np.zeros((1, 4, 64), np.float32)}, "is no DINOv2: 64 channels, 4 positions"),
        ({"norm.bias": None}, "lacks norm.bias"),
        ({"head.weight": np.zeros(2, np.float32)}, "has head.weight, which DINOv2 ViT-64x2/112 does not have"),
        ({"blocks.1.ls1.gamma": np.zeros(63, np.float32)}, "blocks.1.ls1.gamma has shape [63]"),
        ({"blocks.0.norm1.weight": None, "blocks.1.norm1.weight": None}, "it has no blocks"),
        ({"blocks.0.mlp.fc1.weight": None}, "lacks blocks.0.mlp.fc1.weight"),
        ({"norm.weight": np.full(64, np.nan, np.float32)}, "norm.weight holds numbers that are not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, changes, said):
    found = arrays() | changes
    path = write(tmp_path / "f.safetensors", {name: array for name, array in found.items() if array is not None})
    with pytest.raises(CheckpointError) as refused:
        open_network(path)
    assert said in str(refused.value)
