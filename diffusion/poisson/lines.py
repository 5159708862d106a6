"""Field lines, which are the paths of the generative ODE: dx/dr = E_x/E_r, dx/d ln r = x − E[y|x, r].

Downwards they lead from the prior to the data, upwards from the data to the hemisphere. In ln r the motion is a
relaxation, for which even steps will do; in r nearly all of it happens near r = 0 (Xu et al. 2022, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand
from diffusion.noises import StudentT
from diffusion.oracles.law import Law
from diffusion.poisson.field import sigma_from_radius
from diffusion.prediction import Denoiser, x0_alone
from diffusion.process import Process
from diffusion.pytree import bound, short_repr
from diffusion.schedules import EDM

Flow = Callable[[Array, ArrayLike], Array]
"""(x (b, *event), r) -> dx/d ln r (b, *event), r a scalar or (b,)."""
Variable = Literal["log_r", "r"]


def law_flow(law: Law, df: float | Array = 1.0) -> Flow:
    """dx/d ln r = r E_x/E_r of the charges `law`, D = `df`; accurate to the last digits, however near they are."""
    return bound(_law_flow, law, df=df)


def _law_flow(law: Law, x: Array, r: ArrayLike, df: float | Array) -> Array:
    return law.displacement(Process(EDM(), StudentT(df)), x, sigma_from_radius(jnp.asarray(r, x.dtype), df))


def denoiser_flow(denoise: Denoiser, df: float = 1.0) -> Flow:
    """dx/d ln r = x − D(x, r/√D) for a denoiser of `Process(EDM(), StudentT(df))`, a network's too."""
    return bound(_denoiser_flow, denoise, df=df)


def _denoiser_flow(denoise: Denoiser, x: Array, r: ArrayLike, df: float) -> Array:
    return x - x0_alone(denoise(x, sigma_from_radius(jnp.asarray(r, x.dtype), df)), "the flow")


def velocity_in_r(flow: Flow) -> Flow:
    """dx/dr = (dx/d ln r)/r: at D = 1 the ODE in z, at any D that in σ but for the factor √D."""
    return bound(_velocity_in_r, flow)


def _velocity_in_r(flow: Flow, x: Array, r: ArrayLike) -> Array:
    return flow(x, r) / expand(jnp.asarray(r, x.dtype), x)


class Lines(NamedTuple):
    """Field lines, one for each start."""

    x: Float[Array, "k b *event"]
    """The points of the lines."""
    r: Float[Array, " k"]
    """Their distances from the hyperplane."""

    __repr__ = short_repr


def field_lines(
    flow: Flow, x: Float[Array, "b *event"], radii: ArrayLike, variable: Variable | str = "log_r", substeps: int = 1
) -> Lines:
    """The lines through (x, radii[0]) at all of the `radii`, rising or falling: RK4, `substeps` of it between two.

    The steps are even in ln r, or in r for the ODE in z itself. `flow` is one of `law_flow`, `denoiser_flow`,
    `diffusion.poisson.network_flow`. Raises ValueError for fewer than two radii, one that is not positive and
    finite, radii that turn round, or another variable.
    """
    if variable not in get_args(Variable):
        raise ValueError(f"variable = {variable!r}; choose one of {', '.join(get_args(Variable))}.")
    if not isinstance(radii, Tracer):
        checked = np.asarray(radii)
        way = np.sign(np.diff(checked))
        if checked.ndim != 1 or checked.size < 2 or not np.all((checked > 0) & (checked < np.inf)):
            raise ValueError(f"radii = {radii}; give two or more positive ones, in the order of the line.")
        if not (np.all(way == 1) or np.all(way == -1)):
            raise ValueError(f"radii = {radii} turn round; give rising or falling ones.")
    logarithmic = variable == "log_r"

    def slope(x: Array, s: Array) -> Array:
        return flow(x, jnp.exp(s)) if logarithmic else _velocity_in_r(flow, x, s)

    def between(x: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        h = (ends[1] - ends[0]) / substeps

        def one(i: Array, x: Array) -> Array:
            return _rk4(slope, x, ends[0] + i * h, h)

        x = jax.lax.fori_loop(0, substeps, one, x)
        return x, x

    @jax.jit
    def lines(x: Array, radii: Array) -> Lines:
        clock = jnp.log(radii) if logarithmic else radii
        rest = jax.lax.scan(between, x, (clock[:-1], clock[1:]))[1]
        return Lines(jnp.concatenate([x[None], rest]), radii)

    return lines(x, jnp.asarray(radii, x.dtype))


def _rk4(slope: Callable[[Array, Array], Array], x: Array, s: Array, h: Array) -> Array:
    first = slope(x, s)
    second = slope(x + 0.5 * h * first, s + 0.5 * h)
    third = slope(x + 0.5 * h * second, s + 0.5 * h)
    last = slope(x + h * third, s + h)
    return x + h / 6 * (first + 2 * second + 2 * third + last)
