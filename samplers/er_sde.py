"""ER-SDE solvers: the reverse SDE whose noise is strong far from the data and fades on the way down."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffusion.arrays import safe_sqrt
from diffusion.keys import Draws, normal
from diffusion.noises import require_gaussian
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree, static
from samplers.exponential import half_log_snr, lagrange_weights, quadrature_points, transfer
from samplers.multistep import MultistepSDE, check_order


@pytree
class ERSDE(MultistepSDE):
    """The reverse SDE with (σ̃/g)² = d ln φ/d ln ρ − 1, ρ = σ/α, for φ(ρ) = ρ (exp(ρ^p) + c); its linear part exact.

    With r = φ(ρ_s)/φ(ρ_t),

        x_s = (α_s/α_t) r x_t + α_s Σ w_j x̂_0(j) + α_s √(ρ_s² − ρ_t² r²) n,    Σ w_j = 1 − r

    where w_j = φ(ρ_s) ∫ L_j dφ/φ² from ρ_s to ρ_t for Lagrange's polynomial in ρ through the last `order` x̂_0 (Cui et
    al. 2023, arXiv:2309.06169, eq. 13 and 25, ER-SDE-Solver-1, -2, -3). The paper takes Taylor's polynomial with
    backward differences, the same up to `order` 2, and the integral as a sum of 200 rectangles. φ = ρ is the ODE, and
    c → ∞ leads there. The weak order is 1, whatever `order`, as for `SDEDPMSolver`.
    """

    order: int = static(default=3)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The number of predictions in the polynomial, 1 to 3."""
    power: float = 0.3
    """The power p."""
    offset: float = 10.0
    """The offset c."""

    def __post_init__(self) -> None:
        check_order("ERSDE", self.order, 3)
        if is_concrete(self.power) and not 0 < self.power <= 1:
            raise ValueError(f"power = {self.power}; give a number above 0 and up to 1, such as 0.3.")
        if is_concrete(self.offset) and not self.offset >= 0:
            raise ValueError(f"offset = {self.offset}; give 0 or more; the larger, the less noise.")

    @property
    def stochastic(self) -> bool:
        """True."""
        return True

    @property
    def strong_order(self) -> int:
        """1: the noise is additive."""
        return 1

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, "ERSDE")

    def log_phi(self, half: Float[Array, "..."]) -> Float[Array, "..."]:
        """ln φ at λ = `half`."""
        return -half + jnp.logaddexp(jnp.exp(-self.power * half), self._log_offset(half))

    def level_squared(self, half: Float[Array, "..."]) -> Float[Array, "..."]:
        """(σ̃/g)² at λ = `half`: 0 is the ODE, 1 Anderson's reverse SDE."""
        grown = jnp.exp(-self.power * half)
        return self.power * grown * jax.nn.sigmoid(grown - self._log_offset(half))

    def _log_offset(self, half: Array) -> Array:
        return jnp.log(jnp.asarray(self.offset, half.dtype))

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """w_j."""
        start, end = half_log_snr(process, t), half_log_snr(process, s)
        u = quadrature_points(start, end)
        rate = jnp.exp(self.log_phi(end) - self.log_phi(u)) * (1 + self.level_squared(u))
        # In ρ, not in λ: x̂_0 changes little at large ρ, where a polynomial in λ runs away over a long step.
        return lagrange_weights(
            jnp.exp(-u), rate, jnp.exp(-nodes), used, -jnp.expm1(self.log_phi(end) - self.log_phi(start))
        )

    def advance(
        self, keys: Draws, x: Array, value: Array, values: Array, weights: Array, t: Array, s: Array, process: Process
    ) -> Array:
        """The exponential step, and its noise."""
        start, end = half_log_snr(process, t), half_log_snr(process, s)
        log_decay = self.log_phi(end) - self.log_phi(start) + (end - start)
        spread = process.sigma(s) * safe_sqrt(-jnp.expm1(2 * log_decay))
        moved = transfer(
            process, "x0", x, t, s, weights, jnp.concatenate([value[None], values]), decay=jnp.exp(log_decay)
        )
        return moved + spread * normal(keys, x.shape[1:], x.dtype)
