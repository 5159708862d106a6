"""The Fokker-Planck equation on a grid, in one or two dimensions: a reference without particles or scores.

Finite volumes. A cell holds the mass p_i Δx_i, p_i the density at its centre (its average up to O(Δx²)), and hands
mass to its two neighbours at rates that are the exponentially fitted flux of Scharfetter & Gummel (1969, IEEE Trans.
Electron Devices 16, 64) and Chang & Cooper (1970, J. Comput. Phys. 6, 1):

    J_{i+½} = (D/h) [B(−P) p_i − B(P) p_{i+1}],    P = ∫ (f − D')/D dx,    B(z) = z/(e^z − 1)

with h and the integral from centre to centre, D = ½ G² and the boundary closed. So mass is a sum that telescopes,
densities with J = 0 are kept, and D → 0 leaves the upwind flux f p_i or f p_{i+1}.

In time it is implicit Euler, order 1, or the modified Patankar rule of order 2 (Burchard et al. 2003, Appl. Numer.
Math. 47, 1; MPRK22(1) of Kopecz & Meister 2018, arXiv:1702.04589; with these fluxes Bartel et al. 2024,
arXiv:2404.07641). That is implicit Euler twice, the second time with the rates out of cell j times ½ (1 + m_j/m_j*), m*
the first result. Both are positive for a step of any length. No linear method of order 2 is (Bolley & Crouzeix 1978,
RAIRO Anal. Numér. 12, 237), and so order 2 superposes solutions only up to its error.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from diffusion.arrays import expand
from diffusion.fokker_planck.equation import FokkerPlanck, divergence_of_diffusion
from diffusion.fokker_planck.flux import unit_rule
from diffusion.pytree import as_partial, as_traced, short_repr

Line = Float[np.ndarray | Array, " _"]
"""The edges of the cells along an axis, ascending: one more than there are cells."""
Edges = Line | tuple[Line, ...] | list[Line]
"""A line, or one for each of one or two axes."""

_UPWIND = 1000.0
"""The |P| beyond which B(|P|) is 0 in every precision, and the flux is upwind."""


class GridSolution(NamedTuple):
    """p_t on the grid at the times asked for."""

    times: Float[Array, " n"]
    """The times asked for."""
    densities: Float[Array, "n *cells"]
    """p_t at the centres of the cells."""
    mass: Float[Array, " n"]
    """The sum of p_i times the size of cell i, constant in time up to rounding."""

    __repr__ = short_repr


def centres(edges: Edges) -> Float[Array, "*cells d"]:
    """The centres of the cells, (n, 1) or (n, m, 2): where `solve` wants the density.

    Raises ValueError when the edges do not ascend, or there are more than two axes.
    """
    lines = _as_lines(edges)
    # Edges on the host are averaged there: what is known at once need not be compiled.
    host = all(isinstance(line, np.ndarray) for line in lines)
    xp, middles = (np, [0.5 * (line[1:] + line[:-1]) for line in lines]) if host else (jnp, [*map(_middle, lines)])
    return jnp.asarray(xp.stack(xp.meshgrid(*middles, indexing="ij"), axis=-1))


def solve(
    equation: FokkerPlanck,
    density: Float[np.ndarray | Array, "*cells"],
    edges: Edges,
    times: Float[np.ndarray | Array, " n"],
    *,
    steps: int = 32,
    order: int = 2,
    points: int = 2,
) -> GridSolution:
    """The densities at `times`, from `density` at `centres(edges)` and the time times[0], with no flux at the boundary.

    `steps` are taken between neighbours of `times`. Ascending times run dx = f dt + G dw; descending ones run it
    backwards, dx = f dt + G dw̄, as `reverse_sde` is meant. Coefficients are frozen in the middle of a step and read
    inside the domain only, so that f may be infinite at either end of time. The error in the cells is O(Δx²) once
    |f| Δx < D, O(Δx) where it is far above D, and where D = 0. That in time is O(Δt^order) for smooth coefficients, in
    two dimensions too, where the axes take turns: half a step along the first, one along the second, half a step along
    the first (Strang 1968). Positivity and mass need no small step. A step is 2 `order` loops over the cells of its
    axis, 3 times that in two dimensions, all lines at once: many lines suit an accelerator, a single one does not.

    `points` Gauss-Legendre nodes carry the integral P: exp(−V) is stationary to rounding for f = −D ∇V, D constant and
    V a polynomial of degree 2 `points` in each variable, and to O(Δx^{2 points}) for others.

    Drift, spread, edges and times are traced. Raises ValueError when shapes do not fit, edges do not ascend, times are
    not monotone, or the density is negative; TypeError when G is a full matrix.
    """
    if order not in (1, 2):
        raise ValueError(f"order = {order}; choose 1, implicit Euler, or 2, modified Patankar.")
    for name, value in (("steps", steps), ("points", points)):
        if value < 1:
            raise ValueError(f"{name} = {value}; at least 1 is needed.")
    lines = _as_lines(edges)
    cells = tuple(line.shape[0] - 1 for line in lines)
    if density.shape != cells:
        raise ValueError(f"density has shape {density.shape} on a grid of {cells} cells; give it at centres(edges).")
    if not isinstance(density, Tracer) and not np.all(np.asarray(density) >= 0):
        raise ValueError(f"density contains {np.min(density):g}; give a density, >= 0 everywhere.")
    if not isinstance(times, Tracer) and not _is_monotone(np.asarray(times)):
        raise ValueError(f"times = {times} are not monotone; give two or more, ascending, or descending to go back.")
    equation = FokkerPlanck(as_partial(equation.drift), as_partial(equation.spread), equation.uniform)
    dtype = jnp.result_type(float)
    _require_diagonal(equation, len(lines), dtype)
    density, times, *lines = (jnp.asarray(a, dtype) for a in (density, times, *lines))
    return _march(as_traced(equation), density, tuple(lines), times, steps=steps, order=order, points=points)


def _as_lines(edges: Edges) -> tuple[Line, ...]:
    lines: tuple[Line, ...] = tuple(edges) if isinstance(edges, (tuple, list)) else (edges,)
    if not 1 <= len(lines) <= 2:
        raise ValueError(f"edges has {len(lines)} axes, and a grid has 1 or 2; in more dimensions simulate particles.")
    for line in lines:
        if line.ndim != 1 or line.shape[0] < 3:
            raise ValueError(f"edges has shape {line.shape} along an axis; give (n + 1,) edges of n >= 2 cells.")
        if not isinstance(line, Tracer) and not np.all(np.diff(np.asarray(line)) > 0):
            raise ValueError(f"edges = {line} do not ascend; sort them, and drop the double ones.")
    return lines


def _is_monotone(times: np.ndarray) -> bool:
    change = np.diff(times)
    return times.size >= 2 and bool(np.all(change > 0) or np.all(change < 0))


def _require_diagonal(equation: FokkerPlanck, d: int, dtype: Any) -> None:
    x, t = jax.ShapeDtypeStruct((2, d), dtype), jax.ShapeDtypeStruct((), dtype)
    shape = jax.eval_shape(equation.spread, x, t).shape
    if len(shape) > 2:
        raise TypeError(
            f"spread has shape {shape} for x of shape {x.shape}, a full matrix; the grid takes a number or a diagonal: "
            "turn x to the axes in which G Gᵀ is diagonal."
        )


def _middle(line: Line) -> Array:
    return 0.5 * jnp.asarray(line[1:] + line[:-1])


@functools.partial(jax.jit, static_argnames=("steps", "order", "points"))
def _march(
    equation: FokkerPlanck,
    density: Array,
    lines: tuple[Array, ...],
    times: Array,
    *,
    steps: int,
    order: int,
    points: int,
) -> GridSolution:
    """One scan over the intervals of `times`, and one over the steps in each."""
    widths = [jnp.diff(line) for line in lines]
    sizes = functools.reduce(jnp.multiply.outer, widths)

    def interval(mass: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        h = (ends[1] - ends[0]) / steps

        def step(k: Array, mass: Array) -> Array:
            t = ends[0] + (k + 0.5) * h
            rates = [_rates(equation, lines, axis, t, jnp.sign(h), points) for axis in range(len(lines))]
            return _strang(rates, mass, jnp.abs(h), order)

        mass = jax.lax.fori_loop(0, steps, step, mass)
        return mass, mass

    masses = jax.lax.scan(interval, density * sizes, (times[:-1], times[1:]))[1]
    densities = jnp.concatenate([density[None], masses / sizes])
    return GridSolution(times, densities, jnp.sum((densities * sizes).reshape(len(times), -1), axis=1))


_Rates = tuple[Array, Array]
"""The rates at which a cell passes mass to the next, and the next passes it back, per unit of time and of its own mass:
(n − 1, *lines) each, for the inner faces along the first axis."""
_Triple = tuple[Array, Array, Array]


def _strang(rates: list[_Rates], mass: Array, h: Array, order: int) -> Array:
    """One step along the only axis, or half a step, one, and half a step along the two."""
    if len(rates) == 1:
        return _advance(rates[0], mass, h, order)
    mass = _advance(rates[0], mass, h / 2, order)
    mass = _advance(rates[1], mass.T, h, order).T
    return _advance(rates[0], mass, h / 2, order)


def _advance(rates: _Rates, mass: Array, h: Array, order: int) -> Array:
    """Implicit Euler, or the modified Patankar rule that starts with it."""
    up, down = (h * rate for rate in rates)
    first = _implicit_euler(up, down, mass)
    if order == 1:
        return first
    weight = 0.5 * (1 + jnp.where(first > 0, mass / jnp.where(first > 0, first, 1), 1))
    return _implicit_euler(weight[:-1] * up, weight[1:] * down, mass)


def _implicit_euler(up: Array, down: Array, mass: Array) -> Array:
    """m with m_i + (up_i + down_{i−1}) m_i − up_{i−1} m_{i−1} − down_i m_{i+1} = mass_i.

    Elimination from below, the diagonal written as up_i + e_i with e_i = 1 + down_{i−1} e_{i−1}/(up_{i−1} + e_{i−1}),
    as Grassmann et al. (1985, Oper. Res. 33, 1107) do: nothing is subtracted, so every m_i has all its digits, and
    their sum too, whatever the rates.
    """
    none = jnp.zeros_like(mass[:1])

    def eliminate(carry: _Triple, row: _Triple) -> tuple[_Triple, tuple[Array, Array]]:
        passed, kept, below = carry
        out, back, own = row
        excess = 1 + back * kept
        diagonal = out + excess
        right = own + passed * below
        return (out / diagonal, excess / diagonal, right), (diagonal, right)

    def substitute(above: Array, row: _Triple) -> tuple[Array, Array]:
        diagonal, right, back = row
        own = (right + back * above) / diagonal
        return own, own

    rows = jnp.concatenate([up, none]), jnp.concatenate([none, down]), mass
    diagonal, right = jax.lax.scan(eliminate, (none[0], none[0], none[0]), rows)[1]
    return jax.lax.scan(substitute, none[0], (diagonal, right, jnp.concatenate([down, none])), reverse=True)[1]


def _rates(equation: FokkerPlanck, lines: tuple[Array, ...], axis: int, t: Array, sign: Array, points: int) -> _Rates:
    """The fitted rates through the inner faces along `axis`, that axis first; `sign` of dt turns the drift, not D."""
    others = [_middle(line) for i, line in enumerate(lines) if i != axis]
    column = (-1, *[1] * len(others))
    centre, width = _middle(lines[axis]), jnp.diff(lines[axis]).reshape(column)
    gap = jnp.diff(centre)
    nodes, weights = (jnp.asarray(a, gap.dtype) for a in unit_rule(points))
    along = centre[:-1] + nodes[:, None] * gap
    gap, weights = gap.reshape(column), weights.reshape(-1, 1, *column[1:])

    grid = jnp.meshgrid(along.reshape(-1), *others, indexing="ij")
    x = jnp.stack(grid if axis == 0 else grid[::-1], axis=-1).reshape(-1, len(lines))
    spread = jnp.broadcast_to(0.5 * expand(equation.spread(x, t), x) ** 2, x.shape)
    flow = sign * equation.drift(x, t) - divergence_of_diffusion(equation, x, t)
    shape = (points, gap.shape[0], *grid[0].shape[1:])
    diffusion, flow = spread[:, axis].reshape(shape), flow[:, axis].reshape(shape)

    tiny = jnp.finfo(gap.dtype).tiny
    least = jnp.max(jnp.abs(flow), axis=0) * gap / _UPWIND  # one for all nodes: without D the mean velocity counts
    resistance = 1 / jnp.maximum(diffusion, jnp.maximum(least, tiny))
    peclet = gap * jnp.sum(weights * flow * resistance, axis=0)
    conductance = 1 / (gap * jnp.sum(weights * resistance, axis=0))
    common = _bernoulli(jnp.abs(peclet))  # B(−z) = B(z) + z, so that nothing is subtracted
    up, down = common + jnp.maximum(peclet, 0), common + jnp.maximum(-peclet, 0)
    return conductance * up / width[:-1], conductance * down / width[1:]


def _bernoulli(z: Array) -> Array:
    """z/(e^z − 1) for z >= 0, with a derivative at 0 and at infinity."""
    small = z < jnp.finfo(z.dtype).eps
    safe = jnp.where(small, 1, z)
    return jnp.where(small, 1 - 0.5 * z, safe * jnp.exp(-safe) / -jnp.expm1(-safe))
