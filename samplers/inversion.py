"""From samples back to noise, by the same steps in reverse."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arguments import as_batch, as_denoiser, require_process
from diffusion.prediction import Denoiser
from diffusion.process import Process
from samplers.ddim import DDIM
from samplers.grids import as_times, check_grid
from samplers.ode import RK4, Euler, Heun
from samplers.sample import require_sampler, run_steps
from samplers.singlestep import DPMSolverSinglestep, Midpoint


def invert(
    process: Process,
    denoise: Denoiser,
    x: ArrayLike,
    sampler: DDIM | Euler | Heun | RK4 | Midpoint | DPMSolverSinglestep,
    grid: ArrayLike,
) -> Float[Array, "b *event"]:
    """The latent x_T of x: the one-step ODE `sampler` along `grid` from its last time up to its first.

    With `DDIM()` this is DDIM inversion (Song et al. 2021, arXiv:2010.02502, section 4.3). Sampling from the latent on
    the same grid gives x back up to an error of the sampler's order. x is (b, *event), the state at grid[-1], which is
    above 0: at σ = 0 there is no noise to predict, so leave the grid's 0 out and give x as it is, or scaled by α.

    Raises ValueError for a grid that ends at 0 and for a sampler with noise, TypeError for one that remembers, and both
    as `sample` does.
    """
    require_sampler(sampler, require_process(process))
    denoise, x, times = as_denoiser(denoise), as_batch(x), as_times(grid)
    check_grid(process, times)
    if not times[-1] > 0:
        raise ValueError(f"grid ends at {times[-1]:g}; inversion starts above 0, so give grid[:-1].")
    if not isinstance(sampler, (DDIM, Euler, Heun, RK4, Midpoint, DPMSolverSinglestep)):
        raise TypeError(f"{type(sampler).__name__} is no one-step ODE sampler; use DDIM(), Heun() or RK4().")
    if sampler.stochastic:
        raise ValueError(f"{sampler} adds noise, which cannot be inverted; use eta = 0, or no churn.")
    sampler.check(process, times)
    return run_steps(process, denoise, sampler, jnp.asarray(times[::-1].copy()), x)
