"""The diffusion transformer with adaLN-zero, and with what later pixel transformers added, as options.

Images of any size: they are padded with zeros to whole patches, and the output is cropped.

Source: Peebles & Xie 2023, section 3.2; Li & He 2025, arXiv:2511.13720 (JiT), for the options together; Darcet et al.
2023, arXiv:2309.16588, for registers.
"""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from diffusion.networks import fast
from diffusion.networks.backward import rematerialised
from diffusion.networks.blocks import (
    FAN_AVG,
    ZEROS,
    Keys,
    RMSNorm,
    SelfAttention,
    dropout,
    fold_in,
    modulate,
)
from diffusion.networks.configs import DiTConfig
from diffusion.networks.embeddings import Conditioning, position_embedding, rotary_angles

FREQUENCIES = 256

Tokens = Float[Array, "b n c"]


def patchify(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b n d"]:
    """The n = (h/p)(w/p) patches of an image, rows first, each flattened to d = p²c numbers."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: Float[Array, "b n d"], patch: int, height: int, width: int) -> Float[Array, "b h w c"]:
    """The image whose patches these are: the inverse of `patchify`."""
    b, _, d = tokens.shape
    x = tokens.reshape(b, height // patch, width // patch, patch, patch, d // patch**2).swapaxes(2, 3)
    return x.reshape(b, height, width, d // patch**2)


def adaptive_layer_norm(x: Tokens, shift: Float[Array, "b c"], scale: Float[Array, "b c"]) -> Tokens:
    """adaLN: (1 + scale) (x − μ)/√(v + 10⁻⁶) + shift, with μ and v the moments over the channels of a token."""
    return modulate(fast.layer_normalise(x.astype(scale.dtype)), shift, scale)


def normalised(norm: RMSNorm | None, x: Tokens, shift: Float[Array, "b c"], scale: Float[Array, "b c"]) -> Tokens:
    """(1 + scale) norm(x) + shift; without a norm, `adaptive_layer_norm`."""
    return adaptive_layer_norm(x, shift, scale) if norm is None else modulate(norm(x), shift, scale)


class Block(nnx.Module):
    """The adaLN-zero block: attention, then a perceptron; the identity at initialisation."""

    def __init__(self, config: DiTConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.hidden
        self.rate = config.dropout
        self.modulation = nnx.Linear(width, 6 * width, kernel_init=ZEROS, rngs=rngs)
        self.attention = SelfAttention(width, config.heads, dtype=dtype, qk_norm=config.qk_norm, rngs=rngs)
        self.mlp1 = fast.Linear(width, hidden, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        self.mlp2 = fast.Linear(hidden, width, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        swiglu, rms = config.mlp == "swiglu", config.norm == "rms"
        self.gate = fast.Linear(width, hidden, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs) if swiglu else None
        self.norm1, self.norm2 = (RMSNorm(width), RMSNorm(width)) if rms else (None, None)

    def __call__(
        self, x: Tokens, c: Float[Array, "b c"], keys: Keys, angles: Float[Array, "n f"] | None = None
    ) -> Tokens:
        """x + gate · attention(adaLN(x)), then x + gate · mlp(adaLN(x))."""
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(self.modulation(nnx.silu(c)), 6, axis=-1)
        h = self.attention(normalised(self.norm1, x, shift1, scale1), angles)
        x = x + gate1[:, None].astype(x.dtype) * dropout(h, self.rate, fold_in(keys, 0))
        h = self.perceptron(normalised(self.norm2, x, shift2, scale2))
        return x + gate2[:, None].astype(x.dtype) * dropout(h, self.rate, fold_in(keys, 1))

    def perceptron(self, x: Tokens) -> Tokens:
        """W_2 gelu(W_1 x), or SwiGLU, W_2 (silu(W_g x) · W_1 x), each product with its bias."""
        if self.gate is None:
            return self.mlp2(nnx.gelu(self.mlp1(x)))
        return self.mlp2(nnx.silu(self.gate(x)) * self.mlp1(x))


class ExtraTokens(nnx.Module):
    """Learned tokens that stand for no patch; with a class, its vector is added to each."""

    def __init__(self, number: int, width: int, *, rngs: nnx.Rngs):
        self.learned = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (number, width), jnp.float32))

    def __call__(self, x: Tokens, of_class: Float[Array, "b c"] | None = None) -> Float[Array, "b m c"]:
        """The tokens of x after these ones."""
        tokens = jnp.broadcast_to(self.learned[...], (x.shape[0], *self.learned.shape))
        tokens = tokens if of_class is None else tokens + of_class[:, None]
        return jnp.concatenate([tokens.astype(x.dtype), x], axis=1)


class DiT(nnx.Module):
    """Patches, `depth` blocks, and a modulated linear map back to patches, zero at initialisation."""

    def __init__(
        self,
        config: DiTConfig,
        event_shape: tuple[int, ...],
        num_classes: int,
        outputs: int,
        *,
        augment_dim: int = 0,
        rngs: nnx.Rngs,
    ):
        height, width, channels = event_shape
        dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        self.patch, self.size, self.remat = config.patch, (height, width), config.remat
        self.padded = (config.patch * math.ceil(height / config.patch), config.patch * math.ceil(width / config.patch))
        self.spread = config.position_grid * config.patch / max(self.padded) if config.position_grid else 1.0
        self.added, self.head = config.positions != "rotary", config.width // config.heads
        self.rotary, self.classes_from = config.positions != "fixed", config.class_tokens_from
        pixels = config.patch**2 * channels
        entry = config.bottleneck or pixels
        self.emb = Conditioning(FREQUENCIES, config.width, num_classes, augment_dim=augment_dim, rngs=rngs)
        self.first = fast.Linear(entry, config.width, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        self.blocks = nnx.List([Block(config, dtype, rngs=rngs) for _ in range(config.depth)])
        self.modulation = nnx.Linear(config.width, 2 * config.width, kernel_init=ZEROS, rngs=rngs)
        self.out = fast.Linear(config.width, outputs * pixels, kernel_init=ZEROS, rngs=rngs)
        self.norm = RMSNorm(config.width) if config.norm == "rms" else None
        narrow = functools.partial(nnx.Linear, use_bias=False, dtype=dtype, kernel_init=FAN_AVG)
        self.bottleneck = narrow(pixels, entry, rngs=rngs) if config.bottleneck else None
        self.registers = ExtraTokens(config.registers, config.width, rngs=rngs) if config.registers else None
        self.classes = ExtraTokens(config.class_tokens, config.width, rngs=rngs) if config.class_tokens else None

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None,
        keys: Keys,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b h w out"]:
        """F(x, c_noise, label), of x's shape but for `outputs` times the channels."""
        (height, width), (rows, columns) = self.size, self.padded
        c = self.emb(c_noise, labels, augment)
        x = jnp.pad(x, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)))
        h = self.embedded(patchify(x, self.patch), c.dtype)
        patches = h.shape[1]
        h = h if self.registers is None else self.registers(h)
        for i, block in enumerate(self.blocks):
            if self.classes is not None and i == self.classes_from:
                h = self.classes(h, self.emb.of_class(labels, h.shape[0]))
            h = rematerialised(block, self.remat)(h, c, fold_in(keys, i), self.angles(h.shape[1] - patches, c.dtype))
        h = h[:, h.shape[1] - patches :]
        shift, scale = jnp.split(self.modulation(nnx.silu(c)), 2, axis=-1)
        h = self.out(normalised(self.norm, h, shift, scale))
        return unpatchify(h, self.patch, rows, columns)[:, :height, :width]

    def embedded(self, patches: Float[Array, "b n d"], dtype: DTypeLike) -> Tokens:
        """The patches in the width of the blocks, by way of the bottleneck if there is one, and with their places."""
        h = self.first(patches if self.bottleneck is None else self.bottleneck(patches))
        if not self.added:
            return h
        rows, columns = (side // self.patch for side in self.padded)
        return h + position_embedding(rows, columns, h.shape[-1], dtype, self.spread).astype(h.dtype)

    def angles(self, extra: int, dtype: DTypeLike) -> Float[Array, "n f"] | None:
        """The angles of all tokens, 0 for the first `extra`, which have no place; None without rotary positions."""
        if not self.rotary:
            return None
        rows, columns = (side // self.patch for side in self.padded)
        angles = self.spread * rotary_angles(rows, columns, self.head, dtype)
        return jnp.pad(angles, ((extra, 0), (0, 0)))
