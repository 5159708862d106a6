"""DDPM++ and NCSN++: the U-Net of score-based modelling by stochastic differential equations.

Source: Song et al. 2021, arXiv:2011.13456, appendix H; Karras et al. 2022, arXiv:2206.00364, appendix F.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from diffusion.networks.backward import rematerialised
from diffusion.networks.blocks import ZEROS, Keys, fold_in
from diffusion.networks.edm_blocks import (
    SQRT_HALF,
    Block,
    BlockForm,
    LabelMap,
    Norm,
    filter_down,
    filter_up,
    level_names,
    told_numbers,
)
from diffusion.networks.edm_configs import SongUNetConfig
from diffusion.networks.embeddings import MAX_PERIOD
from diffusion.networks.fast import Conv
from diffusion.networks.unet import Image, convolution

EPSILON = 1e-6
"""What is added to the variance in the norms."""


class Frequencies(nnx.Module):
    """Random frequencies of N(0, 16²) turns, which are kept with the parameters and not trained."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.freqs = nnx.Param(nnx.initializers.normal(16.0)(rngs.params(), (features // 2,), jnp.float32))

    def __call__(self, c_noise: Float[Array, " b"]) -> Float[Array, "b half"]:
        """2π f c_noise."""
        return 2 * math.pi * c_noise[:, None] * lax.stop_gradient(self.freqs[...])


class SongUNet(nnx.Module):
    """Down through the levels and up again, with a second path beside them that has no blocks.

    On the way down it is the image itself, halved (encoder "skip"), or features of it, halved by convolutions and fed
    with the level's own ("residual"); on the way up it is the answer, doubled and added to (decoder "skip").
    """

    def __init__(
        self,
        config: SongUNetConfig,
        event_shape: tuple[int, ...],
        num_classes: int,
        outputs: int,
        *,
        augment_dim: int = 0,
        rngs: nnx.Rngs,
    ):
        self.config, levels = config, len(config.multipliers)
        self.levels, attend = level_names(event_shape, levels, config.attention_resolutions)
        self.dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        self.emb = config.embedding_multiplier * config.channels
        self.make_embedding(num_classes, told_numbers(config.augment_numbers, augment_dim), rngs)
        skips = self.make_encoder(event_shape[-1], attend, rngs)
        self.make_decoder(outputs * event_shape[-1], skips, attend, rngs)

    def make_embedding(self, num_classes: int, numbers: int, rngs: nnx.Rngs) -> None:
        """What makes one vector of the noise level, the class and the augmentation."""
        features = self.config.noise_multiplier * self.config.channels
        self.map_noise = Frequencies(features, rngs=rngs) if self.config.embedding == "fourier" else None
        self.map_label = LabelMap(num_classes, features, use_bias=True) if num_classes else None
        self.map_augment = nnx.Linear(numbers, features, use_bias=False, rngs=rngs) if numbers else None
        self.map_layer0 = nnx.Linear(features, self.emb, rngs=rngs)
        self.map_layer1 = nnx.Linear(self.emb, self.emb, rngs=rngs)

    def make_encoder(self, c_data: int, attend: list[bool], rngs: nnx.Rngs) -> list[int]:
        """The way down; returns the channels of what it hands over to the way up."""
        config, enc = self.config, {}
        c, c_aux, skips = config.channels, c_data, [config.channels]
        for i, (name, multiplier) in enumerate(zip(self.levels, config.multipliers, strict=True)):
            if i == 0:
                enc[f"{name}_conv"] = self.convolution(c_data, c, 3, rngs)
            else:
                enc[f"{name}_down"] = self.block(c, c, rngs, down=True)
                skips.append(c)
            if i > 0 and config.encoder == "skip":
                enc[f"{name}_aux_skip"] = self.convolution(c_aux, c, 1, rngs)
            elif i > 0 and config.encoder == "residual":
                enc[f"{name}_aux_residual"] = self.convolution(c_aux, c, 3, rngs)
                c_aux = c
            for number in range(config.blocks):
                c_in, c = c, config.channels * multiplier
                enc[f"{name}_block{number}"] = self.block(c_in, c, rngs, attend=attend[i])
                skips.append(c)
        self.enc, self.down = nnx.Dict(enc), tuple(enc)
        return skips

    def make_decoder(self, c_out: int, skips: list[int], attend: list[bool], rngs: nnx.Rngs) -> None:
        """The way up, which takes over `skips`, the last first."""
        config, dec, last = self.config, {}, len(self.levels) - 1
        c = skips[-1]
        for i, (name, multiplier) in reversed(list(enumerate(zip(self.levels, config.multipliers, strict=True)))):
            if i == last:
                dec[f"{name}_in0"] = self.block(c, c, rngs, attend=True)
                dec[f"{name}_in1"] = self.block(c, c, rngs)
            else:
                dec[f"{name}_up"] = self.block(c, c, rngs, up=True)
            for number in range(config.blocks + 1):
                c_in, c = c + skips.pop(), config.channels * multiplier
                attends = attend[i] and number == config.blocks
                dec[f"{name}_block{number}"] = self.block(c_in, c, rngs, attend=attends)
            if config.decoder == "skip" or i == 0:
                dec[f"{name}_aux_norm"] = Norm(c, EPSILON)
                dec[f"{name}_aux_conv"] = convolution(c, c_out, dtype=None, init=ZEROS, rngs=rngs)
        self.dec, self.up = nnx.Dict(dec), tuple(dec)

    def convolution(self, c_in: int, c_out: int, side: int, rngs: nnx.Rngs) -> Conv:
        """A convolution of `side`×`side` pixels."""
        return convolution(c_in, c_out, side=side, dtype=self.dtype, rngs=rngs)

    def block(self, c_in: int, c_out: int, rngs: nnx.Rngs, **options: bool) -> Block:
        """A residual block of this network's form: the embedding is added, and sums are divided by √2."""
        form = BlockForm(
            emb=self.emb,
            epsilon=EPSILON,
            taps=self.config.resample_filter,
            scale=SQRT_HALF,
            adaptive=False,
            project=True,
            head_channels=0,
            dropout=self.config.dropout,
            dtype=self.dtype,
        )
        return Block(c_in, c_out, form, **options, rngs=rngs)

    def __call__(
        self,
        x: Image,
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None,
        keys: Keys,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b h w out"]:
        """F(x, c_noise, label), of x's shape but for `outputs` times the channels."""
        emb = self.embedded(c_noise, labels, augment)
        skips = self.encoded(x, emb, keys)
        return self.decoded(skips, emb, fold_in(keys, len(self.down)))

    def embedded(
        self, c_noise: Float[Array, " b"], labels: Int[Array, " b"] | None, augment: Float[Array, "b a"] | None
    ) -> Float[Array, "b e"]:
        """silu(W_1 silu(W_0 (γ(c_noise) + √n E[label] + A a))), n classes, γ the sines before the cosines."""
        angles = self.angles(c_noise) if self.map_noise is None else self.map_noise(c_noise)
        told = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        if self.map_label is not None:
            scale = math.sqrt(self.map_label.kernel.shape[0])
            told = told + self.map_label(labels, c_noise.shape[0], scale)
        if self.map_augment is not None and augment is not None:
            told = told + self.map_augment(augment)
        return nnx.silu(self.map_layer1(nnx.silu(self.map_layer0(told))))

    def angles(self, c_noise: Float[Array, " b"]) -> Float[Array, "b half"]:
        """ω_k c_noise with ω_k = 10000^(−k/(n − 1)), the last of the n frequencies being 1/10000 itself."""
        half = self.map_layer0.in_features // 2
        return c_noise[:, None] * MAX_PERIOD ** (-jnp.arange(half, dtype=c_noise.dtype) / max(1, half - 1))

    def encoded(self, x: Image, emb: Float[Array, "b e"], keys: Keys) -> list[Array]:
        """What each layer of the way down hands over to the way up; the last is where that begins."""
        skips, beside, taps = [], x, self.config.resample_filter
        for i, name in enumerate(self.down):
            layer = self.enc[name]
            if name.endswith("_aux_skip"):
                beside = filter_down(beside, taps)
                skips[-1] = skips[-1] + layer(beside)
            elif name.endswith("_aux_residual"):  # the convolution is before the filter, at full size
                around = (len(taps) - 1) // 2
                beside = layer(jnp.pad(beside, ((0, 0), (around, around), (around, around), (0, 0))))
                skips[-1] = beside = SQRT_HALF * (skips[-1] + filter_down(beside, taps, pad=False))
            elif name.endswith("_conv"):
                skips.append(layer(x))
            else:
                skips.append(self.run(layer, skips[-1], emb, fold_in(keys, i)))
        return skips

    def decoded(self, skips: list[Array], emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h w out"]:
        """The answer, which is the sum of those of the levels, doubled from each to the next, where there are many."""
        h, answer = skips[-1], None
        for i, name in enumerate(self.up):
            layer = self.dec[name]
            if name.endswith("_aux_norm"):
                continue
            if name.endswith("_aux_conv"):
                norm = self.dec[name.removesuffix("_conv") + "_norm"]
                own = layer(nnx.silu(norm(h)))
                before = None if answer is None else filter_up(answer, self.config.resample_filter)
                answer = own if before is None else own + before
            else:
                if "_block" in name:
                    h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.run(layer, h, emb, fold_in(keys, i))
        assert answer is not None
        return answer

    def run(self, block: Block, h: Image, emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h2 w2 c2"]:
        """block(h, emb, keys), computed again for the gradient where the configuration says `remat`."""
        return rematerialised(block, self.config.remat)(h, emb, keys)
