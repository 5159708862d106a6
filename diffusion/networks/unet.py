"""The U-Net of score-based modelling, in its DDPM++ and ADM form.

Images of any size: a level with an odd side is halved upwards (7 -> 4), and on the way back doubled and cropped to
the size of the skip (4 -> 8 -> 7).

Source: Ho et al. 2020, appendix B; Song et al. 2021, appendix H; Dhariwal & Nichol 2021, section 3.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from diffusion.networks import fast
from diffusion.networks.backward import rematerialised
from diffusion.networks.blocks import (
    FAN_AVG,
    ZEROS,
    GroupNorm,
    Keys,
    SelfAttention,
    dropout,
    fold_in,
    group_count,
    group_normalise,
    largest_divisor,
)
from diffusion.networks.configs import UNetConfig
from diffusion.networks.embeddings import Conditioning

Image = Float[Array, "b h w c"]


def level_sizes(height: int, width: int, config: UNetConfig) -> list[tuple[int, int]]:
    """The height and width at each level, each half of the last, rounded up.

    An "auto" of `config` means what `UNetConfig.settled` makes of it.
    Raises ValueError when a side of one pixel would have to be halved, and when an attention resolution is not
    the longer side of any level.
    """
    config, sizes = config.settled((height, width, 1)), [(height, width)]
    for _ in config.multipliers[1:]:
        if min(sizes[-1]) < 2:
            raise ValueError(
                f"multipliers has {len(config.multipliers)} levels, but an image of {height}×{width} pixels can be "
                f"halved {len(sizes) - 1} times; give at most {len(sizes)} multipliers."
            )
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    longer = [max(size) for size in sizes]
    if missing := [str(side) for side in config.attention_resolutions if side not in longer]:
        nearest = min(longer, key=lambda side: abs(math.log(side / int(missing[0]))))
        raise ValueError(
            f"attention_resolutions has {', '.join(missing)}, but the levels of an image of {height}×{width} pixels "
            f"have {', '.join(map(str, longer))}; choose among these, such as {nearest}."
        )
    return sizes


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The mean over 2×2 pixels; at the end of an odd side, over those there are."""
    b, h, w, c = x.shape
    if h % 2 or w % 2:  # else the gradient would pad too
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean((2, 4))


def nearest_upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Every pixel repeated 2×2 times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def convolution(
    c_in: int, c_out: int, *, side: int = 3, stride: int = 1, dtype: DTypeLike | None, init=FAN_AVG, rngs: nnx.Rngs
) -> fast.Conv:
    """A convolution that keeps the size, or with stride 2 halves it upwards."""
    return fast.Conv(c_in, c_out, side, stride, dtype=dtype, kernel_init=init, rngs=rngs)


class ResidualBlock(nnx.Module):
    """Two convolutions, the second zero at initialisation, with the embedding between them."""

    def __init__(self, c_in: int, c_out: int, emb: int, config: UNetConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        self.rate, self.groups = config.dropout, group_count(c_out)
        self.scale = math.sqrt(0.5) if config.skip_rescale else 1.0
        self.norm1 = GroupNorm(c_in)
        self.conv1 = convolution(c_in, c_out, dtype=dtype, rngs=rngs)
        self.film = nnx.Linear(emb, 2 * c_out, rngs=rngs)
        self.conv2 = convolution(c_out, c_out, dtype=dtype, init=ZEROS, rngs=rngs)
        self.shortcut = None if c_in == c_out else convolution(c_in, c_out, side=1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Image, emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h w c2"]:
        """(x + conv(dropout(silu(AdaGN(conv(silu(norm(x))), emb)))))/√2, the √2 if so configured."""
        h = self.conv1(nnx.silu(self.norm1(x)))
        shift, scale = jnp.split(self.film(nnx.silu(emb)), 2, axis=-1)
        h = nnx.silu(group_normalise(h, self.groups, 1 + scale, shift))
        h = self.conv2(dropout(h, self.rate, keys))
        return self.scale * ((x if self.shortcut is None else self.shortcut(x)) + h)


class AttentionBlock(nnx.Module):
    """Self-attention over the pixels, its output projection zero at initialisation."""

    def __init__(self, channels: int, config: UNetConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        heads = largest_divisor(channels, channels // config.head_channels)
        self.scale = math.sqrt(0.5) if config.skip_rescale else 1.0
        self.norm = GroupNorm(channels)
        self.attention = SelfAttention(channels, heads, dtype=dtype, out_init=ZEROS, rngs=rngs)

    def __call__(self, x: Image) -> Image:
        """(x + attention(norm(x)))/√2, the √2 if so configured."""
        b, h, w, c = x.shape
        tokens = self.attention(self.norm(x).reshape(b, h * w, c))
        return self.scale * (x + tokens.reshape(x.shape))


class Stage(nnx.Module):
    """A residual block, followed by self-attention at the chosen resolutions."""

    def __init__(self, c_in: int, c_out: int, emb: int, attend: bool, config: UNetConfig, dtype, *, rngs: nnx.Rngs):
        self.residual = ResidualBlock(c_in, c_out, emb, config, dtype, rngs=rngs)
        self.attention = AttentionBlock(c_out, config, dtype, rngs=rngs) if attend else None

    def __call__(self, x: Image, emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h w c2"]:
        """attention(residual(x, emb)), or residual(x, emb)."""
        h = self.residual(x, emb, keys)
        return h if self.attention is None else self.attention(h)


class Downsample(nnx.Module):
    """Average pooling, or a convolution of stride 2."""

    def __init__(self, channels: int, config: UNetConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        conv = config.resampling == "conv"
        self.conv = convolution(channels, channels, stride=2, dtype=dtype, rngs=rngs) if conv else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """x at half the size, rounded up."""
        return average_pool(x) if self.conv is None else self.conv(x)


class Upsample(nnx.Module):
    """Nearest neighbour, or a convolution after it."""

    def __init__(self, channels: int, config: UNetConfig, dtype: DTypeLike | None, *, rngs: nnx.Rngs):
        conv = config.resampling == "conv"
        self.conv = convolution(channels, channels, dtype=dtype, rngs=rngs) if conv else None

    def __call__(self, x: Float[Array, "b h w c"], skip: Float[Array, "b h2 w2 c2"]) -> Float[Array, "b h2 w2 c"]:
        """x at twice the size, cropped to that of the skip that comes next."""
        h = nearest_upsample(x)[:, : skip.shape[1], : skip.shape[2]]
        return h if self.conv is None else self.conv(h)


class UNet(nnx.Module):
    """Down through the levels, through the middle, and up again, every layer of the way down skipping across."""

    def __init__(
        self,
        config: UNetConfig,
        event_shape: tuple[int, ...],
        num_classes: int,
        outputs: int,
        *,
        augment_dim: int = 0,
        rngs: nnx.Rngs,
    ):
        height, width, c_data = event_shape
        config = config.settled(event_shape)
        dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        sizes = level_sizes(height, width, config)
        attended = tuple(config.attention_resolutions)
        attend = [max(size) in attended for size in sizes]
        widths = [config.channels * int(multiplier) for multiplier in config.multipliers]
        emb = 4 * config.channels

        def stage(c_in: int, c_out: int, attend: bool) -> Stage:
            return Stage(c_in, c_out, emb, attend, config, dtype, rngs=rngs)

        self.emb = Conditioning(config.channels, emb, num_classes, augment_dim=augment_dim, rngs=rngs)
        self.first = convolution(c_data, widths[0], dtype=dtype, rngs=rngs)
        encoder: list[Stage | Downsample] = []
        decoder: list[Stage | Upsample] = []
        c, skips = widths[0], [widths[0]]
        for level, c_level in enumerate(widths):
            if level > 0:
                encoder.append(Downsample(c, config, dtype, rngs=rngs))
                skips.append(c)
            for _ in range(config.blocks):
                encoder.append(stage(c, c_level, attend[level]))
                c = c_level
                skips.append(c)
        self.middle = nnx.List([stage(c, c, True), stage(c, c, False)])
        for level, c_level in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                decoder.append(stage(c + skips.pop(), c_level, attend[level]))
                c = c_level
            if level > 0:
                decoder.append(Upsample(c, config, dtype, rngs=rngs))
        self.encoder, self.decoder, self.remat = nnx.List(encoder), nnx.List(decoder), config.remat
        self.norm = GroupNorm(c)
        self.out = convolution(c, outputs * c_data, dtype=None, init=ZEROS, rngs=rngs)

    def __call__(
        self,
        x: Image,
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None,
        keys: Keys,
        augment: Float[Array, "b a"] | None = None,
    ) -> Float[Array, "b h w out"]:
        """F(x, c_noise, label), of x's shape but for `outputs` times the channels."""
        emb = self.emb(c_noise, labels, augment)
        h = self.first(x)
        skips = [h]
        for i, layer in enumerate(self.encoder):
            h = layer(h) if isinstance(layer, Downsample) else self.run(layer, h, emb, fold_in(keys, i))
            skips.append(h)
        for i, layer in enumerate(self.middle, len(self.encoder)):
            h = self.run(layer, h, emb, fold_in(keys, i))
        for i, layer in enumerate(self.decoder, len(self.encoder) + len(self.middle)):
            if isinstance(layer, Upsample):
                h = layer(h, skips[-1])
            else:
                h = self.run(layer, jnp.concatenate([h, skips.pop()], axis=-1), emb, fold_in(keys, i))
        return self.out(nnx.silu(self.norm(h)))

    def run(self, stage: Stage, h: Image, emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h w c2"]:
        """stage(h, emb, keys), computed again for the gradient where the configuration says `remat`."""
        return rematerialised(stage, self.remat)(h, emb, keys)
