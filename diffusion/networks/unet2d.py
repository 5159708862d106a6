"""diffusers' `UNet2DModel`: the network of published DDPM, NCSN++ and other checkpoints, equal to it up to rounding.

A parameter's path is its name there, `mid_block/resnets/0/conv1/kernel` for `mid_block.resnets.0.conv1.weight`; images
are (batch, height, width, channels) here.

Source: Ho et al. 2020, appendix B; Song et al. 2021, appendix H; Dhariwal & Nichol 2021, section 3; the names and
shapes of diffusers 0.42.1's arrays.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from diffusion.networks.blocks import ZEROS, Keys, fold_in
from diffusion.networks.embeddings import MAX_PERIOD, table
from diffusion.networks.unet2d_blocks import ACTIVATIONS, Building, Embedding, GroupNorm, Image, convolution
from diffusion.networks.unet2d_config import UNet2DConfig
from diffusion.networks.unet2d_levels import SKIP_CHANNELS, DownBlock, MidBlock, SkipDownBlock, SkipUpBlock, UpBlock

FOURIER_SCALE = 16.0
"""Standard deviation of the frequencies of a new network's Fourier features."""

Labels = Int[Array, " b"] | Float[Array, "b e"] | None


def sinusoids(t: Float[Array, " b"], features: int, *, shift: int, cosines_first: bool) -> Float[Array, "b features"]:
    """cos and sin of ω_k t for the n = ⌊features/2⌋ frequencies ω_k = 10000^(−k/(n − shift)); an odd feature is 0.

    Source: Vaswani et al. 2017, section 3.5; Ho et al. 2020 has shift 1.
    """
    half = features // 2
    frequencies = MAX_PERIOD ** (-np.arange(half) / (half - shift))
    angles = t[:, None] * jnp.asarray(frequencies, t.dtype)
    parts = [jnp.cos(angles), jnp.sin(angles)]
    both = jnp.concatenate(parts if cosines_first else parts[::-1], axis=-1)
    return jnp.pad(both, ((0, 0), (0, features - 2 * half)))


class FourierFeatures(nnx.Module):
    """(sin 2πw ln t, cos 2πw ln t) with random w, which are not trained (Tancik et al. 2020, arXiv:2006.10739)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(FOURIER_SCALE * nnx.initializers.normal(1.0)(rngs.params(), (features,), jnp.float32))

    def __call__(self, t: Float[Array, " b"]) -> Float[Array, "b features"]:
        """The features of t > 0."""
        angles = 2 * jnp.pi * jnp.log(t)[:, None] * lax.stop_gradient(self.weight[...])
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """W_2 silu(W_1 features)."""

    def __init__(self, features: int, width: int, *, rngs: nnx.Rngs):
        self.linear_1 = nnx.Linear(features, width, rngs=rngs)
        self.linear_2 = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Float[Array, "b f"]) -> Float[Array, "b e"]:
        """The embedding."""
        return self.linear_2(nnx.silu(self.linear_1(features)))


class UNet2D(nnx.Module):
    """Down through the levels, through the middle, and up again, every residual block of the way down skipping across.

    Raises ValueError for images that the levels cannot halve, and for channels or classes that the network cannot have.
    """

    def __init__(
        self, config: UNet2DConfig, event_shape: tuple[int, ...], num_classes: int, outputs: int, *, rngs: nnx.Rngs
    ):
        _check_data(config, event_shape, num_classes, outputs)
        channels, widths, levels = event_shape[-1], config.block_out_channels, len(config.block_out_channels)
        dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
        build = Building(config, config.time_embedding_dim or 4 * widths[0], dtype, rngs)
        self.config, self.num_classes = config, num_classes
        self.conv_in = convolution(channels, widths[0], build)
        self.time_proj = _time_features(config, rngs)
        features = widths[0] * (2 if config.time_embedding_type == "fourier" else 1)
        self.time_embedding = TimestepEmbedding(features, build.emb, rngs=rngs)
        self.class_embedding = _class_embedding(config, features, build.emb, rngs)

        down, up = [], []
        c, skips = widths[0], [widths[0]]
        for i, (kind, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
            last = i == levels - 1
            down.append((SkipDownBlock if "Skip" in kind else DownBlock)(kind, c, width, last, build))
            skips += [width] * (config.layers_per_block + (not last))
            c = width
        self.mid_block = None if config.mid_block_type is None else MidBlock(c, build)
        for i, (kind, width) in enumerate(zip(config.up_block_types, widths[::-1], strict=True)):
            taken = [skips.pop() for _ in range(config.layers_per_block + 1)]
            up.append((SkipUpBlock if "Skip" in kind else UpBlock)(kind, c, width, taken, i == levels - 1, build))
            c = width
        self.down_blocks, self.up_blocks = nnx.List(down), nnx.List(up)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, c, config.norm_eps)
        output = Building(config, build.emb, None, rngs)
        self.conv_out = convolution(c, outputs * channels, output, init=ZEROS)

    def __call__(self, x: Image, c_noise: Float[Array, " b"], labels: Labels, keys: Keys) -> Float[Array, "b h w out"]:
        """F(x, τ, label) with τ = f·c_noise + o, of x's shape but for `outputs` times the channels.

        With Fourier features the answer is divided by τ, which is σ then, and is infinite or NaN at τ = 0; where
        f·c_noise + o is ln τ, it is not.
        Raises ValueError for no label where the network has no row for it.
        """
        config = self.config
        time = config.time_factor * c_noise + config.time_offset
        time = jnp.exp(time) if config.time_is_log else time
        emb = self.time_embedding(self.features(time))
        if config.class_embed_type is not None or config.num_class_embeds is not None:
            emb = emb + self.of_class(labels, emb)
        emb = ACTIVATIONS[config.act_fn](emb)
        image = 2 * x - 1 if config.center_input_sample else x
        h = self.conv_in(image)
        skips = [h]
        for i, block in enumerate(self.down_blocks):
            h, image, states = block(h, image, emb, fold_in(keys, i))
            skips += states
        if self.mid_block is not None:
            h = self.mid_block(h, emb, fold_in(keys, len(self.down_blocks)))
        image = None
        for i, block in enumerate(self.up_blocks, len(self.down_blocks) + 1):
            h, image = block(h, image, skips, emb, fold_in(keys, i))
        h = self.conv_out(nnx.silu(self.conv_norm_out(h)))
        h = h if image is None else h + image
        divided = config.time_embedding_type == "fourier" and not config.time_is_log
        return h / time[:, None, None, None] if divided else h

    def features(self, time: Float[Array, " b"]) -> Float[Array, "b f"]:
        """What the network knows of a time before what is learned; a table gives the row of the nearest."""
        config = self.config
        if self.time_proj is None:
            width = config.block_out_channels[0]
            return sinusoids(time, width, shift=config.freq_shift, cosines_first=config.flip_sin_to_cos)
        if isinstance(self.time_proj, nnx.Embed):
            return self.time_proj(jnp.rint(time).astype(jnp.int32))
        return self.time_proj(time)

    def of_class(self, labels: Labels, emb: Embedding) -> Embedding:
        """The embedding of the labels; NaN for one beyond the classes. Raises ValueError as the call does."""
        if self.config.class_embed_type == "identity":
            if labels is None or labels.shape != emb.shape:
                shape = None if labels is None else labels.shape
                raise ValueError(
                    f"labels have shape {shape}; a network with class_embed_type identity takes one vector of "
                    f"{emb.shape[-1]} numbers for each image."
                )
            return labels.astype(emb.dtype)
        classes = self.class_embedding if isinstance(self.class_embedding, nnx.Embed) else None
        if labels is None:
            if classes is None or classes.num_embeddings == self.num_classes:
                raise ValueError("labels are None, and this network was trained with a class for each image; give one.")
            labels = jnp.full((emb.shape[0],), self.num_classes)
        if classes is not None:
            return classes(labels)
        assert isinstance(self.class_embedding, TimestepEmbedding)
        told = self.class_embedding(self.features(labels.astype(emb.dtype)))
        return jnp.where((labels < self.num_classes)[:, None], told, jnp.nan)


def _time_features(config: UNet2DConfig, rngs: nnx.Rngs) -> nnx.Embed | FourierFeatures | None:
    if config.time_embedding_type == "fourier":
        return FourierFeatures(config.block_out_channels[0], rngs=rngs)
    if config.time_embedding_type == "positional":
        return None
    assert config.num_train_timesteps is not None
    return table(config.num_train_timesteps, config.block_out_channels[0], rngs=rngs)


def _class_embedding(
    config: UNet2DConfig, features: int, width: int, rngs: nnx.Rngs
) -> nnx.Embed | TimestepEmbedding | None:
    if config.class_embed_type == "timestep":
        return TimestepEmbedding(features, width, rngs=rngs)
    if config.class_embed_type == "identity" or config.num_class_embeds is None:
        return None
    return table(config.num_class_embeds, width, rngs=rngs)


def _check_data(config: UNet2DConfig, event_shape: tuple[int, ...], num_classes: int, outputs: int) -> None:
    height, width, channels = event_shape
    factor = 2 ** (len(config.block_out_channels) - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"an image of {height}×{width} pixels cannot be halved {len(config.block_out_channels) - 1} times; give "
            f"sides that are multiples of {factor}."
        )
    skips = any("Skip" in block for block in (*config.down_block_types[:-1], *config.up_block_types[:-1]))
    if skips and (channels != SKIP_CHANNELS or outputs != 1):
        raise ValueError(
            f"images have {channels} channels and the network {outputs * channels} at its end; Skip blocks take "
            f"{SKIP_CHANNELS} and give {SKIP_CHANNELS}, so choose other blocks."
        )
    rows = config.num_class_embeds
    if config.class_embed_type == "identity":
        return
    if config.class_embed_type is None and rows is not None and num_classes not in (rows, rows - 1):
        raise ValueError(
            f"num_classes is {num_classes}, and the table has {rows} rows; give {rows}, or {rows - 1} where the last "
            "row stands for no class."
        )
    if config.class_embed_type == "timestep" and num_classes < 1:
        raise ValueError("num_classes is 0, and class_embed_type is timestep; give the number of classes.")
