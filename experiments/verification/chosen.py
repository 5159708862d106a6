"""One of several schedules, chosen by a traced number: what is compiled for one of them is compiled for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.pytree import pytree
from diffusion.schedules import Schedule, Times


def _of_the_chosen(name: str) -> Any:
    def method(self: OneOf, t: Times) -> Array:
        return self.pick([getattr(schedule, name)(t) for schedule in self.schedules])

    method.__doc__ = f"`{name}` of the schedule that is chosen."
    return method


@pytree
class OneOf(Schedule):
    """The schedule at a place among several."""

    schedules: tuple[Schedule, ...]
    """All of them."""
    which: int | Array
    """The place of the one that is meant, counted from 0."""

    def pick(self, values: Sequence[Any]) -> Array:
        """The value of the schedule that is chosen."""
        dtype = jnp.result_type(*values)
        return jax.lax.select_n(jnp.asarray(self.which), *(jnp.asarray(value, dtype) for value in values))

    @property
    def t_max(self) -> Array:
        """The time of the prior."""
        return self.pick([schedule.t_max for schedule in self.schedules])

    @property
    def t_min(self) -> Array:
        """The smallest time worth dividing by σ at."""
        return self.pick([schedule.t_min for schedule in self.schedules])

    log_alpha = _of_the_chosen("log_alpha")
    alpha = _of_the_chosen("alpha")
    variance = _of_the_chosen("variance")
    sigma = _of_the_chosen("sigma")
    log_snr = _of_the_chosen("log_snr")
    time_from_log_snr = _of_the_chosen("time_from_log_snr")
    prior_std = _of_the_chosen("prior_std")
    alpha_dot = _of_the_chosen("alpha_dot")
    sigma_dot = _of_the_chosen("sigma_dot")
    drift = _of_the_chosen("drift")
    diffusion_squared = _of_the_chosen("diffusion_squared")
