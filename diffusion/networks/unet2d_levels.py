"""The blocks of `UNet2D`, each a level of it: residual blocks, attention between them, and a change of size at the end.

Skip blocks halve and double the image itself beside the features, and exchange with it by convolutions.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion.networks.backward import rematerialised
from diffusion.networks.blocks import Keys, fold_in
from diffusion.networks.unet2d_blocks import (
    ROOT_2,
    Attention,
    Building,
    Downsample,
    Embedding,
    GroupNorm,
    Image,
    ResnetBlock,
    Upsample,
    convolution,
    fir_downsample,
    fir_upsample,
    quarter_groups,
)

Picture = Float[Array, "b hp wp cp"]

SKIP_CHANNELS = 3
"""The channels of the image beside Skip blocks, whatever those of the data."""
SKIP_ATTENTION_GROUPS = 32


class Level(nnx.Module):
    """What all levels share: how their residual blocks are called."""

    remat: bool

    def run(self, resnet: nnx.Module, h: Image, emb: Embedding, keys: Keys, number: int) -> Array:
        """resnet(h, emb, keys) with the keys of its number, computed again for the gradient where so configured."""
        return rematerialised(resnet, self.remat)(h, emb, fold_in(keys, number))  # pyright: ignore[reportArgumentType]


class DownBlock(Level):
    """DownBlock2D, AttnDownBlock2D and ResnetDownsampleBlock2D; the last level of a network does not halve."""

    def __init__(self, kind: str, c_in: int, c_out: int, last: bool, build: Building):
        config = build.config
        self.remat, layers = config.remat, config.layers_per_block
        self.resnets = nnx.List([ResnetBlock(c_out if i else c_in, c_out, build) for i in range(layers)])
        attended = kind == "AttnDownBlock2D"
        self.attentions = nnx.List(
            [Attention(c_out, build, groups=config.norm_num_groups) for _ in range(layers if attended else 0)]
        )
        by_resnet = kind == "ResnetDownsampleBlock2D" or (attended and config.downsample_type == "resnet")
        halving = ResnetBlock(c_out, c_out, build, resample="pool") if by_resnet else None
        self.downsamplers = nnx.List([] if last else [halving or Downsample(c_out, build)])

    def __call__(self, h: Image, image: Picture, emb: Embedding, keys: Keys) -> tuple[Array, Array, list[Array]]:
        """(features, image, all features on the way); the image stays as it is."""
        states = []
        for i, resnet in enumerate(self.resnets):
            h = self.run(resnet, h, emb, keys, i)
            h = self.attentions[i](h) if self.attentions else h
            states.append(h)
        for halving in self.downsamplers:
            h = (
                self.run(halving, h, emb, keys, len(self.resnets))
                if isinstance(halving, ResnetBlock)
                else halving(h, emb, keys)
            )
            states.append(h)
        return h, image, states


class SkipDownBlock(Level):
    """SkipDownBlock2D and AttnSkipDownBlock2D: the image is halved by the filter, and added to the features."""

    def __init__(self, kind: str, c_in: int, c_out: int, last: bool, build: Building):
        self.remat, layers = build.config.remat, build.config.layers_per_block

        def resnet(c_in: int, **options) -> ResnetBlock:
            groups = (quarter_groups(c_in), quarter_groups(c_out))
            return ResnetBlock(c_in, c_out, build, groups=groups, divisor=ROOT_2, **options)

        self.resnets = nnx.List([resnet(c_out if i else c_in) for i in range(layers)])
        count = layers if kind.startswith("Attn") else 0
        self.attentions = nnx.List(
            [Attention(c_out, build, groups=SKIP_ATTENTION_GROUPS, divisor=ROOT_2) for _ in range(count)]
        )
        self.resnet_down = None if last else resnet(c_out, resample="fir_down", shortcut=True)
        self.skip_conv = None if last else convolution(SKIP_CHANNELS, c_out, build, side=1)

    def __call__(self, h: Image, image: Picture, emb: Embedding, keys: Keys) -> tuple[Array, Array, list[Array]]:
        """(features, image, all features on the way), features and image at half the size."""
        states = []
        for i, resnet in enumerate(self.resnets):
            h = self.run(resnet, h, emb, keys, i)
            h = self.attentions[i](h) if self.attentions else h
            states.append(h)
        if self.resnet_down is not None and self.skip_conv is not None:
            image = fir_downsample(image)
            h = self.skip_conv(image) + self.run(self.resnet_down, h, emb, keys, len(self.resnets))
            states.append(h)
        return h, image, states


class MidBlock(Level):
    """UNetMidBlock2D: attention between two residual blocks."""

    def __init__(self, channels: int, build: Building):
        config = build.config
        self.remat, divisor = config.remat, config.mid_block_scale_factor
        self.resnets = nnx.List([ResnetBlock(channels, channels, build, divisor=divisor) for _ in range(2)])
        groups = config.norm_num_groups if config.resnet_time_scale_shift == "default" else None
        groups = groups if config.attn_norm_num_groups is None else config.attn_norm_num_groups
        count = int(config.add_attention)
        self.attentions = nnx.List([Attention(channels, build, groups=groups, divisor=divisor) for _ in range(count)])

    def __call__(self, h: Image, emb: Embedding, keys: Keys) -> Image:
        """resnet(attention(resnet(h)))."""
        h = self.run(self.resnets[0], h, emb, keys, 0)
        for attend in self.attentions:
            h = attend(h)
        return self.run(self.resnets[1], h, emb, keys, 1)


class UpBlock(Level):
    """UpBlock2D, AttnUpBlock2D and ResnetUpsampleBlock2D; the last level of a network does not double."""

    def __init__(self, kind: str, c_in: int, c_out: int, skips: list[int], last: bool, build: Building):
        config = build.config
        self.remat = config.remat
        self.resnets = nnx.List([ResnetBlock((c_out if i else c_in) + c, c_out, build) for i, c in enumerate(skips)])
        attended = kind == "AttnUpBlock2D"
        self.attentions = nnx.List(
            [Attention(c_out, build, groups=config.norm_num_groups) for _ in range(len(skips) if attended else 0)]
        )
        by_resnet = kind == "ResnetUpsampleBlock2D" or (attended and config.upsample_type == "resnet")
        doubling = ResnetBlock(c_out, c_out, build, resample="nearest") if by_resnet else None
        self.upsamplers = nnx.List([] if last else [doubling or Upsample(c_out, build)])

    def __call__(
        self, h: Image, image: Picture | None, skips: list[Array], emb: Embedding, keys: Keys
    ) -> tuple[Array, Array | None]:
        """(features, image), with the last of `skips` taken off for each residual block."""
        for i, resnet in enumerate(self.resnets):
            h = self.run(resnet, jnp.concatenate([h, skips.pop()], axis=-1), emb, keys, i)
            h = self.attentions[i](h) if self.attentions else h
        for doubling in self.upsamplers:
            h = (
                self.run(doubling, h, emb, keys, len(self.resnets))
                if isinstance(doubling, ResnetBlock)
                else doubling(h, emb, keys)
            )
        return h, image


class SkipUpBlock(Level):
    """SkipUpBlock2D and AttnSkipUpBlock2D: the image is doubled by the filter, and the features are added to it.

    The attention form attends once, behind its residual blocks.
    """

    def __init__(self, kind: str, c_in: int, c_out: int, skips: list[int], last: bool, build: Building):
        self.remat, attended = build.config.remat, kind.startswith("Attn")

        def groups(hidden: int, skip: int) -> int:
            # The two forms count differently.
            return min(hidden + skip // 4, 32) if attended else quarter_groups(hidden + skip)

        def resnet(c_in: int, first: int, **options) -> ResnetBlock:
            return ResnetBlock(c_in, c_out, build, groups=(first, quarter_groups(c_out)), divisor=ROOT_2, **options)

        hidden = [c_out if i else c_in for i in range(len(skips))]
        self.resnets = nnx.List([resnet(a + b, groups(a, b)) for a, b in zip(hidden, skips, strict=True)])
        self.attentions = nnx.List(
            [Attention(c_out, build, groups=SKIP_ATTENTION_GROUPS, divisor=ROOT_2)] if attended else []
        )
        doubles = not last
        self.resnet_up = resnet(c_out, quarter_groups(c_out), resample="fir_up", shortcut=True) if doubles else None
        self.skip_norm = GroupNorm(quarter_groups(c_out), c_out, build.config.norm_eps) if doubles else None
        self.skip_conv = convolution(c_out, SKIP_CHANNELS, build) if doubles else None

    def __call__(
        self, h: Image, image: Picture | None, skips: list[Array], emb: Embedding, keys: Keys
    ) -> tuple[Array, Array | None]:
        """(features at twice the size, image), the image at twice its own; at the last level features stay as large."""
        for i, resnet in enumerate(self.resnets):
            h = self.run(resnet, jnp.concatenate([h, skips.pop()], axis=-1), emb, keys, i)
        for attend in self.attentions:
            h = attend(h)
        image = None if image is None else fir_upsample(image)
        if self.resnet_up is not None and self.skip_norm is not None and self.skip_conv is not None:
            told = self.skip_conv(nnx.silu(self.skip_norm(h)))
            image = told if image is None else image + told
            h = self.run(self.resnet_up, h, emb, keys, len(self.resnets))
        return h, image
