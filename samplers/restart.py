"""Restart sampling: a deterministic solver, sent back up over an interval of noise levels and run down again."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import keys as keys_lib
from diffusion.host import host_float64
from diffusion.keys import Draws
from diffusion.prediction import Denoiser
from diffusion.process import Process, transition
from diffusion.pytree import is_concrete, pytree, static
from samplers import streams
from samplers.exponential import half_log_snr
from samplers.ode import Heun
from samplers.sample import Sampler, require_continuous
from samplers.wrapped import Wrapped


@pytree
class Interval:
    """A range of noise levels that is gone over again, `repeats` times in `steps` steps."""

    low: float = 0.06
    """σ/α at the bottom; a restart begins at the first level of the grid that is at or below it."""
    high: float = 0.3
    """σ/α at the top."""
    repeats: int = static(default=2)
    """The number of repetitions, the paper's K."""
    steps: int = static(default=3)
    """The number of steps from the top to the bottom each time."""

    def __post_init__(self) -> None:
        if is_concrete(self.low, self.high) and not 0 < self.low < self.high:
            raise ValueError(f"low = {self.low} and high = {self.high} are no interval; use 0 < low < high.")
        for name, value in (("repeats", self.repeats), ("steps", self.steps)):
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} = {value}; give 1 or more.")


@pytree
class Restart(Wrapped):
    """The steps of `sampler`; where it arrives below an interval, noise up to its top and `steps` steps down, K times.

    The noise is that of the forward process, x_high ~ q(x_high | x_low); the steps down have Karras's spacing with
    ρ = 7 and end at the level they began from. Errors made above the interval are partly forgotten each
    time, while the solver stays deterministic and its own errors small (Xu et al. 2023, arXiv:2306.14878, algorithm 1).
    Two intervals that end at the same step of the grid are both gone over, one after the other, the first one first.
    """

    sampler: Sampler = Heun()
    """The solver on the way down; the history of a multistep method begins anew at every restart."""
    intervals: tuple[Interval, ...] = (Interval(),)
    """The intervals to go over again."""

    order: ClassVar[float] = 0
    """No order of convergence: the steps within an interval do not become finer with the grid."""

    def nfe(self, steps: int, to_data: bool) -> int:
        """The calls of the sampler inside, and of every restart."""
        return super().nfe(steps, to_data) + self._again_calls

    def calls(self, process: Process, grid: np.ndarray) -> int:
        """The same, on this grid: restarts are between finite σ/α."""
        return super().calls(process, grid) + self._again_calls

    @property
    def _again_calls(self) -> int:
        return sum(interval.repeats * self.sampler.nfe(interval.steps, False) for interval in self.intervals)

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for an interval that the grid does not reach, TypeError on a discrete chain."""
        require_continuous(process, "Restart")
        if self.sampler.stochastic:
            raise ValueError(
                f"Restart around {type(self.sampler).__name__} with these options, which is stochastic; the noise is "
                "Restart's own, so take a deterministic sampler, such as Heun() or DPMSolverMultistep()."
            )
        super().check(process, grid)
        with host_float64():
            levels = np.exp(-np.asarray(half_log_snr(process, grid[grid > 0])))
        for interval in self.intervals:
            if not levels[0] > interval.low >= levels[-1] * (1 - 1e-6):
                raise ValueError(
                    f"the interval from {float(interval.low):g} to {float(interval.high):g} has its lower end outside "
                    f"of the grid's noise levels, {levels[0]:g} to {levels[-1]:g}; choose low between them."
                )
            if interval.high > levels[0]:
                raise ValueError(
                    f"the interval from {float(interval.low):g} to {float(interval.high):g} ends above the grid's "
                    f"first noise level, {levels[0]:g}; choose a smaller high."
                )
            inner = np.linspace(grid[0], grid[-1], interval.steps + 1)
            self.sampler.check(process, inner)

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
        """One step of the sampler inside, and the restarts that are due."""
        x, carry = self.sampler.step(keys, x, carry, t, s, process, denoise)
        before, after = jnp.exp(-half_log_snr(process, t)), jnp.exp(-half_log_snr(process, s))
        for index, interval in enumerate(self.intervals):
            # What `check` has found in float64 must not be lost to rounding.
            low = interval.low * (1 + 1e-5)
            due = (before > low) & (after <= low) & (process.sigma(s) > 0)
            own = keys_lib.fold(keys, streams.UP + 16 * index)
            again = functools.partial(self._again, own, s, interval, process, denoise)
            x, carry = jax.lax.cond(due, again, lambda *state: state, x, carry)
        return x, carry

    def _again(
        self, keys: Draws, s: Array, interval: Interval, process: Process, denoise: Denoiser, x: Array, carry: Any
    ) -> tuple[Array, Any]:
        """Up and down, `repeats` times: (x, the carry to go on with)."""
        times = self._times(process, s, interval)

        def once(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            own = keys_lib.fold(keys, i)
            up = transition(process, state[0], s, times[0]).sample(own)

            def down(k: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
                fresh = keys_lib.fold(keys_lib.fold(own, streams.DOWN), k)
                return self.sampler.step(fresh, *state, times[k], times[k + 1], process, denoise)

            return jax.lax.fori_loop(0, interval.steps, down, (up, self.sampler.init(up, times)))

        x, last = jax.lax.fori_loop(0, interval.repeats, once, (x, self.sampler.init(x, times)))
        # The history of x is now the way down; a carry that is fixed for the grid stays as it is.
        return x, last if self.sampler.remembers else carry

    def _times(self, process: Process, s: Array, interval: Interval) -> Float[Array, " n"]:
        """Karras's grid from the top of the interval to s, its last time s itself."""
        low = jnp.exp(-half_log_snr(process, s)) ** (1 / 7)
        high = jnp.asarray(interval.high, low.dtype) ** (1 / 7)
        levels = (high + jnp.linspace(0.0, 1.0, interval.steps + 1, dtype=low.dtype) * (low - high)) ** 7
        return process.schedule.time_from_log_snr(-2 * jnp.log(levels)).astype(s.dtype).at[-1].set(s)
