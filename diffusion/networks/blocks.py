"""What the networks share: dropout with keys, modulation, normalisation and self-attention.

Parameters are float32. `dtype` is the type in which convolutions and matrix products run, None for that of the
parameters; norms, modulations and softmax always run in the parameters' type.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Key

from diffusion.keys import fold
from diffusion.networks import fast
from diffusion.networks.attention import attention
from diffusion.networks.embeddings import rotate

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
    x: Float[Array, "b *space c"],
    groups: int,
    scale: Float[Array, "#b c"],
    shift: Float[Array, "#b c"],
    epsilon: float = fast.EPSILON,
) -> Float[Array, "b *space c"]:
    """scale · (x − μ)/√(v + ε) + shift, with μ and v the moments over all positions and a group of channels.

    With scale and shift from an embedding, this is the adaptive group normalisation AdaGN.

    Source: Wu & He 2018; Dhariwal & Nichol 2021, section 3.1 (AdaGN).
    """
    h = x.reshape(x.shape[0], -1, x.shape[-1]).astype(scale.dtype)
    return fast.group_normalise(h, groups, scale, shift, epsilon).reshape(x.shape)


class GroupNorm(nnx.Module):
    """Group normalisation with a learned scale and shift for each channel."""

    def __init__(self, channels: int):
        self.groups = group_count(channels)
        self.scale = nnx.Param(jnp.ones((1, channels), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((1, channels), jnp.float32))

    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        """The normalised x, in the parameters' type."""
        return group_normalise(x, self.groups, self.scale[...], self.shift[...])


class RMSNorm(nnx.Module):
    """Normalisation by the root mean square of a token, with a learned scale for each channel.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """scale · x/√(mean x² + 10⁻⁶), in the parameters' type."""
        scale = self.scale[...]
        h = x.astype(scale.dtype)
        return h * lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6) * scale


class SelfAttention(nnx.Module):
    """Multi-head self-attention: permuting the tokens permutes the output.

    With `qk_norm`, queries and keys are normalised in each head by an `RMSNorm`, so that no logit is beyond √d times
    the product of their scales (Henry et al. 2020, arXiv:2010.04245; Dehghani et al. 2023, arXiv:2302.05442).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dtype: DTypeLike | None,
        qk_norm: bool = False,
        out_init=FAN_AVG,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        self.qkv = fast.Linear(width, 3 * width, dtype=dtype, kernel_init=FAN_AVG, rngs=rngs)
        self.out = fast.Linear(width, width, dtype=dtype, kernel_init=out_init, rngs=rngs)
        self.q_norm = RMSNorm(width // heads) if qk_norm else None
        self.k_norm = RMSNorm(width // heads) if qk_norm else None

    def __call__(self, x: Float[Array, "b n c"], angles: Float[Array, "n f"] | None = None) -> Float[Array, "b n c"]:
        """softmax(q kᵀ/√d) v in each head, then a linear map; `angles` turn q and k by their token's position."""
        batch, tokens, width = x.shape
        heads = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (part.reshape(heads) for part in jnp.split(self.qkv(x), 3, axis=-1))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        h = attention(q.astype(v.dtype), k.astype(v.dtype), v)
        return self.out(h.reshape(x.shape))
