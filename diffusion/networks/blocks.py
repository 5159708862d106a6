"""What the networks share: dropout with keys, feature-wise modulation, normalisation and attention.

Parameters are float32. `dtype` is the type in which convolutions and matrix products run, None for that of the
parameters; norms, modulations and softmax always run in the parameters' type.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key

from diffusion.keys import fold
from diffusion.networks import fast

ZEROS = nnx.initializers.zeros
FAN_AVG = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")

Keys = Key[Array, " b"] | None


def fold_in(keys: Keys, number: int) -> Keys:
    """The keys for the `number`-th part of a network; None, which stands for evaluation, stays None."""
    return None if keys is None else fold(keys, number)


def dropout(x: Float[Array, "b *event"], rate: float, keys: Keys) -> Float[Array, "b *event"]:
    """x · m / (1 − rate) with m ~ Bernoulli(1 − rate), the mask of sample i drawn from keys[i] alone.

    Without keys, x: the mean over m.
    """
    if keys is None or rate == 0:
        return x
    keep = jnp.float32(1 - rate)  # the same mask with and without x64
    mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
    return jnp.where(mask, x / (1 - rate), 0)


def modulate(
    x: Float[Array, "b *space c"], shift: Float[Array, "b c"], scale: Float[Array, "b c"]
) -> Float[Array, "b *space c"]:
    """(1 + scale) x + shift, the same at every position."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (x.shape[-1],)
    return x * (1 + scale.reshape(shape)) + shift.reshape(shape)


def largest_divisor(number: int, bound: int) -> int:
    """The largest divisor of `number` that is at most `bound` (at least 1)."""
    return max(d for d in range(1, max(1, min(number, bound)) + 1) if number % d == 0)


def group_count(channels: int) -> int:
    """At most 32 equal groups, of at least four channels where there are as many."""
    return largest_divisor(channels, min(32, channels // 4))


def group_normalise(
    x: Float[Array, "b *space c"], groups: int, scale: Float[Array, "#b c"], shift: Float[Array, "#b c"]
) -> Float[Array, "b *space c"]:
    """scale · (x − μ)/√(v + 10⁻⁶) + shift, with μ and v the moments over all positions and a group of channels.

    With scale and shift from an embedding, this is the adaptive group normalisation AdaGN.

    Source: Wu & He 2018; Dhariwal & Nichol 2021, section 3.1 (AdaGN).
    """
    h = x.reshape(x.shape[0], -1, x.shape[-1]).astype(scale.dtype)
    return fast.group_normalise(h, groups, scale, shift).reshape(x.shape)


class GroupNorm(nnx.Module):
    """Group normalisation with a learned scale and shift for each channel."""

    def __init__(self, channels: int):
        self.groups = group_count(channels)
        self.scale = nnx.Param(jnp.ones((1, channels), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((1, channels), jnp.float32))

    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        """The normalised x, in the parameters' type."""
        return group_normalise(x, self.groups, self.scale[...], self.shift[...])


class SelfAttention(nnx.Module):
    """Multi-head self-attention: permuting the tokens permutes the output.

    Source: Vaswani et al. 2017, equation 1.
    """

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike | None, out_init=FAN_AVG, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = fast.Linear(width, 3 * width, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        self.out = fast.Linear(width, width, dtype=dtype, kernel_init=out_init, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """softmax(q kᵀ/√d) v in each head, then a linear map; the softmax is at least in float32."""
        batch, tokens, width = x.shape
        heads = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (part.reshape(heads) for part in jnp.split(self.qkv(x), 3, axis=-1))
        wide = jnp.promote_types(q.dtype, jnp.float32)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide) / math.sqrt(q.shape[-1])
        h = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)
        return self.out(h.reshape(x.shape))
