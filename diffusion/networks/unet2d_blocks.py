"""The layers of `UNet2D`: normalisation, residual blocks, attention, and the ways to halve and double an image.

Each module has diffusers' names for its parts, so that a parameter's path is its name there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from diffusion.networks import fast
from diffusion.networks.attention import attention
from diffusion.networks.blocks import FAN_AVG, ZEROS, Keys, dropout
from diffusion.networks.unet import average_pool, nearest_upsample
from diffusion.networks.unet2d_config import UNet2DConfig
from diffusion.networks.winograd import Conv

Image = Float[Array, "b h w c"]
Embedding = Float[Array, "b e"]

ROOT_2 = 2**0.5
"""The number by which Skip blocks divide a sum."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nnx.silu,
    "swish": nnx.silu,
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "gelu": lambda x: nnx.gelu(x, approximate=False),
    "relu": nnx.relu,
}


@dataclass(frozen=True, eq=False)
class Building:
    """What every part of a network is built with."""

    config: UNet2DConfig
    emb: int
    """Width of the embedding of time and class."""
    dtype: DTypeLike | None
    """The type in which convolutions and matrix products run, None for that of the parameters."""
    rngs: nnx.Rngs


def convolution(
    c_in: int, c_out: int, build: Building, *, side: int = 3, stride: int = 1, padding: int = 1, init=FAN_AVG
) -> Conv:
    """A convolution, with `padding` pixels of zeros on every side, or for 0 as few as a halved size needs."""
    pads = ((1, 1), (1, 1)) if side == 3 and padding else "SAME"
    return Conv(c_in, c_out, side, stride, padding=pads, dtype=build.dtype, kernel_init=init, rngs=build.rngs)


def quarter_groups(channels: int) -> int:
    """The groups of a normalisation in a Skip block: a quarter of the channels, 32 at most."""
    return min(channels // 4, 32)


def _along(axis: int, x: Image, pad: tuple[int, int]) -> Array:
    return jnp.pad(x, [pad if i == axis else (0, 0) for i in range(4)])


def fir_downsample(x: Image) -> Float[Array, "b h2 w2 c"]:
    """x filtered by (1, 3, 3, 1)/8 along both axes, every second pixel kept; zeros beyond the edge, sides even.

    With e_i = x_{2i} and o_i = x_{2i+1}: y_i = (o_{i−1} + 3 e_i + 3 o_i + e_{i+1})/8.

    Source: Karras et al. 2020, arXiv:1912.04958, appendix B; Song et al. 2021, appendix H.
    """
    for axis in (1, 2):
        count = x.shape[axis] // 2
        pairs = x.reshape(*x.shape[:axis], count, 2, *x.shape[axis + 1 :])
        even, odd = jnp.moveaxis(pairs, axis + 1, 0)
        before = jax.lax.slice_in_dim(_along(axis, odd, (1, 0)), 0, count, axis=axis)
        after = jax.lax.slice_in_dim(_along(axis, even, (0, 1)), 1, count + 1, axis=axis)
        x = (before + 3 * even + 3 * odd + after) / 8
    return x


def fir_upsample(x: Image) -> Float[Array, "b h2 w2 c"]:
    """x at twice the size, zeros between its pixels filtered by (1, 3, 3, 1)/4 along both axes; zeros beyond the edge.

    y_{2i} = (x_{i−1} + 3 x_i)/4 and y_{2i+1} = (3 x_i + x_{i+1})/4.

    Source: Karras et al. 2020, arXiv:1912.04958, appendix B; Song et al. 2021, appendix H.
    """
    for axis in (1, 2):
        count = x.shape[axis]
        before = jax.lax.slice_in_dim(_along(axis, x, (1, 0)), 0, count, axis=axis)
        after = jax.lax.slice_in_dim(_along(axis, x, (0, 1)), 1, count + 1, axis=axis)
        both = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=axis + 1)
        x = both.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])
    return x


RESAMPLING: dict[str, Callable[[Array], Array]] = {
    "pool": average_pool,
    "nearest": nearest_upsample,
    "fir_down": fir_downsample,
    "fir_up": fir_upsample,
}


class GroupNorm(nnx.Module):
    """Group normalisation with a learned scale and bias for each channel."""

    def __init__(self, groups: int, channels: int, eps: float):
        if groups < 1 or channels % groups:
            raise ValueError(
                f"a normalisation of {channels} channels cannot have {groups} groups; choose norm_num_groups, or for "
                "Skip blocks block_out_channels, so that the groups divide the channels."
            )
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Image, scale: Float[Array, "b c"] | None = None, shift: Array | None = None) -> Image:
        """The normalised x times the learned scale plus the bias, and that times 1 + `scale` plus `shift`."""
        factor, offset = self.scale[...][None], self.bias[...][None]
        if scale is not None and shift is not None:
            factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
        h = x.reshape(x.shape[0], -1, x.shape[-1]).astype(factor.dtype)
        return fast.group_normalise(h, self.groups, factor, offset, self.eps).reshape(x.shape)


class ResnetBlock(nnx.Module):
    """Two convolutions, the second zero at initialisation, with the embedding between them.

    With `resample` the size changes after the first nonlinearity, of the block and of its shortcut.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        build: Building,
        *,
        groups: tuple[int, int] | None = None,
        divisor: float = 1.0,
        resample: str | None = None,
        shortcut: bool = False,
    ):
        config = build.config
        first, second = groups or (config.norm_num_groups,) * 2
        self.divisor, self.rate, self.resample, self.act_fn = divisor, config.dropout, resample, config.act_fn
        self.scales = config.resnet_time_scale_shift == "scale_shift"
        self.norm1 = GroupNorm(first, c_in, config.norm_eps)
        self.conv1 = convolution(c_in, c_out, build)
        self.time_emb_proj = nnx.Linear(build.emb, (1 + self.scales) * c_out, rngs=build.rngs)
        self.norm2 = GroupNorm(second, c_out, config.norm_eps)
        self.conv2 = convolution(c_out, c_out, build, init=ZEROS)
        self.conv_shortcut = convolution(c_in, c_out, build, side=1) if shortcut or c_in != c_out else None

    def __call__(self, x: Image, emb: Embedding, keys: Keys) -> Float[Array, "b h2 w2 c2"]:
        """(x + conv(dropout(act(norm(conv(act(norm(x))), emb)))))/d; `emb` is behind its nonlinearity."""
        act = ACTIVATIONS[self.act_fn]
        h = act(self.norm1(x))
        if self.resample is not None:
            x, h = RESAMPLING[self.resample](x), RESAMPLING[self.resample](h)
        h, told = self.conv1(h), self.time_emb_proj(emb)
        if self.scales:
            h = self.norm2(h, *jnp.split(told, 2, axis=-1))
        else:
            h = self.norm2(h + told[:, None, None])
        h = self.conv2(dropout(act(h), self.rate, keys))
        return ((x if self.conv_shortcut is None else self.conv_shortcut(x)) + h) / self.divisor


class Attention(nnx.Module):
    """Self-attention over the pixels, its output projection zero at initialisation."""

    def __init__(self, channels: int, build: Building, *, groups: int | None, divisor: float = 1.0):
        head = build.config.attention_head_dim or channels
        if head > channels:
            raise ValueError(
                f"attention_head_dim is {head}, and a block with attention has {channels} channels; give a smaller one."
            )
        self.heads, self.divisor = channels // head, divisor
        inner = head * self.heads
        self.group_norm = None if groups is None else GroupNorm(groups, channels, build.config.norm_eps)

        def linear(c_in: int, c_out: int, init) -> fast.Linear:
            return fast.Linear(c_in, c_out, dtype=build.dtype, kernel_init=init, rngs=build.rngs)

        self.to_q, self.to_k, self.to_v = (linear(channels, inner, FAN_AVG) for _ in range(3))
        self.to_out = nnx.List([linear(inner, channels, ZEROS)])

    def __call__(self, x: Image) -> Image:
        """(x + attention(norm(x)))/d."""
        b, height, width, channels = x.shape
        h = (x if self.group_norm is None else self.group_norm(x)).reshape(b, height * width, channels)
        q, k, v = (part(h).reshape(b, height * width, self.heads, -1) for part in (self.to_q, self.to_k, self.to_v))
        h = self.to_out[0](attention(q, k, v).reshape(b, height * width, -1))
        return (x + h.reshape(x.shape)) / self.divisor


class Downsample(nnx.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int, build: Building):
        self.conv = convolution(channels, channels, build, stride=2, padding=build.config.downsample_padding)

    def __call__(self, x: Image, emb: Embedding, keys: Keys) -> Float[Array, "b h2 w2 c"]:
        """x at half the size."""
        del emb, keys
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest neighbour, and a convolution after it."""

    def __init__(self, channels: int, build: Building):
        self.conv = convolution(channels, channels, build)

    def __call__(self, x: Image, emb: Embedding, keys: Keys) -> Float[Array, "b h2 w2 c"]:
        """x at twice the size."""
        del emb, keys
        return self.conv(nearest_upsample(x))
