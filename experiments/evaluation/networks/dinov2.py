"""DINOv2: a vision transformer, with registers or without, whose size is told by the shapes of its arrays.

Tokens are the patches of an image and one that stands for all of it, whose last value, after a norm, is the features.
A block is x + λ₁ attention(norm x), then x + λ₂ f(norm x), where f has a GELU or, in the giant, a gate by SiLU. The
table of positions was trained for another grid and is resized as its authors do: bicubic with n/(m + 0.1) without
registers, and with antialiasing and n/m where there are registers.

Source: Oquab et al. 2023, arXiv:2304.07193; Darcet et al. 2023, arXiv:2309.16588.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from experiments.errors import CheckpointError
from experiments.evaluation.networks.layers import Images
from experiments.evaluation.networks.resizing import matrix
from experiments.importing.safetensors import Entry, SafeTensors, shown
from experiments.names import listed

SIDE = 224
HEAD = 64
"""Channels of a head of attention, in every size that was published."""
EPSILON = 1e-6
SIZES = {384: "S", 768: "B", 1024: "L", 1536: "g"}
_UNUSED = ("mask_token", "embeddings.mask_token")
_HUGGING_FACE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "blocks": "encoder.layer",
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}


@dataclass(frozen=True)
class Shape:
    """What the arrays of a file say of their network."""

    names: str
    """Whose names the file has: "original", "timm" or "hugging face"."""
    channels: int
    depth: int
    patch: int
    grid: int
    """Patches of a side in the table of positions."""
    hidden: int
    gated: bool
    registers: int

    @property
    def title(self) -> str:
        """Such as DINOv2 ViT-S/14 with 4 registers."""
        size = SIZES.get(self.channels, f"{self.channels}x{self.depth}")
        return f"DINOv2 ViT-{size}/{self.patch}" + (f" with {self.registers} registers" if self.registers else "")

    def name(self, part: str) -> str:
        """The file's name of a part in the authors' names."""
        if self.names == "original":
            return part
        if self.names == "timm":
            return (
                part.replace("register_tokens", "reg_token").replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2")
            )
        block = re.match(r"blocks\.(\d+)\.(.*)", part)
        head, rest = (f"encoder.layer.{block[1]}.", block[2]) if block else ("", part)
        for ours, theirs in _HUGGING_FACE.items():
            if rest == ours or rest.startswith(f"{ours}."):
                return head + theirs + rest.removeprefix(ours)
        return head + rest


def is_dinov2(file: SafeTensors) -> bool:
    """Whether these are names of such a network."""
    return any(name in file.entries for name in ("cls_token", "embeddings.cls_token"))


def shape_of(file: SafeTensors) -> Shape:
    """What the network is. Raises CheckpointError for an array that says it and is not there, or of another form."""
    names = "original" if "cls_token" in file.entries else "hugging face"
    if names == "original" and not any(name == "mask_token" or ".w12." in name for name in file.entries):
        names = "timm"
    blank = Shape(names, 0, 0, 0, 0, 0, False, 0)

    def sizes(part: str, axes: int) -> tuple[int, ...]:
        name = blank.name(part)
        entry: Entry | None = file.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{file.path} lacks {listed([name])}, which tells the size of a DINOv2.")
        if len(entry.shape) != axes or 0 in entry.shape:
            raise CheckpointError(
                f"{file.path}: {listed([name])} has shape {shown(list(entry.shape))}; a DINOv2 has {axes} axes."
            )
        return entry.shape

    channels, patch = sizes("cls_token", 3)[2], sizes("patch_embed.proj.weight", 4)[2]
    stem = re.escape(blank.name("blocks.0.norm1.weight")).replace("0", r"(\d+)")
    depth = max((int(found[1]) for name in file.entries if (found := re.fullmatch(stem, name))), default=-1) + 1
    if depth == 0:
        raise CheckpointError(f"{file.path} lacks {listed([blank.name('blocks.0.norm1.weight')])}; it has no blocks.")
    positions = sizes("pos_embed", 3)[1]
    registers = sizes("register_tokens", 3)[1] if blank.name("register_tokens") in file.entries else 0
    patches = positions if names == "timm" and registers else positions - 1
    grid = math.isqrt(max(0, patches))
    gated = blank.name("blocks.0.mlp.w12.weight") in file.entries and names != "timm"
    first = sizes("blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight", 2)[0]
    if names == "timm" and (last := sizes("blocks.0.mlp.fc2.weight", 2)[1]) * 2 == first:
        gated, hidden = True, last
    else:
        hidden = first // 2 if gated else first
    if grid * grid != patches or grid == 0 or channels % HEAD or SIDE % patch:
        raise CheckpointError(
            f"{file.path} is no DINOv2: {channels} channels, {positions} positions and patches of {patch} pixels; the "
            f"channels are a multiple of {HEAD}, the positions a square and one more, and {SIDE} of the patches' side."
        )
    return Shape(names, channels, depth, patch, grid, hidden, gated, registers)


def wanted(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The file's arrays, by name."""
    d, name = shape.channels, shape.name
    patches = shape.grid**2
    found: dict[str, tuple[int, ...]] = {
        name("cls_token"): (1, 1, d),
        name("pos_embed"): (1, patches + (not _bare(shape)), d),
        name("patch_embed.proj.weight"): (d, 3, shape.patch, shape.patch),
        name("patch_embed.proj.bias"): (d,),
        name("norm.weight"): (d,),
        name("norm.bias"): (d,),
    }
    if shape.registers:
        found[name("register_tokens")] = (1, shape.registers, d)
    for block in range(shape.depth):
        for part, (_, size) in _parts(shape).items():
            for one in _sources(shape, f"blocks.{block}.{part}"):
                split = shape.names == "hugging face" and ".qkv." in f".{part}."
                found[one] = (size[0] // 3, *size[1:]) if split else size
    return found


def unused(file: SafeTensors) -> set[str]:
    """Arrays that are for training alone."""
    return {name for name in _UNUSED if name in file.entries}


def _bare(shape: Shape) -> bool:
    """Whether the table has no position for the token of the image, which then holds its own."""
    return shape.names == "timm" and shape.registers > 0


def _parts(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of a block: the authors' name, ours, and the shape in the authors' file."""
    d, hidden = shape.channels, shape.hidden
    first, last = ("mlp.w12", "mlp.w3") if shape.gated else ("mlp.fc1", "mlp.fc2")
    maps = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), first: (hidden * (1 + shape.gated), d), last: (d, hidden)}
    parts: dict[str, tuple[str, tuple[int, ...]]] = {}
    for ours, (theirs, size) in zip(("qkv", "proj", "first", "last"), maps.items(), strict=True):
        parts[f"{theirs}.weight"] = (f"{ours}_kernel", size)
        parts[f"{theirs}.bias"] = (f"{ours}_bias", size[:1])
    for norm in ("norm1", "norm2"):
        parts |= {f"{norm}.weight": (f"{norm}_scale", (d,)), f"{norm}.bias": (f"{norm}_bias", (d,))}
    return parts | {"ls1.gamma": ("scale1", (d,)), "ls2.gamma": ("scale2", (d,))}


def _sources(shape: Shape, part: str) -> list[str]:
    """The arrays of the file that are a part of the authors' together."""
    if shape.names == "hugging face" and ".attn.qkv." in part:
        return [shape.name(part.replace(".qkv.", f".{one}.")) for one in "qkv"]
    return [shape.name(part)]


def assembled(shape: Shape, read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """The parameters, of which those of the blocks have an axis for the block first."""
    d, name = shape.channels, shape.name
    token, positions = read(name("cls_token"))[0, 0], read(name("pos_embed"))[0]
    if _bare(shape):
        positions = np.concatenate([np.zeros((1, d), np.float32), positions])
    blocks: dict[str, np.ndarray] = {}
    for part, (ours, size) in _parts(shape).items():
        turned = size[::-1] if len(size) == 2 else size
        stack = np.empty((shape.depth, *turned), np.float32)
        for block in range(shape.depth):
            pieces = [read(one) for one in _sources(shape, f"blocks.{block}.{part}")]
            stack[block] = np.concatenate(pieces).T
        blocks[ours] = stack
    return {
        "token": token + positions[0],
        "positions": _positions(positions[1:], shape),
        "registers": read(name("register_tokens"))[0] if shape.registers else np.zeros((0, d), np.float32),
        "patch_kernel": read(name("patch_embed.proj.weight")).transpose(2, 3, 1, 0).reshape(-1, d),
        "patch_bias": read(name("patch_embed.proj.bias")),
        "norm_scale": read(name("norm.weight")),
        "norm_bias": read(name("norm.bias")),
        "blocks": blocks,
    }


def _positions(table: Float[np.ndarray, "n d"], shape: Shape) -> Float[np.ndarray, "m d"]:
    """The table for the patches of an image of `SIDE` pixels."""
    there, here = shape.grid, SIDE // shape.patch
    if there == here:
        return table
    weights = (
        matrix("antialiased-bicubic", there, here)
        if shape.registers
        else matrix("bicubic", there, here, there / (here + 0.1))
    )
    grid = table.astype(np.float64).reshape(there, there, -1)
    return np.einsum("ih,jw,hwd->ijd", weights, weights, grid, optimize=True).reshape(here**2, -1).astype(np.float32)


def features(shape: Shape, params: Mapping[str, Any], x: Images) -> Float[Array, "b d"]:
    """Features of images of 224×224 pixels, normalised as in the training."""
    b, patch = x.shape[0], shape.patch
    side = SIDE // patch
    patches = x.reshape(b, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, side**2, -1)
    patches = patches @ params["patch_kernel"] + params["patch_bias"] + params["positions"]
    alike = [jnp.broadcast_to(one, (b, *one.shape)) for one in (params["token"][None], params["registers"])]
    tokens = jnp.concatenate([*alike, patches], 1)

    def block(h: Float[Array, "b n d"], of: dict[str, Array]) -> tuple[Float[Array, "b n d"], None]:
        h = h + of["scale1"] * _attention(_norm(h, of["norm1_scale"], of["norm1_bias"]), of)
        inner = _norm(h, of["norm2_scale"], of["norm2_bias"]) @ of["first_kernel"] + of["first_bias"]
        if shape.gated:
            gate, value = jnp.split(inner, 2, -1)
            inner = jax.nn.silu(gate) * value
        else:
            inner = jax.nn.gelu(inner, approximate=False)
        return h + of["scale2"] * (inner @ of["last_kernel"] + of["last_bias"]), None

    tokens, _ = lax.scan(block, tokens, params["blocks"])
    return _norm(tokens[:, 0], params["norm_scale"], params["norm_bias"])


def _norm(x: Array, scale: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * scale + bias


def _attention(x: Float[Array, "b n d"], of: dict[str, Array]) -> Float[Array, "b n d"]:
    b, n, d = x.shape
    q, k, v = jnp.moveaxis((x @ of["qkv_kernel"] + of["qkv_bias"]).reshape(b, n, 3, d // HEAD, HEAD), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(HEAD), -1)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(b, n, d) @ of["proj_kernel"] + of["proj_bias"]
