"""Samples of an energy: Langevin dynamics, MALA or Hamiltonian Monte Carlo while it cools, then one denoising jump.

An energy that is not told a noise level has no ladder of levels to descend; it has a temperature, p ∝ e^{−E/T}, and T
falls from a high one, where every mode is reached, to 1 (Li, Chen & Sommer 2019, arXiv:1910.07762, section 3.3).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from diffusion import keys as keys_lib
from diffusion.pytree import as_partial, as_traced, is_concrete, short_repr
from samplers.hmc import hmc_step
from samplers.langevin import Adjusted, langevin_step, mala_step
from samplers.sample import check_batch

Kernel = Literal["langevin", "mala", "hmc"]


class EnergySampled(NamedTuple):
    """What `sample_energy` returns."""

    x: Float[Array, "b *event"]
    """The samples."""
    accepted: Bool[Array, "n b"]
    """Whether each sample took each step; always for Langevin dynamics, which rejects none."""

    __repr__ = short_repr

    @property
    def acceptance(self) -> Float[Array, " n"]:
        """The share of the batch that took each step."""
        return jnp.mean(self.accepted, axis=1, dtype=self.x.dtype)


def cooling(high: float, steps: int, hold: int = 0) -> np.ndarray:
    """Temperatures (steps + hold,): from `high` to 1 in equal ratios, then `hold` more at 1.

    Raises ValueError for a temperature below 1, without a step, or for a single step from `high` to 1.
    """
    if not high >= 1 or steps < 1 or hold < 0:
        raise ValueError(f"high = {high}, steps = {steps}, hold = {hold}; give high >= 1, a step and hold >= 0.")
    if steps == 1 and high > 1:
        raise ValueError(f"steps = 1 cannot lead from high = {high} down to 1; give at least 2.")
    return np.append(np.geomspace(high, 1.0, steps), np.ones(hold)) if steps > 1 else np.ones(1 + hold)


def sample_energy(
    key: Key[Array, ""],
    log_density: Callable[[Array], Array],
    x_init: Float[Array, "b *event"],
    *,
    kernel: Kernel | str = "langevin",
    temperatures: ArrayLike,
    size: ArrayLike,
    leapfrogs: int = 10,
    jump: float | None = None,
    ids: ArrayLike | None = None,
) -> EnergySampled:
    """One step of `kernel` from `x_init` for each of `temperatures` (n,), on p^{1/T}, p = e^{log_density}.

    `log_density` is x -> ln p(x) (b,) up to a constant, such as `diffusion.energy.log_density(psi, sigma)`; give a
    Partial so that new weights do not recompile. `size`, a scalar or (n,), is η at T = 1: "langevin" moves to
    x + ½η ∇ln p + √(ηT) n (Li et al.'s with η = ε²), "mala" accepts or rejects that same step, "hmc" makes `leapfrogs`
    leapfrogs of length √(ηT). Temperatures, sizes or both may be annealed. At T = 1 "mala" and "hmc" leave p
    alone, "langevin" a law that is off by O(η). `jump` = σ_0 ends with x + σ_0² ∇ln p(x), the denoiser's answer
    x + ∇ψ(x) where ln p = ψ/σ_0².

    All of it is one scan in one jit, for which leapfrogs, kernel and shapes are compiled in. Sample i depends on
    (key, ids[i]) alone, whatever the batch; `ids` are 0, 1, ... unless given. Raises ValueError for an unknown kernel,
    temperatures or sizes that are not positive or do not fit, TypeError for anything but a key.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel = {kernel!r}; choose one of {', '.join(get_args(Kernel))}.")
    if leapfrogs < 1:
        raise ValueError(f"leapfrogs = {leapfrogs}; give at least 1, which is MALA.")
    if jump is not None and is_concrete(jump) and not jump > 0:
        raise ValueError(f"jump = {jump}; give the noise level of the energy, or None for no denoising at the end.")
    _, places, start = check_batch(key, x_init.shape, ids, x_init)
    assert start is not None
    temperatures, sizes = _schedules(temperatures, size)
    target, level = as_traced(as_partial(log_density)), as_traced(jump)
    leapfrogs = leapfrogs if kernel == "hmc" else 1  # compiled in, and without meaning for the others
    return _run(key, places, target, start, temperatures, sizes, level, str(kernel), leapfrogs)


def _schedules(temperatures: Any, size: Any) -> tuple[Array, Array]:
    for name, value in (("temperatures", temperatures), ("size", size)):
        if isinstance(value, Tracer):
            continue
        if not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} contains {np.min(value):g}; all of it must be positive.")
    if np.ndim(temperatures) != 1 or np.shape(size) not in ((), np.shape(temperatures)):
        raise ValueError(
            f"temperatures and size have shapes {np.shape(temperatures)} and {np.shape(size)}; give (n,) temperatures, "
            "one a step, and one size or as many."
        )
    ladder = jnp.asarray(temperatures, jnp.result_type(float))
    return ladder, jnp.broadcast_to(jnp.asarray(size, ladder.dtype), ladder.shape)


@functools.partial(jax.jit, static_argnames=("kernel", "leapfrogs"))
def _run(
    key: Array,
    ids: Array,
    log_density: Partial,
    x: Array,
    temperatures: Array,
    sizes: Array,
    jump: Array | None,
    kernel: str,
    leapfrogs: int,
) -> EnergySampled:
    keys = keys_lib.sample_keys(key, ids)

    def gradient(y: Array) -> Array:
        values, pull = jax.vjp(log_density, y)
        return pull(jnp.ones_like(values))[0]

    def one(x: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        temperature, size, i = now
        draws, eta = keys_lib.fold(keys, i), size * temperature

        def tempered(y: Array) -> Array:
            return log_density(y) / temperature

        if kernel == "langevin":
            moved = langevin_step(draws, x, gradient(x) / temperature, eta)
            step = Adjusted(moved, jnp.ones(x.shape[0], bool))
        elif kernel == "mala":
            step = mala_step(draws, x, tempered, eta)
        else:
            step = hmc_step(draws, x, tempered, jnp.sqrt(eta), leapfrogs)
        return step.x, step.accepted

    x, accepted = jax.lax.scan(one, x, (temperatures, sizes, jnp.arange(temperatures.shape[0])))
    if jump is not None:
        x = x + jump**2 * gradient(x)
    return EnergySampled(x, accepted)
