"""Layers in the forms that XLA compiles well on a CPU; elsewhere they are XLA's own.

The forms are equal to the plain ones but for rounding. None has a derivative of its own: what makes their gradients
fast is how the forward pass is written, so derivatives of any order and mode are right by construction.

- A bias is added as one row for each sample. Its gradient is then summed over positions first and over the batch
  afterwards, and not as one long sum down a column, which XLA does on one core.
- A linear map sees its rows as one axis. Over two, its kernel's gradient is a product for which both factors are first
  copied in another order. A convolution of one pixel is a linear map.
- What a convolution answers is marked to be written out, and with it its gradient: the sums and transposed copies that
  the gradients of bias, kernel and input need would otherwise each compute it anew, from all that is behind it. XLA
  forgets such marks on a CPU before it fuses, unless it is told not to (`experiments.compilation.keep_barriers`).
- The moments of a normalisation are taken about a constant that equals the mean, which takes one of three sums out of
  the gradient.

`benchmarks/training_speed.py` measures what they bring.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

EPSILON = 1e-6


_platform: ContextVar[str | None] = ContextVar("platform", default=None)


@contextlib.contextmanager
def forms_for(platform: str) -> Iterator[None]:
    """Trace layers in the forms of another platform than this machine's, such as cuda, for a program that is exported.

    jax does not know of it, and would take what is traced here for its own: nothing in it may be under a jit that is
    called elsewhere too.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def exporting() -> bool:
    """Whether what is traced now is within `forms_for`: a program in which kernels of others have no place."""
    return _platform.get() is not None


def on_cpu() -> bool:
    """Whether what is traced now is for a CPU: that of `forms_for`, of `jax.default_device` or the default backend."""
    told = _platform.get()
    if told is not None:
        return told == "cpu"
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend() == "cpu"
    return (device if isinstance(device, str) else device.platform) == "cpu"


def add_bias(x: Float[Array, "b *space c"], bias: Float[Array, " c"]) -> Float[Array, "b *space c"]:
    """x + bias."""
    if x.ndim < 3 or not on_cpu():
        return x + bias
    return x + lax.optimization_barrier(jnp.broadcast_to(bias, (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])))


def multiply(x: Float[Array, "*batch i"], kernel: Float[Array, "i o"]) -> Float[Array, "*batch o"]:
    """x · kernel."""
    rows = x.reshape(-1, x.shape[-1]) if on_cpu() else x
    return lax.dot_general(rows, kernel, (((rows.ndim - 1,), (0,)), ((), ()))).reshape(*x.shape[:-1], -1)


class Linear(nnx.Linear):
    """`nnx.Linear` with a bias."""

    def __call__(self, inputs: Array, out_sharding=None) -> Array:
        """inputs · kernel + bias, along the last axis."""
        bias = None if self.bias is None else self.bias[...]
        if bias is None or out_sharding is not None:
            return super().__call__(inputs, out_sharding)
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], bias), dtype=self.dtype)
        return add_bias(multiply(x, kernel), bias)


class Conv(nnx.Conv):
    """`nnx.Conv` of images, (batch, height, width, channels), with a bias; SAME padding, which keeps a size, unless
    another is given."""

    def __init__(self, c_in: int, c_out: int, side: int, stride: int, **options) -> None:
        super().__init__(c_in, c_out, (side, side), stride, **options)
        self.stride = stride

    def __call__(self, inputs: Array, out_sharding=None) -> Array:
        """The convolution of `inputs` with the kernel, plus the bias."""
        bias = None if self.bias is None else self.bias[...]
        if bias is None or out_sharding is not None:
            return super().__call__(inputs, out_sharding)
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], bias), dtype=self.dtype)
        if not on_cpu():
            return self._convolved(x, kernel) + bias
        pixelwise = kernel.shape[:2] == (1, 1) and self.stride == 1
        y = multiply(x, kernel[0, 0]) if pixelwise else self._convolved(x, kernel)
        return lax.optimization_barrier(add_bias(y, bias))

    def _convolved(self, x: Array, kernel: Array) -> Array:
        numbers, padding = ("NHWC", "HWIO", "NHWC"), cast("str | Sequence[tuple[int, int]]", self.padding)
        return lax.conv_general_dilated(x, kernel, (self.stride, self.stride), padding, dimension_numbers=numbers)


def layer_normalise(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """(x − μ)/√(v + 10⁻⁶), with μ and v the moments over the last axis."""
    if not on_cpu():
        h = x - x.mean(-1, keepdims=True)
        return h * lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + EPSILON)
    ones = np.full((x.shape[-1], 1), 1 / x.shape[-1])

    def average(x: Array) -> Array:
        return jnp.matmul(x, ones.astype(x.dtype), precision="highest")

    h, offset = _centred(x, average(x))
    return (h - offset) * lax.rsqrt(average(h * h) - offset**2 + EPSILON)


def group_normalise(
    x: Float[Array, "b n c"],
    groups: int,
    scale: Float[Array, "#b c"],
    shift: Float[Array, "#b c"],
    epsilon: float = EPSILON,
) -> Float[Array, "b n c"]:
    """scale · (x − μ)/√(v + ε) + shift, with μ and v the moments over all positions and a group of channels."""
    size = x.shape[-1] // groups
    # The average over a group as a projection: on a CPU a training step is a tenth faster than with a reshape. Its
    # precision is not left to the accelerator.
    projection = np.kron(np.eye(groups), np.full((size, size), 1 / size))

    def average(x: Array) -> Array:
        means = _mean_of_positions(x)
        return jnp.matmul(means, projection.astype(means.dtype), precision="highest")[:, None]

    if not on_cpu():
        h = x - average(x)
        return h * (lax.rsqrt(average(h * h) + epsilon) * scale[:, None]) + shift[:, None]
    h, offset = _centred(x, average(x))
    factor = lax.rsqrt(average(h * h) - offset**2 + epsilon) * scale[:, None]
    return h * factor + (shift[:, None] - offset * factor)


def _centred(x: Array, mean: Array) -> tuple[Array, Array]:
    """x less a constant that equals its mean, and the mean of that, which is 0 and has the mean's derivatives.

    A normalisation does not change when any constant is taken off x, so that all its derivatives stay what they are.
    """
    constant = lax.stop_gradient(mean)
    return x - constant, mean - constant


def _mean_of_positions(x: Float[Array, "b n c"]) -> Float[Array, "b c"]:
    """The mean over n; on a CPU long rows are added first, of as many channels as make up several positions."""
    batch, n, channels = x.shape
    rows = next(rows for rows in range(int(n**0.5), 0, -1) if n % rows == 0)
    if rows == 1 or not on_cpu():
        return x.mean(1)
    sums = lax.optimization_barrier(x.reshape(batch, rows, -1).sum(1))
    return sums.reshape(batch, n // rows, channels).sum(1) / n
