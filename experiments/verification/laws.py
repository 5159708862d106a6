"""The laws and the processes on which identities are measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from diffusion import EDM, VE, VP, Process, RectifiedFlow, SubVP
from diffusion.oracles.examples import line, mixture
from diffusion.oracles.law import Law
from experiments.verification.chosen import OneOf

__all__ = [
    "PROCESSES",
    "alpha_and_sigma",
    "chosen",
    "draws",
    "gauss_legendre",
    "line",
    "log_density",
    "mixture",
    "over_processes",
]

T = TypeVar("T")

PROCESSES: dict[str, tuple[Process, float]] = {
    "VP": (Process(VP()), 0.4),
    "SubVP": (Process(SubVP()), 0.4),
    "VE": (Process(VE()), 0.4),
    "EDM": (Process(EDM()), 0.7),
    "RectifiedFlow": (Process(RectifiedFlow()), 0.4),
}
"""The continuous Gaussian processes, each with a time in its middle."""


@overload
def over_processes(measure: Callable[[Process, float], Mapping[str, T]]) -> dict[str, T]: ...
@overload
def over_processes(measure: Callable[[Process, float], T]) -> dict[str, T]: ...
def over_processes(measure: Callable[[Process, float], Any]) -> dict[str, Any]:
    """The findings of `measure` for each of `PROCESSES` at its time, by name; of several findings as "what on name".

    Functions that `measure` compiles are compiled once for all processes.
    """
    found: dict[str, Any] = {}
    for name, (_, t) in PROCESSES.items():
        errors = measure(chosen(name), t)
        if isinstance(errors, Mapping):
            found |= {f"{what} on {name}": error for what, error in errors.items()}
        else:
            found[name] = errors
    return found


def chosen(name: str) -> Process:
    """One of `PROCESSES` as a `OneOf` of all of them: what is compiled for it serves the others."""
    schedules = tuple(process.schedule for process, _ in PROCESSES.values())
    return Process(OneOf(schedules, np.asarray(list(PROCESSES).index(name))))


@jax.jit
def _alpha_and_sigma(process: Process, t: Any) -> Array:
    return jnp.stack([process.alpha(t), process.sigma(t)])


def alpha_and_sigma(process: Process, t: Any) -> tuple[float, float]:
    """(α, σ) at a time, in one program."""
    alpha, sigma = map(float, np.asarray(_alpha_and_sigma(process, t)))
    return alpha, sigma


@functools.partial(jax.jit, static_argnames="count")
def draws(law: Law, key: Array, process: Process, count: int, t: Any) -> Array:
    """`count` draws of x_t, as by `Law.sample_marginal`, in one program."""
    return law.sample_marginal(key, process, count, t)


def log_density(law: Law, process: Process) -> Callable[[Array, Any], Array]:
    """The function (x, t) -> ln p_t(x)."""
    return Partial(_log_density, law, process)


def _log_density(law: Law, process: Process, x: Array, t: Any) -> Array:
    return law.log_prob(process, x, t)


def gauss_legendre(low: float, high: float, count: int) -> tuple[Array, Array]:
    """(nodes (count, 1), weights (count,)) of the rule on an interval."""
    nodes, weights = _legendre(count)
    half = 0.5 * (high - low)
    return jnp.asarray(low + half * (nodes[:, None] + 1)), jnp.asarray(half * weights)


@functools.cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)
