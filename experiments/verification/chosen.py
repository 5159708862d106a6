"""One of several schedules, chosen by a traced number, so that a program compiled for one of them serves all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.pytree import pytree
from diffusion.schedules import Schedule, Times


def _of_the_chosen(name: str) -> Any:
    def method(self: OneOf, t: Times) -> Array:
        return self.pick([getattr(schedule, name)(t) for schedule in self.schedules])

    method.__doc__ = f"`{name}` of the chosen schedule."
    return method


@pytree
class OneOf(Schedule):
    """The schedule at one place among several."""

    schedules: tuple[Schedule, ...]
    """The schedules to choose from."""
    which: int | np.ndarray | Array
    """The place of the chosen schedule, counted from 0."""

    def pick(self, values: Sequence[Any]) -> Array:
        """The value that belongs to the chosen schedule."""
        dtype = jnp.result_type(*values)
        return jax.lax.select_n(jnp.asarray(self.which), *(jnp.asarray(value, dtype) for value in values))

    @property
    def t_max(self) -> Array:
        """The time of the prior, for the chosen schedule."""
        return self.pick([schedule.t_max for schedule in self.schedules])

    @property
    def t_min(self) -> Array:
        """The smallest time at which dividing by σ is sound, for the chosen schedule."""
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
