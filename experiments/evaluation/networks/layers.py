"""The layers of feature networks: functions of the arrays of a file, which they ask for by name and shape.

Images are (batch, height, width, channels). Shapes are those of the file, in the order of PyTorch: a kernel of a
convolution is (out, in, height, width) there and (height, width, in, out) where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]
Get = Callable[[str, tuple[int, ...]], Array]
"""The array of a name, which has this shape in the file."""
Body = Callable[[Get, Images], Float[Array, "b d"]]
"""Features of images, by what asks for arrays."""
Padding = str | tuple[tuple[int, int], tuple[int, int]]
BATCH_NORM = {"weight", "bias", "running_mean", "running_var"}


def laid_out(array: np.ndarray) -> np.ndarray:
    """An array of the file as the layers take it."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array


def shapes_of(body: Body, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The arrays that `body` asks for, by name, found without computing anything."""
    shapes: dict[str, tuple[int, ...]] = {}

    def get(name: str, shape: tuple[int, ...]) -> Array:
        shapes[name] = shape
        return jnp.zeros([shape[axis] for axis in (2, 3, 1, 0)] if len(shape) == 4 else shape)

    jax.eval_shape(lambda x: body(get, x), jax.ShapeDtypeStruct((1, *image), np.float32))
    return shapes


def getter(params: dict[str, Any]) -> Get:
    """Arrays by name, of those that are there."""
    return lambda name, shape: params[name]


def convolution(get: Get, name: str, x: Images, out: int, kernel: tuple[int, int], **how: Any) -> Images:
    """Σ over a window, without a bias; `stride` and `padding` as XLA has them."""
    weight = get(f"{name}.weight", (out, x.shape[-1], *kernel))
    stride = how.get("stride", 1)
    return lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        how.get("padding", "VALID"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def depthwise(get: Get, name: str, x: Images, side: int, stride: int) -> Images:
    """Σ over a window of side × side in each channel by itself, with as many zeros around as keep or halve the size.

    As shifted products, which XLA makes one loop of: its own grouped convolutions are many times slower on a CPU.
    """
    weight = get(f"{name}.weight", (x.shape[-1], 1, side, side))
    sizes = [-(-length // stride) for length in x.shape[1:3]]
    around = [max(0, (out - 1) * stride + side - length) for out, length in zip(sizes, x.shape[1:3], strict=True)]
    padded = jnp.pad(x, [(0, 0), *[(pad // 2, pad - pad // 2) for pad in around], (0, 0)])
    total = jnp.zeros((), x.dtype)
    for i in range(side):
        for j in range(side):
            ends = i + (sizes[0] - 1) * stride + 1, j + (sizes[1] - 1) * stride + 1
            total = total + padded[:, i : ends[0] : stride, j : ends[1] : stride] * weight[i, j, 0]
    return total


def batch_norm(get: Get, name: str, x: Images, epsilon: float) -> Images:
    """γ (x − μ)/√(v + ε) + β with the moments of the training."""
    shape = (x.shape[-1],)
    scale = get(f"{name}.weight", shape) * lax.rsqrt(get(f"{name}.running_var", shape) + epsilon)
    return x * scale + (get(f"{name}.bias", shape) - get(f"{name}.running_mean", shape) * scale)


def max_pool(x: Images, stride: int, pad: int = 0) -> Images:
    """The largest of 3×3."""
    around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), around)


def average_pool(x: Images) -> Images:
    """The mean of 3×3, at an edge of those pixels that there are."""

    def total(values: Images) -> Images:
        return lax.reduce_window(values, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
