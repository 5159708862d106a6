"""Scaled dot-product attention, one function for every network, in the form that the device and the shapes ask for.

    attention(q, k, v) = softmax(q kᵀ/√d) v

    plain           all n² logits at once: on any device, up to `MOST_LOGITS` tokens
    by queries      the logits of `CHUNK` queries at a time, computed again for the gradient: memory grows as n, not n²
    fused           cuDNN's, which writes no logits: on an Nvidia GPU, for what cuDNN takes (bfloat16)

The softmax is at least in float32 in all of them, and they are equal up to rounding.

cuDNN's kernel has a backward pass and no other derivative; forward mode and second derivatives are those of the others
(`with_backward`).

Source: Vaswani et al. 2017, equation 1; Rabe & Staats 2021, arXiv:2112.05682 (by queries); Dao et al. 2022,
arXiv:2205.14135 (fused).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffusion.networks.backward import with_backward
from diffusion.networks.fast import exporting

MOST_LOGITS = 1024
"""Up to so many tokens all logits are written out at once."""
CHUNK = 256
"""Number of queries whose logits are written out at once, where there are more tokens than that."""
FUSED_ON = "cuda"
"""The platform, by JAX's name, whose fused kernel is used."""

Heads = Float[Array, "b n h d"]


def attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """softmax(q kᵀ/√d) v in each head, in v's type; the form follows from the device, the types and the shapes."""
    if jax.default_backend() == "gpu" and not exporting() and fused_takes(q.shape, q.dtype):
        return fused(q, k, v)
    return unfused(q, k, v)


def unfused(q: Heads, k: Heads, v: Heads) -> Heads:
    """The plain form, or by queries where there are many tokens: with derivatives of every kind and order."""
    return plain(q, k, v) if k.shape[1] <= MOST_LOGITS else by_queries(q, k, v)


def plain(q: Float[Array, "b m h d"], k: Heads, v: Heads) -> Float[Array, "b m h d"]:
    """softmax(q kᵀ/√d) v with all m·n logits at once, the products of q and k summed in float32 at least."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide) / math.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)


def by_queries(q: Heads, k: Heads, v: Heads, chunk: int = CHUNK) -> Heads:
    """`plain` for `chunk` queries at a time, so that no more than chunk·n logits of a head exist at once."""
    batch, tokens, heads, features = q.shape
    whole = tokens - tokens % chunk
    some = jax.checkpoint(lambda part: plain(part, k, v), prevent_cse=False)
    parts = jnp.moveaxis(q[:, :whole].reshape(batch, -1, chunk, heads, features), 1, 0)
    done = jnp.moveaxis(lax.map(some, parts), 0, 1).reshape(batch, whole, heads, features)
    return done if whole == tokens else jnp.concatenate([done, some(q[:, whole:])], axis=1)


def kernel(q: Heads, k: Heads, v: Heads) -> Heads:
    """cuDNN's attention. Raises what JAX raises for shapes, types and devices that cuDNN does not take."""
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@functools.cache
def fused_takes(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether the kernel and its backward pass take q, k and v of this shape and type on this machine."""
    one = jax.ShapeDtypeStruct(shape, dtype)
    try:
        jax.eval_shape(_kernel_backward, one, one, one, one)
    except (NotImplementedError, ValueError, RuntimeError):  # JAX's ways to refuse types, head sizes and devices
        return False
    return True


def _kernel_backward(cotangent: Heads, q: Heads, k: Heads, v: Heads) -> tuple[Heads, Heads, Heads]:
    return jax.vjp(kernel, q, k, v)[1](cotangent)


def _unfused_backward(cotangent: Heads, q: Heads, k: Heads, v: Heads) -> tuple[Heads, Heads, Heads]:
    return jax.vjp(unfused, q, k, v)[1](cotangent)


def _fused_forward(q: Heads, k: Heads, v: Heads) -> Heads:
    return lax.platform_dependent(q, k, v, **{FUSED_ON: kernel}, default=unfused)


@jax.custom_jvp
def _fused_backward(cotangent: Heads, q: Heads, k: Heads, v: Heads) -> tuple[Heads, Heads, Heads]:
    return lax.platform_dependent(cotangent, q, k, v, **{FUSED_ON: _kernel_backward}, default=_unfused_backward)


@_fused_backward.defjvp
def _fused_backward_jvp(primals: tuple[Heads, ...], tangents: tuple[Heads, ...]) -> tuple[Any, Any]:
    return jax.jvp(_unfused_backward, primals, tangents)


fused = with_backward(unfused, _fused_backward, forward=_fused_forward)
"""The kernel with its backward pass, and `unfused` in every other derivative and on every other platform."""
