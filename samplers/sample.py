"""One protocol, one loop, one jit.

A sampler is a frozen dataclass with

    init(x, grid)                                   -> carry     the history of multistep methods
    step(keys, x, carry, t, s, process, denoise)    -> (x, carry)

and `sample` scans it over a grid. Hyper-parameters, grid values and the network's weights are traced: changing
them never recompiles. Sample i depends on (key, ids[i]) alone.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Key, UInt

from diffusion import keys as keys_lib
from diffusion.arguments import (
    Given,
    as_batch,
    as_denoiser,
    as_ids,
    as_key,
    as_shape,
    is_traced,
    kind_of,
    require_process,
)
from diffusion.brownian import DEPTH, BrownianIncrement
from diffusion.host import host_float64
from diffusion.keys import Draws
from diffusion.prediction import Denoiser, x0_alone
from diffusion.process import Process, prior_sample
from diffusion.pytree import as_traced, pytree, static
from samplers import streams
from samplers.exponential import starts_in_noise
from samplers.grids import as_times, check_grid


class Sampler:
    """The protocol that every sampler follows."""

    order: ClassVar[Any]
    """The order in the name of the method."""
    takes_both_times: ClassVar[bool] = False
    """Whether it asks a `diffusion.flow_maps.TwoTimeDenoiser`, G(x, t, s), in place of a denoiser."""

    @property
    def stated_order(self) -> int:
        """The order of convergence in the step size that is promised and tested: strong for ODEs, weak for SDEs."""
        return self.order

    @property
    def stochastic(self) -> bool:
        """Whether the sampler draws noise."""
        return False

    @property
    def strong_order(self) -> int:
        """The order along one Brownian path; 0 where the noise is not that of a path, or there is none."""
        return 0

    @property
    def remembers(self) -> bool:
        """Whether a step depends on earlier steps through more than its x."""
        return False

    @property
    def takes_pair(self) -> bool:
        """Whether the sampler takes a `samplers.cfgpp.conditional_pair` in place of a denoiser."""
        return False

    @property
    def takes_variance(self) -> bool:
        """Whether the sampler takes the pair (x̂_0, v) of a denoiser that learns its variance."""
        return False

    def nfe(self, steps: int, to_data: bool) -> int:
        """Denoiser calls for `steps` steps between finite σ/α; `to_data` says whether the last one ends at the data."""
        del to_data
        return steps

    @property
    def one_call_from_noise(self) -> bool:
        """Whether a step from α = 0, where σ/α is infinite, is one of first order with a single denoiser call."""
        return False

    def calls(self, process: Process, grid: np.ndarray) -> int:
        """Denoiser calls on this grid: `nfe`, but for a first step from α = 0, which may cost fewer."""
        steps, to_data = len(grid) - 1, bool(grid[-1] == 0)
        if not (self.one_call_from_noise and starts_in_noise(process, grid[0])):
            return self.nfe(steps, to_data)
        return 1 + (self.nfe(steps - 1, to_data) if steps > 1 else 0)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the sampler does not exist for the process's noise; also called under a trace."""

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError when these options cannot sample this process on this grid; all three are concrete."""

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """The carry before the first step."""
        del x, grid
        return ()

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
        """One step from time t down to s < t; `keys` are fresh, one for each sample."""
        raise NotImplementedError


@pytree
class Sampled:
    """What `sample` returns."""

    x: Float[Array, "b *event"]
    """The samples, at the last time of the grid."""
    trajectory: Float[Array, "k b *event"] | None
    """States on the way, the first and the last included, or None."""
    times: Float[Array, " k"] | None
    """The times of the trajectory."""
    nfe: int = static()
    """Denoiser calls for each sample; where the grid or the process is traced, as many as there are at most."""


def sample(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    sampler: Sampler,
    grid: ArrayLike,
    shape: tuple[int, ...],
    *,
    ids: ArrayLike | None = None,
    x_init: ArrayLike | None = None,
    keep_every: int | None = None,
    brownian_tree: bool = False,
) -> Sampled:
    """Draw samples of shape (b, *event) by running `sampler` along `grid`, from the prior at grid[0] to grid[-1].

    `denoise` is (x, t) -> E[x_0 | x_t = x]; give a `jax.tree_util.Partial`, so that new weights do not recompile, as
    they would with a fresh lambda.
    `ids` are the (b,) identities of the samples, 0, 1, ... unless given: sample i is a function of (key, ids[i])
    whatever the batch. `x_init` (b, *event) replaces the draw from the prior. `keep_every` = k returns every k-th
    state as well. `brownian_tree` takes the noise of each sample from one Brownian path, the same on every
    grid, so that finer grids lead to the same sample at the sampler's strong order. When the grid ends at 0 the result
    is the denoiser's last output, without residual noise. Gradients go through it; their memory grows by a state and
    not by a network's activations for each step.

    Raises ValueError for a grid, shape or option that does not fit, and TypeError for a sampler that does not
    exist for the process's noise, or for an argument of another type.
    """
    if keep_every is not None and keep_every < 1:
        raise ValueError(f"keep_every = {keep_every}; give 1 for every state, k for every k-th.")
    shape, times, ids, x_init = check_arguments(key, process, sampler, grid, shape, ids, x_init)
    denoise = as_denoiser(denoise)
    if brownian_tree and not is_traced((process, sampler, grid)):
        check_path(process, sampler, as_times(grid))
    x, states, kept = run_traced(
        key=key,
        ids=ids,
        process=as_traced(process),
        denoise=as_traced(denoise),
        sampler=as_traced(sampler),
        grid=times,
        x_init=x_init,
        shape=shape,
        keep_every=keep_every,
        brownian_tree=brownian_tree,
    )
    # On a traced grid the last time is unknown here; count as if it were the data's.
    nfe = sampler.nfe(times.shape[0] - 1, True) if is_traced(grid) else sampler.calls(process, as_times(grid))
    return Sampled(x, states, kept, nfe)


def check_arguments(
    key: Any,
    process: Process,
    sampler: Sampler,
    grid: ArrayLike,
    shape: tuple[int, ...],
    ids: ArrayLike | None,
    x_init: ArrayLike | None,
) -> tuple[tuple[int, ...], Given, Given, Array | None]:
    """(shape, grid, ids, x_init), as arrays of the default type. Raises as `sample` does."""
    require_sampler(sampler, require_process(process))
    shape, ids, x_init = check_batch(key, shape, ids, x_init)
    if is_traced(grid):
        return shape, jnp.asarray(grid, jnp.result_type(float)), ids, x_init
    times = as_times(grid)
    if not is_traced((process, sampler)):
        check_grid(process, times)
        sampler.check(process, times)
    return shape, times.astype(jnp.result_type(float)), ids, x_init


def require_sampler(sampler: Any, process: Process) -> None:
    """Raise TypeError for anything but a sampler that exists for the process's noise, such as a name or a class."""
    if isinstance(sampler, type) and issubclass(sampler, Sampler):
        raise TypeError(f"sampler is the class {sampler.__name__}; give {sampler.__name__}(), with its options.")
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler is {kind_of(sampler)}; give a sampler, such as Heun() or DPMSolverMultistep().")
    if jax.tree_util.all_leaves([sampler]):
        name = type(sampler).__name__
        raise TypeError(f"{name} is no pytree; put @diffusion.pytree.pytree above `class {name}`.")
    sampler.check_noise(process)


def check_batch(
    key: Any, shape: tuple[int, ...], ids: ArrayLike | None, x_init: ArrayLike | None
) -> tuple[tuple[int, ...], Given, Array | None]:
    """(shape, ids, x_init), as arrays. Raises as `sample` does."""
    key, shape = as_key(key), as_shape(shape)
    x_init = None if x_init is None else as_batch(x_init, "x_init")
    ids = as_ids(ids, shape[0])
    if x_init is not None and x_init.shape != shape:
        raise ValueError(f"x_init has shape {x_init.shape} and shape is {shape}; they must agree.")
    return shape, ids, x_init


def initial_state(
    keys: Draws, process: Process, shape: tuple[int, ...], t: ArrayLike, x_init: Array | None
) -> Float[Array, "b *event"]:
    """`x_init`, or the draw of the prior at time t that belongs to the samples' `keys`."""
    return x_init if x_init is not None else prior_sample(keys_lib.fold(keys, streams.PRIOR), process, shape, t)


def in_type_of(x: Array, denoise: Denoiser, sampler: Sampler) -> Denoiser:
    """The denoiser, its answers in the type of the state; it raises TypeError for a pair that is not taken."""

    def answer(y: Array, *times: ArrayLike) -> Any:
        answers = denoise(y, *times)
        if not sampler.takes_variance:
            x0_alone(answers, type(sampler).__name__)
        return jax.tree.map(lambda each: each.astype(x.dtype), answers)

    return answer


def path_clock(process: Process, t: ArrayLike) -> Float[Array, "..."]:
    """u = (2/π) arctan(σ/α): a Brownian path's time, from 0 at the data to 1 where there is no signal."""
    return 2 / jnp.pi * jnp.arctan2(process.sigma(t), process.alpha(t))


def check_path(process: Process, sampler: Sampler, grid: np.ndarray) -> None:
    """Raise ValueError for a sampler that follows no Brownian path, or a grid too fine for one."""
    name = type(sampler).__name__
    if sampler.strong_order == 0:
        raise ValueError(
            f"brownian_tree: {name} with these options does not follow a Brownian path; "
            "choose a solver of the reverse SDE, such as EulerMaruyama() or SDEDPMSolver()."
        )
    with host_float64():
        clock = np.asarray(path_clock(process, grid))
    finest = float(np.min(-np.diff(clock)))
    if finest < 2 * 2.0**-DEPTH:
        raise ValueError(
            f"brownian_tree: the grid's smallest step is {finest:.2g} of the path, which is told apart "
            f"down to {2.0**-DEPTH:.2g}; use fewer steps."
        )


def require_continuous(process: Process, what: str) -> None:
    """Raise TypeError on a discrete chain; `what` names the thing that needs α' and σ'."""
    if process.schedule.discrete:
        raise TypeError(
            f"{what} needs a velocity, and a discrete chain has no derivative in t; use DDIM, an exponential method, "
            "a continuous schedule, or diffusion.continuous(process)."
        )


@functools.partial(jax.jit, static_argnames=("shape", "keep_every", "brownian_tree"))
def run_traced(
    key: Array,
    ids: UInt[Array, " b"],
    process: Process,
    denoise: Denoiser,
    sampler: Sampler,
    grid: Array,
    x_init: Array | None,
    shape: tuple[int, ...],
    keep_every: int | None,
    brownian_tree: bool,
) -> tuple[Array, Array | None, Array | None]:
    """(x, the states that are kept, their times) of `sample`, with every array traced, and nothing checked.

    The batch in `shape` may be a symbolic size, for `jax.export`.
    """
    steps = grid.shape[0] - 1
    keys = keys_lib.sample_keys(key, ids)
    paths = keys_lib.fold(keys, streams.PATH) if brownian_tree else None
    x = initial_state(keys, process, shape, grid[0], x_init)
    kept = None if keep_every is None else jnp.zeros((len(_kept(steps, keep_every)), *shape), x.dtype).at[0].set(x)

    denoise = in_type_of(x, denoise, sampler)

    def body(state: tuple[Array, Any, Array | None], now: tuple[Array, Array, Array]) -> tuple[Any, None]:
        x, carry, kept = state
        t, s, i = now
        draws = keys_lib.fold(keys, streams.PRIOR + 1 + i)
        if paths is not None:
            draws = BrownianIncrement(draws, paths, path_clock(process, t), path_clock(process, s))
        x, carry = sampler.step(draws, x, carry, t, s, process, denoise)
        # The last state written to a slot stays: those after k, 2k, ... steps, and the final one.
        if kept is not None and keep_every is not None:
            kept = jax.lax.dynamic_update_index_in_dim(kept, x, 1 + i // keep_every, 0)
        return (x, carry, kept), None

    start = (x, sampler.init(x, grid), kept)
    # A gradient keeps the states, and computes the network's activations again one step at a time.
    again = jax.checkpoint(body, prevent_cse=False)
    (x, _, kept), _ = jax.lax.scan(again, start, (grid[:-1], grid[1:], jnp.arange(steps)))
    return x, kept, None if keep_every is None else grid[_kept(steps, keep_every)]


def run_steps(process: Process, denoise: Partial, sampler: Sampler, times: Array, x: Array) -> Array:
    """x after the steps of a deterministic sampler along any times, even upwards; nothing is checked."""
    return run_traced(
        key=jax.random.key(0),
        ids=as_ids(None, x.shape[0]),
        process=as_traced(process),
        denoise=as_traced(denoise),
        sampler=as_traced(sampler),
        grid=times.astype(x.dtype),
        x_init=x,
        shape=x.shape,
        keep_every=None,
        brownian_tree=False,
    )[0]


def _kept(steps: int, every: int) -> np.ndarray:
    """Grid indices of the states kept."""
    return np.append(np.arange(0, steps, every), steps)
