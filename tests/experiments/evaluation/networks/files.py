"""A tiny DINOv2 as a file, under the names of three libraries."""

import numpy as np

from experiments.evaluation.networks.dinov2 import Shape
from tests.experiments.importing.published import write as write_safetensors

TINY = Shape("original", channels=64, depth=2, patch=112, grid=2, hidden=96, gated=False, registers=0)
D, PATCH = TINY.channels, TINY.patch
HUGGING_FACE = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
}


def write(path, found):
    """A file of safetensors without texts."""
    return write_safetensors(path, found, None)


def arrays(*, registers=0, gated=False, grid=2, depth=2, hidden=96, seed=0):
    """Random arrays under the names of DINOv2's authors."""
    rng = np.random.default_rng(seed)
    first, last = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    maps = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), first: (hidden * (1 + gated), D), last: (D, hidden)}
    shapes = {"cls_token": (1, 1, D), "mask_token": (1, D), "pos_embed": (1, 1 + grid**2, D)}
    shapes |= {"register_tokens": (1, registers, D)} if registers else {}
    shapes |= {"patch_embed.proj.weight": (D, 3, PATCH, PATCH), "patch_embed.proj.bias": (D,)}
    for i in range(depth):
        for name, shape in maps.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        vectors = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma")
        shapes |= {f"blocks.{i}.{name}": (D,) for name in vectors}
    shapes |= {"norm.weight": (D,), "norm.bias": (D,)}
    found = {}
    for name, shape in shapes.items():
        fan = np.prod(shape[1:]) if len(shape) in (2, 4) else 16
        found[name] = (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32) + ("norm" in name and "w" in name)
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def as_hugging_face(found):
    """The same arrays under the names of transformers."""
    renamed = {}
    for name, array in found.items():
        name = name.replace("blocks.", "encoder.layer.")
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
            continue
        if name.startswith("norm."):
            name = f"layer{name}"
        for old, new in HUGGING_FACE.items():
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


def as_timm(found):
    """The same arrays under the names of timm, which has no position for the token of the image beside registers."""
    renamed = {name: array for name, array in found.items() if name != "mask_token"}
    if "register_tokens" in found:
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        renamed["pos_embed"] = found["pos_embed"][:, 1:]
    return {name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): array for name, array in renamed.items()}


def dinov2_file(folder, name="dinov2.safetensors", **how):
    """The path of a file with such arrays."""
    return write(folder / name, arrays(**how))
