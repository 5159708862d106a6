"""Files in the form of EDM's authors, and a second way to what the networks in them answer.

The reference is PyTorch's layout throughout: images (b, c, h, w), kernels (out, in, h, w), the arrays of the file as
they are, and each filter one convolution with zeros between the pixels. It shares no line with the networks.
"""

import json
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NUMBERS = ("NCHW", "OIHW", "NCHW")


def write(path, arrays, metadata):
    """A file of safetensors of these arrays, {name: numpy array}, and texts."""
    header, place = {"__metadata__": metadata} if metadata is not None else {}, 0
    for name, array in arrays.items():
        dtype = {"f": "F", "i": "I", "b": "BOOL"}[array.dtype.kind]
        kind = dtype if dtype == "BOOL" else f"{dtype}{8 * array.dtype.itemsize}"
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values()))
    return path


def group_norm(x, weight, bias, epsilon):
    b, c = x.shape[:2]
    groups = x.reshape(b, min(32, c // 4), -1)
    mean, variance = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    y = ((groups - mean) / jnp.sqrt(variance + epsilon)).reshape(x.shape)
    return y * weight[:, None, None] + bias[:, None, None]


class Reference:
    """F of Karras et al. 2022 for the arrays of a file and the authors' configuration."""

    def __init__(self, arrays, config):
        self.arrays, self.config = arrays, config
        self.song = config["model_type"] == "SongUNet"
        self.epsilon = 1e-6 if self.song else 1e-5
        self.scale = math.sqrt(0.5) if self.song else 1.0

    def __getitem__(self, name):
        return jnp.asarray(self.arrays[f"model.{name}"])

    def has(self, name):
        return f"model.{name}" in self.arrays

    def conv(self, x, name, pad=None):
        weight = self[f"{name}.weight"]
        pad = weight.shape[-1] // 2 if pad is None else pad
        y = lax.conv_general_dilated(x, weight, (1, 1), [(pad, pad)] * 2, dimension_numbers=NUMBERS)
        return y + self[f"{name}.bias"][:, None, None]

    def filtered(self, x, name, *, up=False, pad=None):
        f, c = self[f"{name}.resample_filter"], x.shape[1]
        side = f.shape[-1]
        pad = (side - 1) // 2 if pad is None else pad
        around = side - 1 - pad if up else pad
        return lax.conv_general_dilated(
            x,
            jnp.tile(4 * f if up else f, (c, 1, 1, 1)),
            (1, 1) if up else (2, 2),
            [(around, around)] * 2,
            lhs_dilation=(2, 2) if up else (1, 1),
            dimension_numbers=NUMBERS,
            feature_group_count=c,
        )

    def norm(self, x, name):
        return group_norm(x, self[f"{name}.weight"], self[f"{name}.bias"], self.epsilon)

    def linear(self, x, name):
        bias = self[f"{name}.bias"] if self.has(f"{name}.bias") else 0
        return x @ self[f"{name}.weight"].T + bias

    def block(self, x, emb, name):
        def resized(x, part):
            if not self.has(f"{name}.{part}.resample_filter"):
                return x
            return self.filtered(x, f"{name}.{part}", up=name.endswith("_up"))

        h = self.conv(resized(jax.nn.silu(self.norm(x, f"{name}.norm0")), "conv0"), f"{name}.conv0")
        told = self.linear(emb, f"{name}.affine")[:, :, None, None]
        if self.song:
            h = jax.nn.silu(self.norm(h + told, f"{name}.norm1"))
        else:
            scale, shift = jnp.split(told, 2, axis=1)
            h = jax.nn.silu(shift + self.norm(h, f"{name}.norm1") * (1 + scale))
        x = resized(x, "skip")
        if self.has(f"{name}.skip.weight"):
            x = self.conv(x, f"{name}.skip")
        x = (x + self.conv(h, f"{name}.conv1")) * self.scale
        return (x + self.attention(x, name)) * self.scale if self.has(f"{name}.qkv.weight") else x

    def attention(self, x, name):
        b, c, h, w = x.shape
        heads = 1 if self.song else c // 64
        qkv = self.conv(self.norm(x, f"{name}.norm2"), f"{name}.qkv").reshape(b * heads, c // heads, 3, h * w)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        weights = jax.nn.softmax(jnp.einsum("ncq,nck->nqk", q, k) / math.sqrt(c // heads), axis=2)
        return self.conv(jnp.einsum("nqk,nck->ncq", weights, v).reshape(b, c, h, w), f"{name}.proj")

    def embedded(self, c_noise, one_hot, augment):
        if self.has("map_noise.freqs"):
            angles = 2 * np.pi * c_noise[:, None] * self["map_noise.freqs"]
        else:
            half = self["map_layer0.weight"].shape[1] // 2
            angles = c_noise[:, None] / 10000 ** (np.arange(half) / (half - 1 if self.song else half))
        told = [jnp.sin(angles), jnp.cos(angles)]
        told = jnp.concatenate(told if self.song else told[::-1], axis=1)
        if self.has("map_augment.weight"):
            told = told + self.linear(augment, "map_augment")
        if self.song and one_hot is not None:
            told = told + self.linear(one_hot * math.sqrt(one_hot.shape[1]), "map_label")
        emb = self.linear(jax.nn.silu(self.linear(told, "map_layer0")), "map_layer1")
        if not self.song and one_hot is not None:
            emb = emb + self.linear(one_hot, "map_label")
        return jax.nn.silu(emb)

    def __call__(self, x, c_noise, one_hot=None, augment=None):
        config, emb = self.config, self.embedded(c_noise, one_hot, augment)
        levels = [config["img_resolution"] >> i for i in range(len(config["channel_mult"]))]
        skips, aux = [], x
        for i, side in enumerate(levels):
            at = f"enc.{side}x{side}"
            skips.append(self.block(skips[-1], emb, f"{at}_down") if i else self.conv(x, f"{at}_conv"))
            if self.has(f"{at}_aux_skip.weight"):
                aux = self.filtered(aux, f"{at}_aux_down")
                skips[-1] = skips[-1] + self.conv(aux, f"{at}_aux_skip")
            if self.has(f"{at}_aux_residual.weight"):
                name = f"{at}_aux_residual"
                around = (self[f"{name}.resample_filter"].shape[-1] - 1) // 2
                aux = self.filtered(self.conv(aux, name, 1 + around), name, pad=0)
                skips[-1] = aux = (skips[-1] + aux) / math.sqrt(2)
            for number in range(config["num_blocks"]):
                skips.append(self.block(skips[-1], emb, f"{at}_block{number}"))
        h, answer = skips[-1], None
        for i, side in reversed(list(enumerate(levels))):
            at = f"dec.{side}x{side}"
            if i == len(levels) - 1:
                h = self.block(self.block(h, emb, f"{at}_in0"), emb, f"{at}_in1")
            else:
                h = self.block(h, emb, f"{at}_up")
                answer = None if answer is None else self.filtered(answer, f"{at}_aux_up", up=True)
            for number in range(config["num_blocks"] + 1):
                h = self.block(jnp.concatenate([h, skips.pop()], axis=1), emb, f"{at}_block{number}")
            if self.has(f"{at}_aux_conv.weight"):
                own = self.conv(jax.nn.silu(self.norm(h, f"{at}_aux_norm")), f"{at}_aux_conv")
                answer = own if answer is None else own + answer
        return answer if self.song else self.conv(jax.nn.silu(self.norm(h, "out_norm")), "out_conv")
