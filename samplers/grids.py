"""Time grids: N + 1 descending times from that of the prior down to 0, that of the data.

Grids are built on the host in float64 and their ends are pinned: in float32 Karras's formula starts at 80.000015.
On the discrete chain every grid is rounded to distinct integers; elsewhere one whose times repeat is a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc

from diffusion.arguments import kind_of, require_process
from diffusion.host import host_float64
from diffusion.process import Process

Grid = np.ndarray


def karras(
    process: Process,
    steps: int,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Grid:
    """(σ/α)_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ for i < N, then 0 (Karras et al. 2022, eq. 5).

    `sigma_min` and `sigma_max` are values of σ/α, those of the process's t_min and t_max unless given.
    Raises ValueError when the process has no finite σ/α at its prior and no `sigma_max` is given.
    """
    _check_steps(process, steps)
    if not 0.1 <= rho <= 1000:  # what float64 can raise 80 to, and what is still a grid
        raise ValueError(f"rho = {rho}; it must be between 0.1 and 1000, usually 7.")
    low, high = _noise_range(process, sigma_min, sigma_max, "karras")
    ramp = _ramp(steps)
    return _from_sigmas(process, sigma_min, (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho)


def uniform_log_snr(
    process: Process, steps: int, sigma_min: float | None = None, sigma_max: float | None = None
) -> Grid:
    """N times evenly spaced in ln(α/σ), then 0 (Lu et al. 2022, arXiv:2206.00927, section 4).

    `sigma_min` and `sigma_max` are values of σ/α, those of the process's t_min and t_max unless given.
    Raises ValueError when the process has no finite σ/α at its prior and no `sigma_max` is given.
    """
    _check_steps(process, steps)
    low, high = _noise_range(process, sigma_min, sigma_max, "uniform_log_snr")
    return _from_sigmas(process, sigma_min, np.exp(math.log(high) + _ramp(steps) * (math.log(low) - math.log(high))))


def uniform_sigma(process: Process, steps: int, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """N times evenly spaced in σ/α, then 0: few of them near the data, where most of the work is.

    `sigma_min` and `sigma_max` are values of σ/α, those of the process's t_min and t_max unless given.
    Raises ValueError when the process has no finite σ/α at its prior and no `sigma_max` is given.
    """
    _check_steps(process, steps)
    low, high = _noise_range(process, sigma_min, sigma_max, "uniform_sigma")
    return _from_sigmas(process, sigma_min, high + _ramp(steps) * (low - high))


def cosine(process: Process, steps: int, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """N noise levels of the cosine schedule, σ/α = tan(πu/2) with u evenly spaced, then 0.

    (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, without the offset.) `sigma_min` and `sigma_max` are values of
    σ/α, those of the process's t_min and t_max unless given; σ/α may be infinite at the prior.
    """
    _check_steps(process, steps)
    low, high = _noise_range(process, sigma_min, sigma_max, "cosine", endless=True)
    angles = math.atan(high) + _ramp(steps) * (math.atan(low) - math.atan(high))
    sigmas = np.tan(angles)
    return _from_sigmas(process, sigma_min, np.where(angles == math.pi / 2, np.inf, sigmas))


def uniform_time(process: Process, steps: int, t_start: float | None = None, shift: float = 1.0) -> Grid:
    """Times evenly spaced from `t_start`, t_max unless given, to 0; on the chain, equal strides from T («trailing»).

    `shift` c bends the grid, u -> c u/(1 + (c − 1) u) with u = t/t_max: more steps near the prior for c > 1
    (Esser et al. 2024, arXiv:2403.03206, eq. 23). A grid from `t_start` is the part below it of the whole line, bent.
    Raises ValueError for a start outside (0, t_max], or below 1 on the chain, a shift outside [1e-6, 1e6], and for more
    steps than a chain has times below the start.
    """
    return _powers(process, steps, t_start, 1.0, shift)


def quadratic(process: Process, steps: int, t_start: float | None = None) -> Grid:
    """t_i = t_start (1 − i/N)²: finer towards the data (Song et al. 2021, arXiv:2010.02502, appendix D.2)."""
    return _powers(process, steps, t_start, 2.0, 1.0)


def beta_quantiles(process: Process, steps: int, a: float = 0.6, b: float = 0.6) -> Grid:
    """t_i = t_max F⁻¹(1 − i/N), F the distribution function of Beta(`a`, `b`): more steps near both ends for a, b < 1.

    (Lee et al. 2024, arXiv:2407.12173, where both are 0.6.) With a = b = 1 it is `uniform_time`.
    Raises ValueError unless both are positive.
    """
    _check_steps(process, steps)
    for name, value in (("a", a), ("b", b)):
        if not 0 < value < math.inf:
            raise ValueError(f"beta: {name} = {value}; give a positive number, such as 0.6.")
    return _on_chain(process, float(process.t_max) * _inverse_beta(a, b, np.linspace(1.0, 0.0, steps + 1)))


def _inverse_beta(a: float, b: float, levels: np.ndarray) -> np.ndarray:
    """F⁻¹ of Beta(a, b) by bisection: 0 and 1 are exact, and what is between has an error of 2⁻⁶⁰ at any size."""
    low, high = np.zeros_like(levels), np.ones_like(levels)
    with host_float64():
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = np.asarray(betainc(a, b, middle)) > levels
            low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(levels <= 0, 0.0, np.where(levels >= 1, 1.0, 0.5 * (low + high)))


def leading(process: Process, steps: int) -> Grid:
    """The times 1, 1 + k, 1 + 2k, ... of a discrete chain, descending, k = ⌊T/N⌋, then 0: DDPM's «leading» spacing.

    It starts below T, from a state that is not quite the prior's law (Lin et al. 2024, arXiv:2305.08891, table 2).
    Raises ValueError for a process that is not a chain.
    """
    length = _chain_length(process, steps, "leading")
    return np.append(1 + np.arange(steps)[::-1] * (length // steps), 0).astype(np.float64)


def trailing(process: Process, steps: int) -> Grid:
    """The times T, T − T/N, ..., T/N of a discrete chain, rounded, then 0: DDPM's «trailing» spacing.

    Raises ValueError for a process that is not a chain.
    """
    _chain_length(process, steps, "trailing")
    return uniform_time(process, steps)


def linspace(process: Process, steps: int) -> Grid:
    """N times of a discrete chain evenly spaced from T to 1, rounded, then 0: DDPM's «linspace» spacing.

    Raises ValueError for a process that is not a chain.
    """
    length = _chain_length(process, steps, "linspace")
    return _on_chain(process, np.append(np.linspace(length, 1, steps), 0.0))


GridName = Literal[
    "karras",
    "uniform-log-snr",
    "uniform-sigma",
    "cosine",
    "uniform-time",
    "quadratic",
    "beta",
    "leading",
    "trailing",
    "linspace",
]
GRIDS: dict[str, Callable[..., Grid]] = {
    "karras": karras,
    "uniform-log-snr": uniform_log_snr,
    "uniform-sigma": uniform_sigma,
    "cosine": cosine,
    "uniform-time": uniform_time,
    "quadratic": quadratic,
    "beta": beta_quantiles,
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
}
LIMITS: dict[str, frozenset[str]] = {
    "karras": frozenset(("sigma_min", "sigma_max", "rho")),
    **dict.fromkeys(("uniform-log-snr", "uniform-sigma", "cosine"), frozenset(("sigma_min", "sigma_max"))),
}
"""The levels σ/α that bound a grid, and ρ, for the grids that have them; times and shapes (t_start, shift, a, b) are
options of other grids."""


def as_times(grid: Any) -> Grid:
    """`grid` in float64. Raises TypeError for what are no numbers, such as a grid's name."""
    try:
        return np.asarray(grid, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"grid is {kind_of(grid)}; give descending times, such as karras(process, 18).") from None


def check_grid(process: Process, grid: Any) -> None:
    """Raise ValueError unless `grid` is a descending list of at least two times within [0, t_max]."""
    grid = as_times(grid)
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"grid has shape {grid.shape}; give at least two times, such as karras(process, 18).")
    if not np.all(np.isfinite(grid)):
        raise ValueError(f"grid contains {grid[~np.isfinite(grid)][0]}; every time must be finite.")
    if process.schedule.discrete and np.any(grid != np.rint(grid)):
        place = float(grid[grid != np.rint(grid)][0])
        raise ValueError(f"grid contains {place:g}, and the discrete chain has integer times only; round the grid.")
    if not np.all(np.diff(grid) <= 0):
        place = int(np.argmax(np.diff(grid) > 0))
        raise ValueError(
            f"grid rises from {grid[place]:g} to {grid[place + 1]:g}; sampling runs from the prior down to the data."
        )
    kind = np.dtype(jnp.result_type(float))
    _check_distinct(grid.astype(kind), f"in {kind.name}")
    t_max = float(process.t_max)
    if grid[-1] < 0 or grid[0] > t_max * (1 + 1e-6):
        raise ValueError(f"grid runs from {grid[0]:g} to {grid[-1]:g}; this process lives on [0, {t_max:g}].")


def _ramp(steps: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)


def _check_steps(process: Process, steps: int) -> None:
    require_process(process)
    if not hasattr(steps, "__index__"):
        raise TypeError(f"steps is {kind_of(steps)}; give a whole number.")
    if steps < 1:
        raise ValueError(f"steps = {steps}; a grid needs at least one step.")
    if process.schedule.discrete and steps > _length(process):
        raise ValueError(f"steps = {steps}; this chain has {_length(process)}, use at most as many.")


def _chain_length(process: Process, steps: int, name: str) -> int:
    """T. Raises ValueError for a process that is not a chain, or a number of steps that does not fit."""
    _check_steps(process, steps)
    if not process.schedule.discrete:
        kind = type(process.schedule).__name__
        raise ValueError(f"{name}: {kind} is no discrete chain; use uniform_time, which goes from t_max in even steps.")
    return _length(process)


def _length(process: Process) -> int:
    """T of a discrete chain."""
    return int(process.t_max)


def _noise_range(
    process: Process, sigma_min: float | None, sigma_max: float | None, name: str, endless: bool = False
) -> tuple[float, float]:
    """(σ/α at the smallest noise, σ/α at the prior), which may be infinite if `endless`."""
    for option, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
        if value is not None and not 0 < float(value) < math.inf:
            raise ValueError(f"{name}: {option} = {value}; give a positive number.")
    with host_float64():
        top = _prior_level(process)
        low = _noise_to_signal(process, process.t_min) if sigma_min is None else float(sigma_min)
        high = top if sigma_max is None else float(sigma_max)
    if high > top * (1 + 1e-6):
        raise ValueError(
            f"{name}: sigma_max = {high:g} is above {top:g}, σ/α at the prior of {type(process.schedule).__name__}; "
            "give a smaller one, or a process that goes as far."
        )
    if not (endless or math.isfinite(high)):
        raise ValueError(
            f"{name}: σ/α is infinite at the prior of {type(process.schedule).__name__}; "
            "pass sigma_max, such as 80, or use uniform_time."
        )
    if process.schedule.discrete and sigma_max is not None:
        with host_float64():
            least = _noise_to_signal(process, process.t_min)
        if high < least * (1 - 1e-6):
            raise ValueError(
                f"{name}: sigma_max = {high:g} is below {least:g}, σ/α at the chain's first time; give a larger one."
            )
    if not 0 < low <= high:
        raise ValueError(
            f"{name}: sigma_min = {low:g} and sigma_max = {high:g} do not satisfy 0 < sigma_min <= sigma_max."
        )
    return low, high


def _noise_to_signal(process: Process, t: Any) -> float:
    return float(np.exp(-0.5 * np.asarray(process.schedule.log_snr(np.float64(t)))))


def _prior_level(process: Process) -> float:
    """σ/α at the prior, infinite where nothing of the data is left there."""
    return math.inf if process.schedule.ends_in_noise else _noise_to_signal(process, process.t_max)


def _from_sigmas(process: Process, sigma_min: float | None, sigmas: np.ndarray) -> Grid:
    with host_float64():
        with np.errstate(divide="ignore"):
            times = np.asarray(process.schedule.time_from_log_snr(-2 * np.log(sigmas)))
        t_max, pinned = float(process.t_max), _prior_level(process)
    if sigmas[0] == pinned or math.isclose(sigmas[0], pinned, rel_tol=1e-12):
        times = np.concatenate([[t_max], times[1:]])
    times = np.minimum(times, t_max)
    return _on_chain(process, np.append(times, 0.0), 1.0 if sigma_min is None else times[-1])


def _powers(process: Process, steps: int, t_start: float | None, power: float, shift: float) -> Grid:
    _check_steps(process, steps)
    if not 1e-6 <= shift <= 1e6:  # what float64 can take from 1 and have digits left
        raise ValueError(f"shift = {shift}; give a number from 1e-6 to 1e6, and 1 leaves the grid as it is.")
    t_max = float(process.t_max)
    start = (t_max if t_start is None else float(t_start)) / t_max
    if not 0 < start <= 1:
        raise ValueError(f"t_start = {t_start}; give a time in (0, {t_max:g}].")
    if process.schedule.discrete and start * t_max < 1:
        raise ValueError(f"t_start = {t_start} is below 1, the first noisy time of the chain; start at 1 or above.")
    u = start / (shift - (shift - 1) * start) * np.linspace(1.0, 0.0, steps + 1) ** power
    times = t_max * (shift * u / (1 + (shift - 1) * u))
    times[0] = t_max * start
    return _on_chain(process, times)


def _on_chain(process: Process, times: np.ndarray, lowest: float = 1.0) -> Grid:
    """Round to distinct integers on the discrete chain, from the data upwards; leave other processes alone.

    The first time stays the first, and none but the data's is below `lowest`. Raises ValueError where the integers
    between them are fewer than the steps, and where times repeat on another process.
    """
    if not process.schedule.discrete:
        _check_distinct(times)
        return times
    steps, first, last = len(times) - 1, max(1, int(np.rint(times[0]))), max(1, int(np.rint(lowest)))
    count = first - last + 1
    if steps > count:
        has = f"{count} times from {first} to {last}" if count > 1 else f"1 time, {first}, within the limits"
        raise ValueError(f"steps = {steps}, and this chain has {has}; use at most as many, or other limits.")
    rising = np.rint(times[::-1])
    rising[0] = 0
    for i in range(1, steps + 1):  # push crowded times up, then back below the first
        rising[i] = max(rising[i], rising[i - 1] + 1)
    for i, top in zip(range(steps, 0, -1), range(first, 0, -1), strict=False):
        rising[i] = min(rising[i], top)
    return rising[::-1].copy()


def _check_distinct(times: np.ndarray, where: str = "") -> None:
    """Raise ValueError unless times that do not rise fall at every step."""
    same = ~(np.diff(times) < 0)
    if same.any():
        again = float(times[int(np.argmax(same))])
        more = f" {where}" if where else ""
        raise ValueError(
            f"grid has the time {again:.9g} more than once{more}; use fewer steps, or other limits or shapes."
        )
