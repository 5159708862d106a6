"""What the two networks of EDM share: filters that halve and double images, the residual block, the table of classes.

Names of modules are the authors', so that `enc/16x16_block0/conv0/kernel` here is theirs of that place, transposed.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.1 and table 7; Zhang 2019, arXiv:1904.11486 (filters).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

from diffusion.networks.attention import attention
from diffusion.networks.blocks import ZEROS, Keys, dropout, group_count, group_normalise
from diffusion.networks.unet import Image, average_pool, convolution, nearest_upsample

Taps = tuple[int, ...]


def filter_down(x: Float[Array, "b h w c"], taps: Taps, *, pad: bool = True) -> Float[Array, "b h2 w2 c"]:
    """x under the filter f fᵀ/(Σf)² at every second pixel: of half the size, with (n − 1)//2 zeros around x.

    Without `pad` there are no zeros, and the result is smaller by them.
    """
    if pad and _is_box(taps):
        return average_pool(x)
    around, total = (len(taps) - 1) // 2 if pad else 0, sum(taps)
    for axis in (1, 2):
        x = _padded(x, axis, around, around)
        last = x.shape[axis] - len(taps)
        parts = [lax.slice_in_dim(x, i, i + last + 1, 2, axis) for i in range(len(taps))]
        x = _weighted([tap / total for tap in taps], parts)
    return x


def filter_up(x: Float[Array, "b h w c"], taps: Taps) -> Float[Array, "b h2 w2 c"]:
    """The transpose of `filter_down`, times 4: x between zeros at every second pixel, under that filter."""
    if _is_box(taps):
        return nearest_upsample(x)
    around, total = (len(taps) - 1) // 2, sum(taps)
    for axis in (1, 2):
        size, phases = x.shape[axis], []
        padded = _padded(x, axis, len(taps), len(taps))
        for phase in (0, 1):  # pixel 2j + phase gets tap i of the pixel j + (phase + around − i)/2
            seen = [i for i in range(len(taps)) if (phase + around - i) % 2 == 0]
            starts = [len(taps) + (phase + around - i) // 2 for i in seen]
            parts = [lax.slice_in_dim(padded, start, start + size, 1, axis) for start in starts]
            phases.append(_weighted([2 * taps[i] / total for i in seen], parts))
        shape = list(x.shape)
        shape[axis] *= 2
        x = jnp.stack(phases, axis + 1).reshape(shape)
    return x


def _is_box(taps: Taps) -> bool:
    return len(taps) == 2 and taps[0] == taps[1]


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    width = [(0, 0)] * x.ndim
    width[axis] = (before, after)
    return jnp.pad(x, width)


def _weighted(weights: Sequence[float], parts: Sequence[Array]) -> Array:
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total


class Norm(nnx.Module):
    """Group normalisation with a learned scale and shift, `weight` and `bias` as the authors call them."""

    def __init__(self, channels: int, epsilon: float):
        self.groups, self.epsilon = group_count(channels), epsilon
        self.weight = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(
        self, x: Image, scale: Float[Array, "b c"] | None = None, shift: Float[Array, "b c"] | None = None
    ) -> Image:
        """The normalised x in the parameters' type; with scale and shift (1 + scale) times it, plus shift."""
        weight, bias = self.weight[...][None], self.bias[...][None]
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        return group_normalise(x, self.groups, weight, bias, self.epsilon)


@dataclasses.dataclass(frozen=True)
class BlockForm:
    """In what the residual blocks of the two networks differ."""

    emb: int
    """Width of the vector that modulates them."""
    epsilon: float
    """What is added to the variance in their norms."""
    taps: Taps
    """The filter by which they halve and double."""
    scale: float
    """The factor of a residual sum."""
    adaptive: bool
    """Whether the vector scales and shifts after the norm, or is added before it."""
    project: bool
    """Whether a residual path that is halved or doubled has a convolution too."""
    head_channels: int
    """Channels of an attention head; 0 for one head of all."""
    dropout: float
    dtype: DTypeLike | None

    def heads(self, channels: int) -> int:
        """The number of heads. Raises ValueError for fewer channels than one has."""
        if not self.head_channels:
            return 1
        if channels % self.head_channels:
            raise ValueError(
                f"head_channels is {self.head_channels}, and a level with attention has {channels} channels; give a "
                "divisor of that."
            )
        return channels // self.head_channels


class Block(nnx.Module):
    """A residual block that may halve or double the size, followed by self-attention where it is asked for."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        form: BlockForm,
        *,
        up: bool = False,
        down: bool = False,
        attend: bool = False,
        rngs: nnx.Rngs,
    ):
        self.form, self.up, self.down, dtype = form, up, down, form.dtype
        self.norm0 = Norm(c_in, form.epsilon)
        self.conv0 = convolution(c_in, c_out, dtype=dtype, rngs=rngs)
        self.affine = nnx.Linear(form.emb, c_out * (2 if form.adaptive else 1), rngs=rngs)
        self.norm1 = Norm(c_out, form.epsilon)
        self.conv1 = convolution(c_out, c_out, dtype=dtype, init=ZEROS, rngs=rngs)
        projects = c_in != c_out or ((up or down) and form.project)
        self.skip = convolution(c_in, c_out, side=1, dtype=dtype, rngs=rngs) if projects else None
        self.heads = form.heads(c_out) if attend else 0
        if attend:
            self.norm2 = Norm(c_out, form.epsilon)
            self.qkv = convolution(c_out, 3 * c_out, side=1, dtype=dtype, rngs=rngs)
            self.proj = convolution(c_out, c_out, side=1, dtype=dtype, init=ZEROS, rngs=rngs)

    def __call__(self, x: Image, emb: Float[Array, "b e"], keys: Keys) -> Float[Array, "b h2 w2 c2"]:
        """s · (skip(x) + conv1(dropout(silu(norm1(conv0(silu(norm0(x))), emb))))), then attention likewise."""
        h = self.conv0(self.resized(nnx.silu(self.norm0(x))))
        told = self.affine(emb)
        if self.form.adaptive:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = nnx.silu(self.norm1(h, scale, shift))
        else:
            h = nnx.silu(self.norm1(h + told[:, None, None]))
        h = self.conv1(dropout(h, self.form.dropout, keys))
        x = self.resized(x)
        h = self.form.scale * ((x if self.skip is None else self.skip(x)) + h)
        return self.form.scale * (h + self.attention(h)) if self.heads else h

    def resized(self, x: Image) -> Float[Array, "b h2 w2 c"]:
        """x in the size of what the block answers."""
        if self.down:
            return filter_down(x, self.form.taps)
        return filter_up(x, self.form.taps) if self.up else x

    def attention(self, x: Image) -> Image:
        """proj(softmax(q kᵀ/√d) v); the authors' channels are counted by head, place in the head, and q, k or v."""
        b, h, w, c = x.shape
        parts = self.qkv(self.norm2(x)).reshape(b, h * w, self.heads, c // self.heads, 3)
        q, k, v = (parts[..., i] for i in range(3))
        return self.proj(attention(q, k, v).reshape(b, h, w, c))


class LabelMap(nnx.Module):
    """A linear map of the class as a vector of zeros with a 1; "no class" is the vector of zeros.

    Untrained, every class is as none.
    """

    def __init__(self, num_classes: int, width: int, *, use_bias: bool):
        self.kernel = nnx.Param(jnp.zeros((num_classes, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32)) if use_bias else None

    def __call__(self, labels: Int[Array, " b"] | None, batch: int, scale: float = 1.0) -> Float[Array, "b width"]:
        """scale · E[label] (+ bias), E[num_classes] = 0, as for None; NaN for a label beyond."""
        kernel = self.kernel[...]
        labels = jnp.full((batch,), kernel.shape[0]) if labels is None else labels
        rows = jnp.pad(kernel, ((0, 1), (0, 0)))
        told = scale * jnp.take(rows, labels, axis=0, mode="fill", fill_value=jnp.nan)
        return told if self.bias is None else told + self.bias[...]


def level_names(event_shape: tuple[int, ...], levels: int, attended: tuple[int, ...]) -> tuple[list[str], list[bool]]:
    """(The name of each level, such as 16x16, whether it has attention).

    Raises ValueError where a side cannot be halved as often, and for attention at a level that there is not.
    """
    height, width, _ = event_shape
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"multipliers has {levels} levels, and an image of {height}×{width} pixels cannot be halved "
            f"{levels - 1} times; give fewer, or images of a multiple of {2 ** (levels - 1)} pixels."
        )
    longer = [max(height, width) >> level for level in range(levels)]
    if missing := [str(side) for side in attended if side not in longer]:
        raise ValueError(
            f"attention_resolutions has {', '.join(missing)}, but the levels of an image of {height}×{width} pixels "
            f"have {', '.join(map(str, longer))}; choose among these."
        )
    return [f"{height >> i}x{width >> i}" for i in range(levels)], [side in attended for side in longer]


def told_numbers(own: int, augment_dim: int) -> int:
    """How many numbers of an augmentation a network takes. Raises ValueError where it took others before."""
    if own and augment_dim not in (0, own):
        raise ValueError(
            f"augment_dim is {augment_dim}, and these parameters are told of augmentations by {own} numbers; turn on "
            "as many transformations."
        )
    return own or augment_dim


SQRT_HALF = math.sqrt(0.5)
