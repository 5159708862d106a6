"""The laws that identities are measured on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from diffusion import EDM, VE, VP, Process, RectifiedFlow, SubVP
from diffusion.oracles.examples import line, mixture
from diffusion.oracles.law import Law
from experiments.verification.chosen import OneOf

__all__ = ["PROCESSES", "gauss_legendre", "line", "log_density", "mixture", "over_processes"]

T = TypeVar("T")

PROCESSES: dict[str, tuple[Process, float]] = {
    "VP": (Process(VP()), 0.4),
    "SubVP": (Process(SubVP()), 0.4),
    "VE": (Process(VE()), 0.4),
    "EDM": (Process(EDM()), 0.7),
    "RectifiedFlow": (Process(RectifiedFlow()), 0.4),
}
"""Continuous Gaussian processes, and a time in the middle of each."""


def over_processes(measure: Callable[[Process, float], T]) -> dict[str, T]:
    """What `measure` finds of each of `PROCESSES` and its time; what it compiles of them, it compiles once for all."""
    schedules = tuple(process.schedule for process, _ in PROCESSES.values())
    return {
        name: measure(Process(OneOf(schedules, jnp.asarray(place))), t)
        for place, (name, (_, t)) in enumerate(PROCESSES.items())
    }


def log_density(law: Law, process: Process) -> Callable[[Array, Any], Array]:
    """(x, t) -> ln p_t(x)."""
    return Partial(_log_density, law, process)


def _log_density(law: Law, process: Process, x: Array, t: Any) -> Array:
    return law.log_prob(process, x, t)


def gauss_legendre(low: float, high: float, count: int) -> tuple[Array, Array]:
    """(nodes (count, 1), weights (count,)) on an interval."""
    nodes, weights = _legendre(count)
    half = 0.5 * (high - low)
    return jnp.asarray(low + half * (nodes + 1))[:, None], jnp.asarray(half * weights)


@functools.cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)
