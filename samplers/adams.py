"""Adams-Bashforth on the predicted noise: DEIS and iPNDM."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.process import Process
from diffusion.pytree import pytree, static
from samplers.exponential import (
    Form,
    Variable,
    half_log_snr,
    node,
)
from samplers.multistep import Multistep, Start, check_choice, check_order
from samplers.sample import require_continuous


@pytree
class DEIS(Multistep):
    """Adams-Bashforth on ε̂: x_s = (α_s/α_t) x_t + α_s ∫ P dρ, ρ = σ/α, P the polynomial through the last ε̂.

    (Zhang & Chen 2023, arXiv:2204.13902, eq. 15, the integral exact.) `polynomial` is the variable of P:
    time (tAB-DEIS), rho (ρAB) or log-rho.
    """

    order: int = static(default=3)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The order, 1 (DDIM) to 4."""
    polynomial: Literal["time", "rho", "log-rho"] = static(default="time")
    """The variable of the polynomial."""
    start: Start = static(default="single-step")
    """The start: a step of one order less, or steps of the lower orders."""

    def __post_init__(self) -> None:
        check_order("DEIS", self.order, 4)
        check_choice("polynomial", self.polynomial, ("time", "rho", "log-rho"))
        check_choice("start", self.start, ("single-step", "lower-order"))

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for too few steps, and TypeError for a polynomial in the time of a discrete chain."""
        if self.polynomial == "time":
            require_continuous(process, "DEIS with a polynomial in time")
        super().check(process, grid)

    @property
    def form(self) -> Form:
        """ε̂."""
        return "eps"

    @property
    def variable(self) -> Variable:
        """The chosen one."""
        return self.polynomial


# Adams-Bashforth with equal steps, this step's prediction first.
_ADAMS_BASHFORTH = np.asarray(
    [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
)


@pytree
class IPNDM(Multistep):
    """Adams-Bashforth's fixed coefficients on ε̂, in DDIM's step: x_s = (α_s/α_t) x_t + α_s (ρ_s − ρ_t) Σ a_j ε̂_j.

    (Zhang & Chen 2023, arXiv:2204.13902, section 3.3, after Liu et al. 2022, arXiv:2202.09778.) The coefficients are
    those of equal steps in ρ = σ/α; on such a grid this is `DEIS` in ρ, on any other the order is 2 at most.
    """

    order: int = static(default=4)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The number of predictions in the sum, 1 (DDIM) to 4."""

    def __post_init__(self) -> None:
        check_order("iPNDM", self.order, 4)

    @property
    def start(self) -> Start:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The lower orders, as published."""
        return "lower-order"

    @property
    def stated_order(self) -> int:
        """2 at most, on a grid of any shape."""
        return min(self.order, 2)

    @property
    def form(self) -> Form:
        """ε̂."""
        return "eps"

    @property
    def variable(self) -> Variable:
        """ρ."""
        return "rho"

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """(ρ_s − ρ_t) a_j, with as many predictions as there are."""
        del nodes
        table = jnp.asarray(_ADAMS_BASHFORTH[: self.order, : self.order], half_log_snr(process, t).dtype)
        return (node(process, "rho", s) - node(process, "rho", t)) * table[jnp.sum(used) - 1]
