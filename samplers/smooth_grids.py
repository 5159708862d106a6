"""Smooth grids: a family of few parameters, and the least squares by which one of them is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffusion.host import host_float64
from diffusion.process import Process
from samplers.exponential import half_log_snr
from samplers.grids import Grid

# The densities: degree of the polynomial, bound of its coefficients, and what keeps y finite where α = 0.
_DEGREE, _STEEPEST, _FLOOR = 4, 6.0, 1e-3


class SmoothGrids:
    """Smooth grids: N times with density exp(polynomial) in y = ln(α/σ + 10⁻³), then 0.

    The parameters are the polynomial's coefficients in Chebyshev's basis, and the last y above the data: few, so that a
    fit finds what holds for other data too, and not the way in which errors happen to cancel.
    """

    def __init__(self, process: Process, steps: int) -> None:
        self.process, self.steps, self.degree = process, steps, min(_DEGREE, steps - 2)
        with host_float64():
            ends = np.asarray([process.t_max, process.t_min], np.float64)
            self.low, self.high = self.coordinate(ends)

    def coordinate(self, times: np.ndarray) -> np.ndarray:
        """y."""
        with host_float64():
            return np.log(np.exp(np.asarray(half_log_snr(self.process, times))) + _FLOOR)

    def nodes(self, parameters: np.ndarray) -> np.ndarray:
        """The y of the N times above the data."""
        z = np.linspace(-1.0, 1.0, 1001)
        density = np.exp(np.polynomial.chebyshev.chebval(z, np.concatenate([[0.0], parameters[:-1]])))
        mass = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
        last = np.interp(parameters[-1], np.linspace(0.0, 1.0, 1001), mass)
        fractions = np.interp(last * np.linspace(0.0, 1.0, self.steps), mass, 0.5 * (z + 1))
        return self.low + (self.high - self.low) * fractions

    def grid(self, parameters: np.ndarray) -> Grid:
        """The times, that of the prior first."""
        halves = np.log(np.maximum(np.exp(self.nodes(parameters)) - _FLOOR, 1e-300))
        with host_float64():
            times = np.asarray(self.process.schedule.time_from_log_snr(2 * halves[1:]))
        return np.concatenate([[float(self.process.t_max)], times, [0.0]])

    def jacobian(self, parameters: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """d function/d parameters (m, n) by central differences, on the host."""
        steps = 1e-4 * np.eye(len(parameters))
        return np.stack([(function(parameters + h) - function(parameters - h)) / 2e-4 for h in steps])

    def nearest(self, grid: Grid) -> np.ndarray:
        """The parameters of the grid nearest to this one in y."""
        wanted = self.coordinate(grid[:-1])
        start = np.zeros(self.degree + 1)
        start[-1] = (wanted[-1] - self.low) / (self.high - self.low)

        def cost(parameters: np.ndarray) -> float:
            return float(np.mean((self.nodes(parameters) - wanted) ** 2))

        def normal_equations(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            jacobian = self.jacobian(parameters, self.nodes)
            return jacobian @ jacobian.T / len(wanted), jacobian @ (self.nodes(parameters) - wanted) / len(wanted)

        return levenberg_marquardt(start, cost(start), cost, normal_equations, 30)[0]


def levenberg_marquardt(
    parameters: np.ndarray,
    cost: float,
    cost_of: Callable[[np.ndarray], float],
    normal_equations: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    rounds: int,
) -> tuple[np.ndarray, float]:
    """(parameters, cost) at a local minimum of a sum of squares; the last parameter is kept in (0, 1]."""
    damping = 1e-2
    for _ in range(rounds):
        square, gradient = normal_equations(parameters)
        if not np.trace(square) > 0 or not np.isfinite(square).all():  # nothing moves the end: it is exact, or lost
            return parameters, cost
        for _ in range(10):
            scale = np.diag(np.diag(square)) + 1e-9 * np.trace(square) * np.eye(len(square))
            moved = parameters - np.linalg.solve(square + damping * scale, gradient)
            moved[:-1] = np.clip(moved[:-1], -_STEEPEST, _STEEPEST)
            moved[-1] = np.clip(moved[-1], 0.05, 1.0)
            reached = cost_of(moved)
            if reached < cost:
                break
            damping *= 4
        else:
            return parameters, cost
        gain, parameters, cost = 1 - reached / cost, moved, reached
        damping = max(damping / 5, 1e-9)
        if gain < 1e-4:
            break
    return parameters, cost
