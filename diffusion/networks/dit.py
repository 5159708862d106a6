"""The diffusion transformer with adaLN-zero.

Images of any size: they are padded with zeros to whole patches, and the output is cropped.

Source: Peebles & Xie 2023, section 3.2.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from diffusion.networks import fast
from diffusion.networks.blocks import FAN_AVG, ZEROS, Keys, SelfAttention, dropout, fold_in, modulate
from diffusion.networks.configs import DiTConfig
from diffusion.networks.embeddings import Conditioning, position_embedding

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


class Block(nnx.Module):
    """The adaLN-zero block: attention, then a perceptron; the identity at initialisation."""

    def __init__(self, config: DiTConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.rate = config.dropout
        self.modulation = nnx.Linear(width, 6 * width, kernel_init=ZEROS, rngs=rngs)
        self.attention = SelfAttention(width, config.heads, dtype=dtype, rngs=rngs)
        self.mlp1 = fast.Linear(width, hidden, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        self.mlp2 = fast.Linear(hidden, width, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)

    def __call__(self, x: Tokens, c: Float[Array, "b c"], keys: Keys) -> Tokens:
        """x + gate · attention(adaLN(x)), then x + gate · mlp(adaLN(x))."""
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(self.modulation(nnx.silu(c)), 6, axis=-1)
        h = self.attention(adaptive_layer_norm(x, shift1, scale1))
        x = x + gate1[:, None].astype(x.dtype) * dropout(h, self.rate, fold_in(keys, 0))
        h = self.mlp2(nnx.gelu(self.mlp1(adaptive_layer_norm(x, shift2, scale2))))
        return x + gate2[:, None].astype(x.dtype) * dropout(h, self.rate, fold_in(keys, 1))


class DiT(nnx.Module):
    """Patches, `depth` blocks, and a modulated linear map back to patches, zero at initialisation."""

    def __init__(
        self, config: DiTConfig, event_shape: tuple[int, ...], num_classes: int, outputs: int, *, rngs: nnx.Rngs
    ):
        height, width, channels = event_shape
        dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        self.patch, self.size = config.patch, (height, width)
        self.padded = (config.patch * math.ceil(height / config.patch), config.patch * math.ceil(width / config.patch))
        pixels = config.patch**2 * channels
        self.emb = Conditioning(FREQUENCIES, config.width, num_classes, rngs=rngs)
        self.first = fast.Linear(pixels, config.width, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        self.blocks = nnx.List([Block(config, dtype, rngs=rngs) for _ in range(config.depth)])
        self.modulation = nnx.Linear(config.width, 2 * config.width, kernel_init=ZEROS, rngs=rngs)
        self.out = fast.Linear(config.width, outputs * pixels, kernel_init=ZEROS, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None,
        keys: Keys,
    ) -> Float[Array, "b h w out"]:
        """F(x, c_noise, label), of x's shape but for `outputs` times the channels."""
        (height, width), (rows, columns) = self.size, self.padded
        c = self.emb(c_noise, labels)
        x = jnp.pad(x, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)))
        h = self.first(patchify(x, self.patch))
        positions = position_embedding(rows // self.patch, columns // self.patch, h.shape[-1], c.dtype)
        h = h + positions.astype(h.dtype)
        for i, block in enumerate(self.blocks):
            h = block(h, c, fold_in(keys, i))
        shift, scale = jnp.split(self.modulation(nnx.silu(c)), 2, axis=-1)
        h = self.out(adaptive_layer_norm(h, shift, scale))
        return unpatchify(h, self.patch, rows, columns)[:, :height, :width]
