"""From a picture to another like it: noise is added up to some level, and taken away again (Meng et al. 2022)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion import keys as keys_lib
from diffusion.arguments import as_batch, as_ids, as_key, require_process
from diffusion.host import host_float64
from diffusion.process import Process, perturb
from diffusion.pytree import short_repr
from samplers import streams
from samplers.grids import as_times, check_grid


class Start(NamedTuple):
    """Where the way back begins, for `sample(..., grid=start.grid, x_init=start.x)`."""

    x: Float[Array, "b *event"]
    """x_t = α x_0 + σ z at the first time of the grid."""
    grid: Float[np.ndarray, " n"]
    """Its time, and those of the grid that was given below it."""

    __repr__ = short_repr


def noised_start(
    key: Key[Array, ""],
    process: Process,
    x_0: ArrayLike,
    grid: ArrayLike,
    strength: float = 0.6,
    *,
    data_std: float = 1.0,
    ids: ArrayLike | None = None,
) -> Start:
    """x_t = α x_0 + σ z at the t where σ/α = s tan(½ π strength), s = `data_std`, and the times of the grid below it.

    (SDEdit: Meng et al. 2022, arXiv:2108.01073, algorithm 1.) So the strength is a part of the way from the data to
    noise, which for data of the standard deviation s is the same on every schedule and grid: at ½ there is as much
    noise as signal, and at 1 the whole grid is left. By the probability-flow ODE, for data N(m, s²) coordinate by
    coordinate, a sample is m + s (x_t − α m)/√(α²s² + σ²), which keeps the part cos(½ π strength) of x_0 − m; by the
    reverse SDE it is that part squared. z is the draw of the noise that `sample` begins with for the same key and ids;
    ids are 0..b − 1 unless given.

    Raises ValueError for a strength outside (0, 1], and for a grid or ids that do not fit.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength = {strength}; give a part of the way to noise above 0 up to 1, such as 0.6.")
    times, x = as_times(grid), as_batch(x_0, "x_0")
    check_grid(require_process(process), times)
    first = times[0] if strength == 1 else _time(process, times, data_std * math.tan(0.5 * math.pi * strength))
    keys = keys_lib.sample_keys(as_key(key), as_ids(ids, x.shape[0]))
    z = process.noise.sample(keys_lib.fold(keys, streams.PRIOR), x.shape, x.dtype)
    return Start(perturb(process, x, z, first), np.append(first, times[times < first]))


def _time(process: Process, times: np.ndarray, level: float) -> float:
    """The time at which σ/α is `level`, no later than the grid begins and no earlier than the last but its end."""
    with host_float64():
        found = float(process.schedule.time_from_log_snr(np.float64(-2 * math.log(level))))
    return float(np.clip(found, times[-2], times[0]))
