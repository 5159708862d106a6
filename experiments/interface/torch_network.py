"""A module of PyTorch as a network of JAX: called back on the host, batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from experiments.errors import UsageError


def torch_network(
    module: Any, call: Callable[[Any, Any], Any] | None = None, *, channels_first: bool = True
) -> Callable[[Array, Array], Array]:
    """`network(x, time) -> y` of a PyTorch module, for `diffusion.foreign_denoiser`.

    The module is called as `call(x, time)`, itself unless given, with tensors in the type and on the device of its
    parameters, without a gradient: x (b, channels, height, width), or of JAX's order where `channels_first` is False,
    and time (b,). What it answers is a tensor, a tuple whose first element is one, or has it as `sample`, as the
    networks of diffusers do. Its dropout and the like are as `module.eval()` or `module.train()` left them.

    Every call goes from JAX's device over the host to the module's and back, in float32 or float64, and waits for it.
    There is no derivative: samplers go through it, and likelihoods, DPS or a gradient through the sampler do not.
    Raises UsageError without PyTorch, for what cannot be called, and for an answer of another shape than x, when it
    comes.
    """
    if not callable(call if call is not None else module):
        raise UsageError(f"module is an object of type {type(module).__name__}; give a PyTorch module, or a `call`.")
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UsageError("torch_network needs PyTorch; install it by: pip install torch.") from None
    del torch
    return _Called(module, call, channels_first)


@dataclasses.dataclass(frozen=True, eq=False)
class _Called:
    """A module with the way to call it; equal to itself alone, so that it is compiled once."""

    module: Any
    call: Callable[[Any, Any], Any] | None
    channels_first: bool

    def __call__(self, x: Float[Array, "b *event"], time: Float[Array, " b"]) -> Float[Array, "b *event"]:
        kind = jnp.promote_types(x.dtype, jnp.float32)
        there = [_as_bits(each.astype(kind)) for each in (x, time)]
        shape = jax.ShapeDtypeStruct(there[0].shape, there[0].dtype)
        back = jax.pure_callback(self._on_host, shape, *there, vmap_method="sequential")
        return lax.bitcast_convert_type(back, kind).astype(x.dtype)

    def _on_host(self, x: Any, time: Any) -> np.ndarray:
        x, time = _from_bits(x), _from_bits(time)
        return _as_words(self._answer(x, time))

    def _answer(self, x: np.ndarray, time: np.ndarray) -> np.ndarray:
        import torch  # pyright: ignore[reportMissingImports]

        like = next((each for each in self._parameters() if each.is_floating_point()), torch.zeros(()))
        there = {"dtype": like.dtype, "device": like.device}
        moved = np.moveaxis(x, -1, 1) if self.channels_first and x.ndim > 2 else x
        with torch.no_grad():
            answer = (self.module if self.call is None else self.call)(
                torch.from_numpy(np.array(moved, order="C")).to(**there), torch.from_numpy(time).to(**there)
            )
        answer = getattr(answer, "sample", answer)
        answer = answer[0] if isinstance(answer, tuple) else answer
        if tuple(answer.shape) != moved.shape:
            raise UsageError(
                f"the module answers {tuple(answer.shape)} to an x of {moved.shape}; give a `call` that answers in the "
                "shape of x."
            )
        back = answer.detach().to("cpu").numpy() if answer.dtype != torch.bfloat16 else answer.float().cpu().numpy()
        back = np.moveaxis(back, 1, -1) if self.channels_first and x.ndim > 2 else back
        return np.ascontiguousarray(back, x.dtype)

    def _parameters(self) -> Any:
        return self.module.parameters() if hasattr(self.module, "parameters") else iter(())


def _as_bits(x: Array) -> Array:
    """float64 as pairs of 32 bits: the thread that calls back does not know `jax.enable_x64`, and would narrow it."""
    return lax.bitcast_convert_type(x, jnp.uint32) if x.dtype == jnp.float64 else x


def _from_bits(x: Any) -> np.ndarray:
    x = np.array(x, order="C")
    return x.view(np.float64)[..., 0] if x.dtype == np.uint32 else x


def _as_words(x: np.ndarray) -> np.ndarray:
    return x[..., None].view(np.uint32) if x.dtype == np.float64 else x
