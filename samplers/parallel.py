"""Parallel in time: all steps of a grid at once, repeated until they agree, by Picard's iteration (ParaDiGMS)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arguments import as_denoiser
from diffusion.arrays import expand
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import as_traced, is_concrete, pytree
from samplers import streams
from samplers.sample import Sampler, check_arguments, in_type_of, initial_state


@pytree
class ParallelSampled:
    """What `sample_parallel` returns."""

    x: Float[Array, "b *event"]
    """The samples, at the last time of the grid."""
    rounds: Int[Array, ""]
    """The rounds of the iteration: denoiser calls one after another, where the sampler makes one a step."""
    steps: Int[Array, ""]
    """The steps computed for each sample, in all rounds."""


def sample_parallel(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    sampler: Sampler,
    grid: ArrayLike,
    shape: tuple[int, ...],
    *,
    tolerance: float = 1e-3,
    window: int | None = None,
    ids: ArrayLike | None = None,
    x_init: ArrayLike | None = None,
) -> ParallelSampled:
    """The samples that `sample` draws with the same arguments, with the steps of a window computed side by side.

    With Φ_i a step of the sampler, its noise drawn beforehand, each round replaces the states of the window by

        x_{i+1} <- x_a + Σ_{a<=j<=i} (Φ_j(x_j) − x_j),    x_a the last state that has arrived

    (Shih et al. 2023, arXiv:2305.16317, algorithm 1.) A state has arrived when its root-mean-square change in a round
    is at most `tolerance` · σ at its time (at the data's end, of the time before); the window moves on past the states
    that have arrived in every sample. The first state of a window is always exact, so that N steps need N rounds at the
    most, and a tolerance of 0 gives the sequential answer to rounding. `window` is how many steps are computed at
    once, all unless given: as many times the memory.

    Worth its many-fold work only where a device is not filled by one batch. A sample of a larger batch may be iterated
    more often than alone: it is a function of its seed to about the tolerance, not to rounding. With `Restart` every
    step of a window computes the restarts, which `steps` does not count.
    Raises ValueError for a sampler that remembers its last steps, and as `sample` does.
    """
    shape, times, ids, x_init = check_arguments(key, process, sampler, grid, shape, ids, x_init)
    steps = times.shape[0] - 1
    if sampler.remembers:
        raise ValueError(
            f"{type(sampler).__name__} remembers its last steps, which are not there when all are computed at once; "
            "choose a method of one step, such as DDIM() or Heun()."
        )
    if is_concrete(tolerance) and not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance}; give 0 for the sequential answer, or more.")
    if window is not None and not 1 <= window <= steps:
        raise ValueError(f"window = {window}; this grid has {steps} steps, give 1 to {steps}.")
    x, rounds = _iterate(
        key,
        ids,
        as_traced(process),
        as_traced(as_denoiser(denoise)),
        as_traced(sampler),
        times,
        x_init,
        jnp.asarray(tolerance, times.dtype),
        shape,
        window or steps,
    )
    return ParallelSampled(x, rounds, rounds * (window or steps))


@functools.partial(jax.jit, static_argnames=("shape", "window"))
def _iterate(
    key: Array,
    ids: Array,
    process: Process,
    denoise: Denoiser,
    sampler: Sampler,
    grid: Array,
    x_init: Array | None,
    tolerance: Array,
    shape: tuple[int, ...],
    window: int,
) -> tuple[Array, Array]:
    steps = grid.shape[0] - 1
    keys = keys_lib.sample_keys(key, ids)
    x = initial_state(keys, process, shape, grid[0], x_init)
    denoise, carry = in_type_of(x, denoise, sampler), sampler.init(x, grid)
    # A change is measured against the noise that is still there; σ = 0 has none, and takes that of the time before.
    sigmas = process.sigma(grid)
    scale = jnp.where(sigmas > 0, sigmas, jnp.roll(sigmas, 1))

    def step(i: Array, state: Array) -> Array:
        draws = keys_lib.fold(keys, streams.PRIOR + 1 + i)
        return sampler.step(draws, state, carry, grid[i], grid[i + 1], process, denoise)[0]

    def round_of(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """(states x_0 ... x_N, how many steps are done, rounds) after another round."""
        states, done, rounds = state
        first = jnp.minimum(done, steps - window)
        old = jax.lax.dynamic_slice_in_dim(states, first, window + 1)
        moved = jax.vmap(step)(first + jnp.arange(window), old[:-1])
        # What is done stays, to the last bit, and the rest is added to it; the step after it is exact.
        place = first + jnp.arange(window)
        open_moves = jnp.where(expand(place >= done, moved), moved - old[:-1], 0.0)
        new = jax.lax.dynamic_index_in_dim(states, done, keepdims=False) + jnp.cumsum(open_moves, axis=0)
        exact = expand(place == done, new)
        new = jnp.where(exact, moved, new)
        new = jnp.where(expand(place < done, new), old[1:], new)
        axes = tuple(range(2, new.ndim))
        change = jnp.sqrt(jnp.mean((new - old[1:]) ** 2, axis=axes)).max(axis=1)
        bound = tolerance * jax.lax.dynamic_slice_in_dim(scale, first + 1, window)
        arrived = (change <= bound) & (tolerance > 0) | (place <= done)
        ahead = jnp.cumprod(arrived.astype(jnp.int32)).sum(dtype=jnp.int32)
        states = jax.lax.dynamic_update_slice_in_dim(states, new, first + 1, 0)
        # The states past the old window start from the newest state there is.
        last = first + window
        beyond = expand(jnp.arange(steps + 1) > last, states)
        return jnp.where(beyond, new[-1], states), first + ahead, rounds + 1

    start = (jnp.broadcast_to(x, (steps + 1, *shape)), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    states, _, rounds = jax.lax.while_loop(lambda state: state[1] < steps, round_of, start)
    return states[-1], rounds
