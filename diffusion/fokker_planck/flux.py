"""Mass in a box and flux through surfaces, by quadrature and by Monte Carlo.

    mass ∫_B p dx        flux ∮_S u · n dA, n outward        ∮_{∂B} u · n dA = ∫_B ∇·u dx        (Gauss)

So a field without divergence carries nothing through a closed surface, a charge inside carries its charge, and the mass
in a box changes by minus the flux of f p − ∇·(D p) through its boundary. Every rule converges faster than any power of
`points` for a field that is smooth on the surface and near it; one that is nearly singular there needs more points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.pytree import short_repr

Field = Callable[[Array], Array]
"""x (n, d) -> (n, d)."""
Place = Sequence[float] | Float[np.ndarray | Array, " d"]
"""A point of d numbers."""


class FluxEstimate(NamedTuple):
    """An unbiased estimate of a flux."""

    value: Float[Array, ""]
    """The estimate."""
    standard_error: Float[Array, ""]
    """Its standard error."""

    __repr__ = short_repr


def mass(density: Callable[[Array], Array], low: Place, high: Place, points: int = 32) -> Float[Array, ""]:
    """∫ p dx over the box [low, high] for a density (n, d) -> (n,), by `points` Gauss-Legendre nodes along each axis.

    Raises ValueError unless the box has 1 to 3 dimensions and a size.
    """
    low, high = _box(low, high, points)
    x, weights = _fill(low, high, points)
    return jnp.sum(weights * density(x))


def box_flux(field: Field, low: Place, high: Place, points: int = 32) -> Float[Array, ""]:
    """∮ u · n dA outward through the surface of the box [low, high]: what `face_flux` gives on each of its 2d faces.

    Raises ValueError unless the box has 1 to 3 dimensions and a size.
    """
    low, high = _box(low, high, points)
    faces = [_face(low, high, axis, at, points) for axis in range(len(low)) for at in (high[axis], low[axis])]
    # The field is asked once, at the nodes of all faces.
    values = field(jnp.concatenate([x for x, _ in faces])).reshape(len(faces), -1, len(low))
    outward = [(-1) ** i * jnp.sum(weights * values[i, :, i // 2]) for i, (_, weights) in enumerate(faces)]
    return jnp.sum(jnp.stack(outward))


def face_flux(field: Field, low: Place, high: Place, axis: int, at: ArrayLike, points: int = 32) -> Float[Array, ""]:
    """∫ u_axis dA through the rectangle x_axis = `at` that runs from `low` to `high` in the other axes, d = 1 to 3.

    low[axis] and high[axis] are not read. By `points` Gauss-Legendre nodes along each of the other axes.
    Raises ValueError unless low and high are points of 1 to 3 dimensions and `axis` is one of them.
    """
    low, high = _box(low, high, points, without=axis)
    _require_axis(axis, len(low))
    x, weights = _face(low, high, axis, at, points)
    return jnp.sum(weights * field(x)[:, axis])


def sphere_flux(
    field: Field, centre: Place, radius: ArrayLike, points: int = 32, *, axis: int | None = None
) -> Float[Array, ""]:
    """∮ u · n dA outward through the sphere |x − centre| = radius, d = 2 or 3; with an `axis` through its upper half.

    The upper half is x_axis >= centre_axis; with `base_flux` it is closed. On the circle 2 `points` nodes evenly
    spaced, on the half circle `points` of Gauss-Legendre in the angle; on the sphere `points` of Gauss-Legendre in the
    height times 2 `points` evenly around. Whole spheres are exact where u · n has the degree 2 `points` − 1.
    Raises ValueError in other dimensions (see `sphere_flux_estimate`), for an axis that does not exist,
    or a radius <= 0.
    """
    centre = _ball(centre, radius, axis, points)
    normal, weights = _sphere_rule(len(centre), points, axis)
    return jnp.sum(weights * _outward(field, centre, radius, normal)) * radius ** (len(centre) - 1)


def base_flux(field: Field, centre: Place, radius: ArrayLike, points: int = 32, *, axis: int) -> Float[Array, ""]:
    """∫ −u_axis dA through the flat base of the upper half ball, outward, that is down; d = 2 or 3.

    `points` Gauss-Legendre nodes along the radius (along the diameter for d = 2) times 2 `points` evenly around.
    Raises ValueError in other dimensions (see `base_flux_estimate`), for an axis that does not exist or a radius <= 0.
    """
    centre = _ball(centre, radius, axis, points)
    across, weights = _disc_rule(len(centre) - 1, points)
    x = centre + radius * jnp.insert(_floats(across), axis, 0.0, axis=1)
    return -jnp.sum(_floats(weights) * field(x)[:, axis]) * radius ** (len(centre) - 1)


def sphere_flux_estimate(
    key: Key[Array, "..."],
    field: Field,
    centre: Place,
    radius: ArrayLike,
    samples: int,
    *,
    axis: int | None = None,
) -> FluxEstimate:
    """`sphere_flux` in any dimension d >= 2: the area 2 π^{d/2} r^{d−1}/Γ(d/2) times the mean of u · n over `samples`.

    The normals are uniform, normal i from (key, i) alone. Raises TypeError for anything but a key; ValueError
    for an axis that does not exist, a radius <= 0, or fewer than 2 samples.
    """
    centre = _ball(centre, radius, axis, samples, estimate=True)
    d = len(centre)
    normal = _directions(key, samples, d)
    if axis is not None:
        normal = normal.at[:, axis].set(jnp.abs(normal[:, axis]))
    log_area = math.log(2 if axis is None else 1) + d / 2 * math.log(math.pi) - gammaln(d / 2)
    return _average(_outward(field, centre, radius, normal), log_area + (d - 1) * jnp.log(radius))


def base_flux_estimate(
    key: Key[Array, "..."], field: Field, centre: Place, radius: ArrayLike, samples: int, *, axis: int
) -> FluxEstimate:
    """`base_flux` in any dimension d >= 2: the area π^{(d−1)/2} r^{d−1}/Γ((d+1)/2) times the mean of −u_axis.

    The `samples` are uniform, sample i from (key, i) alone. Raises as `sphere_flux_estimate` does.
    """
    centre = _ball(centre, radius, axis, samples, estimate=True)
    d = len(centre)
    keys = keys_lib.as_keys(key, samples)
    height = keys_lib.uniform(keys_lib.fold(keys, 1)) ** (1 / (d - 1))
    x = centre + radius * jnp.insert(height[:, None] * _directions(keys, samples, d - 1), axis, 0.0, axis=1)
    log_area = (d - 1) / 2 * math.log(math.pi) - gammaln((d + 1) / 2)
    return _average(-field(x)[:, axis], log_area + (d - 1) * jnp.log(radius))


def _floats(value: Any) -> Array:
    return jnp.asarray(value, jnp.result_type(float))


def _box(low: Place, high: Place, points: int, without: int | None = None) -> tuple[Array, Array]:
    """The corners as arrays; the extent along the axis `without` does not matter."""
    _require_points(points)
    lower, upper = _floats(low), _floats(high)
    if lower.shape != upper.shape or lower.ndim != 1 or not 1 <= len(lower) <= 3:
        raise ValueError(f"low and high have shapes {lower.shape} and {upper.shape}; give d numbers each, d = 1 to 3.")
    if not isinstance(lower, Tracer) and not isinstance(upper, Tracer):
        flat = [axis for axis in range(len(lower)) if axis != without and not upper[axis] > lower[axis]]
        if flat:
            raise ValueError(f"low = {lower} is not below high = {upper} along axis {flat[0]}; swap or mend them.")
    return lower, upper


def _ball(
    centre: Place, radius: ArrayLike, axis: int | None, points: int, estimate: bool = False
) -> Float[Array, " d"]:
    """The centre as an array."""
    if estimate and points < 2:
        raise ValueError(f"samples = {points}; at least 2 are needed for an error.")
    _require_points(points)
    centre = _floats(centre)
    if centre.ndim != 1 or len(centre) < 2 or (len(centre) > 3 and not estimate):
        raise ValueError(
            f"centre has shape {centre.shape}; give d numbers, d = 2 or 3, or d >= 2 to the Monte-Carlo estimate."
        )
    if not isinstance(radius, Tracer) and not np.all(np.asarray(radius) > 0):
        raise ValueError(f"radius = {radius}; a sphere needs a positive one.")
    if axis is not None:
        _require_axis(axis, len(centre))
    return centre


def _require_points(points: int) -> None:
    if points < 1:
        raise ValueError(f"points = {points}; at least 1 is needed.")


def _require_axis(axis: int, d: int) -> None:
    if not 0 <= axis < d:
        raise ValueError(f"axis = {axis} in {d} dimensions; choose one from 0 to {d - 1}.")


def _outward(field: Field, centre: Array, radius: ArrayLike, normal: Array) -> Float[Array, " n"]:
    """u · n at the points of the sphere, a sum of products: a matrix product would round on an accelerator."""
    return jnp.sum(field(centre + radius * normal) * normal, axis=1)


def _fill(low: Array, high: Array, points: int) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Nodes and weights in a box of any number of axes, even of none: one node of weight 1."""
    d = len(low)
    nodes, weights = unit_rule(points)
    cube = np.stack(np.meshgrid(*[nodes] * d, indexing="ij"), axis=-1).reshape(-1, d) if d else np.zeros((1, 0))
    product = np.prod(np.stack(np.meshgrid(*[weights] * d, indexing="ij")), axis=0).reshape(-1) if d else np.ones(1)
    return low + (high - low) * _floats(cube), jnp.prod(high - low) * _floats(product)


def _face(low: Array, high: Array, axis: int, at: ArrayLike, points: int) -> tuple[Array, Array]:
    """Nodes (n, d) and weights (n,) on the rectangle x_axis = `at`."""
    rest = np.delete(np.arange(len(low)), axis)
    across, weights = _fill(low[rest], high[rest], points)
    return jnp.insert(across, axis, at, axis=1), weights


def unit_rule(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return 0.5 * (nodes + 1), 0.5 * weights


def _circle(points: int) -> np.ndarray:
    """2 `points` evenly spaced unit vectors, (2 points, 2)."""
    angle = np.pi * (np.arange(2 * points) + 0.5) / points
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _sphere_rule(d: int, points: int, axis: int | None) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Unit normals and weights of the unit sphere, or of its upper half along `axis`."""
    nodes, weights = unit_rule(points)
    if d == 2 and axis is None:
        return _floats(_circle(points)), jnp.full(2 * points, math.pi / points)
    if d == 2:
        angle = np.pi * (nodes - 0.5)
        across, height, area = np.sin(angle)[:, None], np.cos(angle), np.pi * weights
    else:
        z, dz = (nodes, weights) if axis is not None else (2 * nodes - 1, 2 * weights)
        around = _circle(points)
        across = (np.sqrt(1 - z**2)[:, None, None] * around).reshape(-1, 2)
        height, area = np.repeat(z, len(around)), np.repeat(dz * np.pi / points, len(around))
    return _floats(np.insert(across, axis or 0, height, axis=1)), _floats(area)


def _disc_rule(d: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights in the unit ball of d = 1 or 2 dimensions."""
    nodes, weights = unit_rule(points)
    if d == 1:
        return (2 * nodes - 1)[:, None], 2 * weights
    around = _circle(points)
    return (nodes[:, None, None] * around).reshape(-1, 2), np.repeat(nodes * weights * np.pi / points, len(around))


def _directions(key: Array, samples: int, d: int) -> Float[Array, "n d"]:
    """Uniform unit vectors."""
    z = keys_lib.normal(keys_lib.fold(keys_lib.as_keys(key, samples), 0), (d,))
    return z / jnp.linalg.norm(z, axis=1, keepdims=True)


def _average(values: Float[Array, " n"], log_area: Array) -> FluxEstimate:
    """The area times the mean, and its standard error."""
    area, n = jnp.exp(log_area), len(values)
    return FluxEstimate(area * jnp.mean(values), area * jnp.std(values, ddof=1) / math.sqrt(n))
