"""Row 43b: Hamiltonian Monte Carlo leaves the law of an energy alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import keys as keys_lib
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves
from samplers.hmc import hmc_step, leapfrog

TOPICS = ("langevin", "energy")

_SIZE, _COUNT, _STATES = 0.5, 4, 32


def _log_density(x: Array) -> Array:
    """ln p of coupled double wells, not normalised."""
    return -jnp.sum(0.25 * x**4 - 0.5 * x**2, -1) - 0.4 * x[:, 0] * x[:, 1]


def _gradient(x: Array) -> Array:
    return jax.grad(lambda y: jnp.sum(_log_density(y)))(x)


def _by_hand(x: np.ndarray, v: np.ndarray, size: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x', v', ΔH) of the leapfrog by NumPy, positions and velocities changing in turn."""

    def slope(y: np.ndarray) -> np.ndarray:
        return y - y**3 - 0.4 * y[:, ::-1]

    def hamiltonian(y: np.ndarray, w: np.ndarray) -> np.ndarray:
        potential = np.sum(0.25 * y**4 - 0.5 * y**2, 1) + 0.4 * y[:, 0] * y[:, 1]
        return potential + 0.5 * np.sum(w**2, 1)

    before = hamiltonian(x, v)
    v = v + 0.5 * size * slope(x)
    for i in range(count):
        x = x + size * v
        v = v + (size if i < count - 1 else 0.5 * size) * slope(x)
    return x, v, hamiltonian(x, v) - before


@functools.partial(jax.jit, static_argnums=0)
def _onset(log_density: Callable[[Array], Array], keys: Array, start: Array) -> Array:
    """ln u + ΔH by bisection: the smallest jump of ln p, anywhere but at the start, with which a step is accepted."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        accepted = _asked(log_density, keys, start, middle).accepted
        return jnp.where(accepted, low, middle), jnp.where(accepted, middle, high)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.full(len(start), -50.0), jnp.full(len(start), 50.0)))
    return 0.5 * (low + high)


def _asked(log_density: Callable[[Array], Array], keys: Array, start: Array, jump: Array):
    def jumped(y: Array) -> Array:
        return log_density(y) + jnp.where(jnp.any(y != start, axis=-1), jump, 0.0)

    return hmc_step(keys, start, jumped, _SIZE, _COUNT)


def _flat(x: Array) -> Array:
    return jnp.zeros(len(x), x.dtype)


@identity(
    row="43b",
    title="Hamiltonian Monte Carlo leaves the law alone",
    latex=r"F\circ F = 1,\quad |\det\partial F| = 1,\quad e^{-H(z)}\,a(z) = e^{-H(Fz)}\,a(Fz),\quad "
    r"a = \min(1, e^{-\Delta H})",
    compared="the leapfrog F, v reversed at its end, with its inverse; its determinant with 1; the proposals of "
    "`hmc_step`, and the acceptance probability found by querying it, with four leapfrogs and e^{−ΔH}, 1 at most",
    oracle="coupled double wells in the plane, leapfrogs by NumPy with the noise that is drawn",
    source="Duane, Kennedy, Pendleton & Roweth 1987; Neal 2011, arXiv:1206.1901",
    bound=Within(1e-11, "four leapfrogs of half a unit, twice; odds by bisection to rounding", roundoffs=2e2),
    functions=(leapfrog, hmc_step),
)
def _hamiltonian_monte_carlo(setting: Setting) -> Measured:
    x = jnp.asarray(np.random.default_rng(4).normal(size=(_STATES, 2)))
    keys = keys_lib.sample_keys(setting.key(0), jnp.arange(_STATES))
    v, proposals, end, back, volumes = map(np.asarray, _flown(keys, x))
    start = np.asarray(x, np.float64)
    exact, turned, gain = _by_hand(start, v.astype(np.float64), _SIZE, _COUNT)
    odds = np.asarray(_onset(_log_density, keys, x), np.float64) - np.asarray(_onset(_flat, keys, x), np.float64)
    errors = {
        "the way back": largest(relative(back[0], x), relative(-back[1], v)),
        "the volume": relative(volumes, np.ones(_STATES)),
        "the proposal": largest(relative(proposals, exact), relative(end[1], turned)),
        "the acceptance": relative(np.exp(np.minimum(0.0, -odds)), np.exp(np.minimum(0.0, -gain))),
    }
    return worst_of(errors, _energy_errors(start, v))


@jax.jit
def _flown(keys: Array, x: Array) -> tuple[Array, ...]:
    """(v as it is drawn, the proposals, the end of the leapfrogs, the end of the way back, their determinants)."""
    v = (hmc_step(keys, x, _flat, _SIZE, _COUNT).x - x) / (_SIZE * _COUNT)
    end = leapfrog(_gradient, x, v, _SIZE, _COUNT)
    back = leapfrog(_gradient, end[0], -end[1], _SIZE, _COUNT)

    def flow(z: Array) -> Array:
        return jnp.concatenate(leapfrog(_gradient, z[None, :2], z[None, 2:], _SIZE, _COUNT), axis=1)[0]

    volumes = jnp.linalg.det(jax.vmap(jax.jacfwd(flow))(jnp.concatenate([x, v], 1)))
    return v, _asked(_log_density, keys, x, jnp.full(_STATES, 50.0)).x, jnp.stack(end), jnp.stack(back), volumes


_COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)


@jax.jit
def _gaps(x: Array, v: Array) -> Array:
    """The mean change of H over one unit of time, for each of `_COUNTS` of leapfrogs."""

    def energy(y: Array, w: Array) -> Array:
        return -_log_density(y) + 0.5 * jnp.sum(w**2, -1)

    ends = [leapfrog(_gradient, x, v, 1.0 / count, count) for count in _COUNTS]
    return jnp.stack([jnp.mean(jnp.abs(energy(*end) - energy(x, v))) for end in ends])


def _energy_errors(x: np.ndarray, v: np.ndarray) -> Curves:
    """The mean change of H over one unit of time, against the length of a leapfrog."""
    gaps = np.asarray(_gaps(jnp.asarray(x), jnp.asarray(v)))
    sizes = 1 / np.asarray(_COUNTS)
    lines = {"exact second order": gaps[-1] * (sizes / sizes[-1]) ** 2, "leapfrog": gaps}
    return Curves(sizes, lines, "length of a leapfrog", "change of H", log_x=True, log_y=True)
