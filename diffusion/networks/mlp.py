"""The multilayer perceptron, for events of any shape, flattened."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from diffusion.networks.blocks import FAN_AVG, ZEROS, Keys, dropout, fold_in, modulate
from diffusion.networks.configs import MLPConfig
from diffusion.networks.embeddings import Conditioning

ACTIVATIONS = {"silu": nnx.silu, "gelu": nnx.gelu, "tanh": nnx.tanh, "softplus": nnx.softplus}


class Block(nnx.Module):
    """Two linear maps with the embedding and the nonlinearity φ between them."""

    def __init__(self, config: MLPConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        width = config.hidden
        self.config = config
        self.first = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.condition = nnx.Linear(width, 2 * width if config.conditioning == "film" else width, rngs=rngs)
        self.second = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h"], emb: Float[Array, "b h"], keys: Keys) -> Float[Array, "b h"]:
        """x + W_2 φ((1 + scale) W_1 x + shift), FiLM; with scale = 0 if additive, and without x if not residual."""
        h, condition = self.first(x).astype(emb.dtype), self.condition(nnx.silu(emb))
        if self.config.conditioning == "film":
            h = modulate(h, *jnp.split(condition, 2, axis=-1))
        else:
            h = h + condition
        h = self.second(dropout(ACTIVATIONS[self.config.activation](h), self.config.dropout, keys))
        return x + h if self.config.residual else h


class MLP(nnx.Module):
    """A linear map in, `layers` blocks, a linear map out (zero at initialisation unless configured otherwise)."""

    def __init__(
        self,
        config: MLPConfig,
        event_shape: tuple[int, ...],
        num_classes: int,
        outputs: int,
        *,
        augment_dim: int = 0,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        size = math.prod(event_shape)
        self.event_shape = (*event_shape[:-1], outputs * event_shape[-1])
        self.emb = Conditioning(config.embedding, config.hidden, num_classes, augment_dim=augment_dim, rngs=rngs)
        self.first = nnx.Linear(size, config.hidden, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([Block(config, dtype, rngs=rngs) for _ in range(config.layers)])
        out_init = ZEROS if config.zero_output else FAN_AVG
        self.out = nnx.Linear(config.hidden, outputs * size, kernel_init=out_init, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b *event"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None,
        keys: Keys,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b *out"]:
        """F(x, c_noise, label), of x's shape but for `outputs` times the channels."""
        emb = self.emb(c_noise, labels, augment)
        h = self.first(x.reshape(x.shape[0], -1))
        for i, block in enumerate(self.blocks):
            h = block(h, emb, fold_in(keys, i))
        return self.out(h).reshape(x.shape[0], *self.event_shape)
