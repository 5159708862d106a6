"""Inpainting within a sampler: the known part of x_s is drawn from q(x_s|y), once or repeatedly."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import keys as keys_lib
from diffusion.arguments import as_array
from diffusion.keys import Draws
from diffusion.prediction import Denoiser
from diffusion.process import Process, perturb, transition
from diffusion.pytree import pytree, static
from samplers import streams
from samplers.inverse import for_each
from samplers.sample import Sampler
from samplers.wrapped import Wrapped


@pytree
class Replacement(Wrapped):
    """The step of `sampler`, then the known part of x_s replaced by α_s y + σ_s n (Song et al. 2021, appendix I.2).

    (arXiv:2011.13456.) `observed` y and `mask`, True where y is known, have the shape of the event, or of the batch;
    y may be anything where the mask is False. The known part of a sample at σ = 0 is y itself.
    Exact where the unknown part does not depend on the known one. Otherwise it is not the posterior: at high noise y is
    seen only through that noise, and what is decided there stays, so that the unknown part follows y too little and is
    too wide. `RePaint` is closer.
    Raises TypeError when the noise is not Gaussian, ValueError for a y or a mask that does not fit.
    """

    sampler: Sampler
    """The sampler of the model without y."""
    observed: Float[Array | np.ndarray, "..."]
    """y, of the shape of the event or of the batch."""
    mask: Any
    """Booleans, True where y is known."""

    def __post_init__(self) -> None:
        for name in ("observed", "mask"):
            object.__setattr__(self, name, as_array(getattr(self, name), name))
        if isinstance(self.mask, (np.ndarray, jax.Array)) and self.mask.dtype != np.bool_:
            raise ValueError(f"mask is an array of {self.mask.dtype}; give booleans, True where observed is known.")

    order: ClassVar[float] = 1
    """The order towards its own limit, which is not the posterior."""

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """The step of the sampler inside, with the known part replaced."""
        moved, carry = self.sampler.step(keys, x, carry, t, s, process, denoise)
        return self._replace(keys, moved, s, process), carry

    def _replace(self, keys: Draws, x: Array, s: Array, process: Process) -> Array:
        y = for_each("observed", self.observed, x.shape).astype(x.dtype)
        noise = keys_lib.normal(keys_lib.fold(keys, streams.OBSERVATION), x.shape[1:], x.dtype)
        return jnp.where(for_each("mask", self.mask, x.shape), perturb(process, y, noise, s), x)


@pytree
class RePaint(Replacement):
    """`Replacement` that goes over each stretch again: noised back up and sampled down, `resamplings` times in all.

    Whenever `jump` steps are done, x_s is carried back up over them by the forward transition, and down again with
    replacement (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1, and its jumps of length j). So the unknown part
    adapts to the known one at every noise level but σ = 0. Costs about `resamplings` times
    the denoiser calls, and with 1 it is `Replacement`. The more, the closer to the posterior, but the error of the
    sampler's own steps is repeated too: with few of them `Ancestral` with β̃ ends too narrow, and β or
    `EulerMaruyama` does not. Long jumps help less than as many short ones.
    """

    resamplings: int = static(default=10)
    """The number of times that each stretch is sampled, the paper's r."""
    jump: int = static(default=1)
    """The number of steps in a stretch, the paper's j: 10 there, on 250 steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("resamplings", self.resamplings), ("jump", self.jump)):
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} = {value}; give 1 or more.")

    @property
    def remembers(self) -> bool:
        """True: a stretch is gone over from where it began."""
        return True

    def nfe(self, steps: int, to_data: bool) -> int:
        """Every stretch that does not end at the data costs `resamplings` times."""
        again = (self.resamplings - 1) * self._stretches(steps, to_data)
        return self.sampler.nfe(steps, to_data) + again * self.sampler.nfe(self.jump, False)

    def calls(self, process: Process, grid: np.ndarray) -> int:
        """The same, on this grid: a first stretch from α = 0 may cost fewer, each time."""
        starts = self.jump * np.arange(self._stretches(len(grid) - 1, bool(grid[-1] == 0)))
        again = sum(self.sampler.calls(process, grid[i : i + self.jump + 1]) for i in starts)
        return super().calls(process, grid) + (self.resamplings - 1) * again

    def _stretches(self, steps: int, to_data: bool) -> int:
        """How many do not end at the data."""
        return steps // self.jump - int(to_data and steps % self.jump == 0)

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for a jump longer than the grid."""
        super().check(process, grid)
        if self.jump > len(grid) - 1:
            raise ValueError(f"jump = {self.jump} is longer than the grid of {len(grid) - 1} steps; use a shorter one.")

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """The carry of the sampler inside, the grid, and how many steps of it are done."""
        return self.sampler.init(x, grid), grid, jnp.zeros((), jnp.int32)

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """One step of `Replacement`, and at the end of a stretch its repetitions."""
        inner, grid, done = carry
        done = done + 1
        x, inner = super().step(keys, x, inner, t, s, process, denoise)

        def again(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            first = done - self.jump
            up = transition(process, state[0], s, grid[first])
            x = up.sample(keys_lib.fold(keys_lib.fold(keys, streams.RENOISE), i))

            def down(k: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
                now, after = grid[first + k], grid[first + k + 1]
                fresh = keys_lib.fold(keys_lib.fold(keys, streams.JUMP), i * self.jump + k)
                return super(RePaint, self).step(fresh, *state, now, after, process, denoise)

            # The history of a multistep method belongs to the way that was undone.
            return jax.lax.fori_loop(0, self.jump, down, (x, self.sampler.init(x, grid)))

        def repeat() -> tuple[Array, Any]:
            return jax.lax.fori_loop(0, self.resamplings - 1, again, (x, inner))

        wanted = (done % self.jump == 0) & (process.sigma(s) > 0)
        x, inner = jax.lax.cond(wanted, repeat, lambda: (x, inner))
        return x, (inner, grid, done)
