"""The probability-flow ODE in the variables that the solvers use: y = x/√(α² + σ²) along Cosine's clock."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.arguments import as_batch, as_denoiser, kind_of, require_process
from diffusion.arrays import expand
from diffusion.dynamics import Drift, velocity
from diffusion.likelihood.divergence import Divergence
from diffusion.likelihood.solvers import Adaptive, Path, Solver, State, require_span
from diffusion.prediction import Denoiser, transfer
from diffusion.process import Process
from diffusion.pytree import as_traced
from diffusion.schedules import Cosine

Batch = Float[np.ndarray | Array, "b *event"]
"""x, of NumPy or JAX."""


def log_scale(process: Process, t: ArrayLike) -> Float[Array, "..."]:
    """ln c = ½ ln(α² + σ²), the scale of x_t."""
    return 0.5 * jnp.log(process.alpha(t) ** 2 + process.schedule.variance(t))


def smooth_velocity(process: Process, denoise: Denoiser) -> Drift:
    """dy/dτ as a function of (y, τ): the velocity of the same noise and denoiser under `Cosine`.

    At the data (x − α E[x_0|x])/σ is 0/0. Below τ = √ε, ε the rounding of the type, the field at √ε is used: what
    that leaves out and what rounding adds are then both of the order √ε, and in one stage of one step.
    """
    cosine = Process(Cosine(), process.noise)
    return Partial(_floored, velocity(cosine, transfer(denoise, process, cosine)))


def _floored(flow: Drift, y: Array, tau: ArrayLike) -> Array:
    floor = jnp.sqrt(jnp.finfo(y.dtype).eps)
    return flow(y, jnp.maximum(jnp.asarray(tau, y.dtype), floor)).astype(y.dtype)


@functools.partial(jax.jit, static_argnames="backward")
def run(
    process: Process,
    denoise: Denoiser,
    solver: Solver,
    x: Array,
    method: Divergence | None,
    probes: Array | None,
    backward: bool,
) -> tuple[Array, Array, Path]:
    """(x at the other end, the integrals (k, b) of ∇·u in x's own units, the path); k = 0 without a `method`.

    An element that did not arrive is NaN: where it stopped is of no use.
    """
    flow = smooth_velocity(process, denoise)

    def field(state: State, tau: Array) -> State:
        if method is None or probes is None:
            return flow(state[0], tau), jnp.zeros_like(state[1])
        slope, product = jax.linearize(lambda y: flow(y, tau), state[0])
        return slope, method.trace(product, probes)

    start, end = solver.span(process)[:: -1 if backward else 1]
    before, after = (log_scale(process, jnp.asarray(t, x.dtype)).astype(x.dtype) for t in (start, end))
    count = 0
    if method is not None and probes is not None:
        count = jax.eval_shape(lambda: method.trace(lambda v: v, probes)).shape[0]
    state = x / jnp.exp(before), jnp.zeros((count, x.shape[0]), x.dtype)
    path = solver.integrate(field, state, process, backward)
    y, integrals = path.state
    dims = y[0].size
    moved = jnp.where(expand(path.finished, y), y * jnp.exp(after), jnp.nan)
    integrals = jnp.where(path.finished, integrals + dims * (after - before), jnp.nan)
    return moved, integrals, path


def prepare(
    process: Process, denoise: Callable[..., Array], solver: Solver | None, x: np.ndarray | Array
) -> tuple[Process, Denoiser, Solver, Array]:
    """The arguments of `run`, checked, with numbers as arrays and functions as trees, so that it compiles once.

    Raises ValueError for an x without events or a span that does not fit, TypeError for a discrete chain.
    """
    require_process(process)
    denoise, x = as_denoiser(denoise), as_batch(x)
    solver = Adaptive() if solver is None else solver
    if not isinstance(solver, Solver):
        raise TypeError(f"solver is {kind_of(solver)}; give Adaptive() or FixedStep(grid).")
    require_span(process, *solver.span(process))
    return as_traced(process), as_traced(denoise), as_traced(solver), x
