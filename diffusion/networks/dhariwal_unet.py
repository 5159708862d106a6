"""ADM: the U-Net of classifier guidance.

Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3; Karras et al. 2022, arXiv:2206.00364, appendix F.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion.networks.backward import rematerialised
from diffusion.networks.blocks import ZEROS, Keys, fold_in
from diffusion.networks.edm_blocks import Block, BlockForm, LabelMap, Norm, level_names, told_numbers
from diffusion.networks.edm_configs import DhariwalUNetConfig
from diffusion.networks.embeddings import sinusoidal
from diffusion.networks.unet import Image, convolution

EPSILON = 1e-5
"""What is added to the variance in the norms."""


class DhariwalUNet(nnx.Module):
    """Down through the levels and up again, every layer of the way down skipping across."""

    def __init__(
        self,
        config: DhariwalUNetConfig,
        event_shape: tuple[int, ...],
        num_classes: int,
        outputs: int,
        *,
        augment_dim: int = 0,
        rngs: nnx.Rngs,
    ):
        self.config, c_data, emb = config, event_shape[-1], config.embedding_multiplier * config.channels
        levels, attend = level_names(event_shape, len(config.multipliers), config.attention_resolutions)
        self.dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        numbers = told_numbers(config.augment_numbers, augment_dim)
        self.map_augment = nnx.Linear(numbers, config.channels, use_bias=False, rngs=rngs) if numbers else None
        self.map_layer0 = nnx.Linear(config.channels, emb, rngs=rngs)
        self.map_layer1 = nnx.Linear(emb, emb, rngs=rngs)
        self.map_label = LabelMap(num_classes, emb, use_bias=False) if num_classes else None
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        form = BlockForm(
            emb=emb,
            epsilon=EPSILON,
            taps=(1, 1),
            scale=1.0,
            adaptive=True,
            project=False,
            head_channels=config.head_channels,
            dropout=config.dropout,
            dtype=self.dtype,
        )

        def block(c_in: int, c_out: int, **options: bool) -> Block:
            return Block(c_in, c_out, form, **options, rngs=rngs)

        c, skips = widths[0], [widths[0]]
        enc: dict[str, Any] = {f"{levels[0]}_conv": convolution(c_data, c, dtype=self.dtype, rngs=rngs)}
        for i, name in enumerate(levels):
            if i > 0:
                enc[f"{name}_down"] = block(c, c, down=True)
                skips.append(c)
            for number in range(config.blocks):
                enc[f"{name}_block{number}"] = block(c, widths[i], attend=attend[i])
                c = widths[i]
                skips.append(c)
        dec: dict[str, Block] = {f"{levels[-1]}_in0": block(c, c, attend=True), f"{levels[-1]}_in1": block(c, c)}
        for i, name in reversed(list(enumerate(levels))):
            if i < len(levels) - 1:
                dec[f"{name}_up"] = block(c, c, up=True)
            for number in range(config.blocks + 1):
                dec[f"{name}_block{number}"] = block(c + skips.pop(), widths[i], attend=attend[i])
                c = widths[i]
        self.enc, self.down, self.dec, self.up = nnx.Dict(enc), tuple(enc), nnx.Dict(dec), tuple(dec)
        self.out_norm = Norm(c, EPSILON)
        self.out_conv = convolution(c, outputs * c_data, dtype=None, init=ZEROS, rngs=rngs)

    def __call__(
        self,
        x: Image,
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None,
        keys: Keys,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b h w out"]:
        """F(x, c_noise, label), of x's shape but for `outputs` times the channels."""
        emb, skips = self.embedded(c_noise, labels, augment), [self.enc[self.down[0]](x)]
        for i, name in enumerate(self.down[1:]):
            skips.append(self.run(self.enc[name], skips[-1], emb, fold_in(keys, i)))
        h = skips[-1]
        for i, name in enumerate(self.up, len(self.down)):
            if "_block" in name:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self.run(self.dec[name], h, emb, fold_in(keys, i))
        return self.out_conv(nnx.silu(self.out_norm(h)))

    def embedded(
        self, c_noise: Float[Array, " b"], labels: Int[Array, " b"] | None, augment: Float[Array, "b a"] | None
    ) -> Float[Array, "b e"]:
        """silu(W_1 silu(W_0 (γ(c_noise) + A a)) + E[label]), γ the cosines before the sines."""
        told = sinusoidal(c_noise, self.config.channels)
        if self.map_augment is not None and augment is not None:
            told = told + self.map_augment(augment)
        emb = self.map_layer1(nnx.silu(self.map_layer0(told)))
        return nnx.silu(emb if self.map_label is None else emb + self.map_label(labels, c_noise.shape[0]))

    def run(self, block: Block, h: Image, emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h2 w2 c2"]:
        """block(h, emb, keys), computed again for the gradient where the configuration says `remat`."""
        return rematerialised(block, self.config.remat)(h, emb, keys)
