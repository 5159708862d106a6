"""The exact transport in one dimension: the probability flow is the quantile map.

An ODE in one dimension cannot reorder points, so the flow from t to s of any law under any noise is
x ↦ F_s⁻¹(F_t(x)), F_t the distribution function of x_t.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.oracles.law import Law
from diffusion.process import Process

_WIDEST = 60.0  # sinh(60) = 6e25 standard deviations
_BISECTIONS = 60


def flow_map_1d(
    law: Law, process: Process, x: Float[Array, "b *event"], t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    """Where the probability-flow ODE that starts from x at time t is at time s: F_s⁻¹(F_t(x)), the law one-dimensional.

    Either direction, t and s scalars or (b,). Accurate to about 1e-13 times the width of p_s in float64 (enable it:
    float32 gives 1e-5), in both tails, and differentiable in everything. Raises ValueError in more dimensions.
    """
    return _invert(law, process, law.log_cdf(process, x, t), s).reshape(x.shape)


def quantile(law: Law, process: Process, probability: Float[Array, " b"], t: ArrayLike) -> Float[Array, "b *event"]:
    """F_t⁻¹(probability): the x with P(x_t <= x) = probability, the law one-dimensional, 0 < probability < 1.

    Raises ValueError in more dimensions.
    """
    logs = jnp.log(probability), jnp.log1p(-probability)
    return _invert(law, process, logs, t).reshape(probability.shape[0], *law.event_shape)


def _invert(law: Law, process: Process, logs: tuple[Array, Array], t: ArrayLike) -> Float[Array, "b 1"]:
    """The y (b, 1) with (ln F_t(y), ln(1 − F_t(y))) = `logs`: bisection in the lighter tail.

    One step of Newton's method polishes it, and carries the derivatives by the implicit function theorem.
    """

    def frozen(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf, tree)

    y, width = _bisect(frozen(law), frozen(process), frozen(logs), frozen(t))
    return _newton(law, process, logs, t, y, width)


def _excess(law: Law, process: Process, logs: tuple[Array, Array], t: ArrayLike, y: Array) -> tuple[Array, Array]:
    """An increasing function of y that is 0 where F_t(y) is right, and ln of the tail it compares."""
    (lower, upper), (below, above) = logs, law.log_cdf(process, y, t)
    on_the_left = lower <= upper
    return jnp.where(on_the_left, below - lower, upper - above), jnp.where(on_the_left, below, above)


def _newton(
    law: Law, process: Process, logs: tuple[Array, Array], t: ArrayLike, y: Float[Array, "b 1"], width: Array
) -> Float[Array, "b 1"]:
    excess, log_tail = _excess(law, process, logs, t, y)
    slope = jnp.exp(law.log_prob(process, y, t) - log_tail)
    # At σ = 0 a law of points has steps, where bisection alone is right.
    usable = jnp.isfinite(slope) & (slope > 0)
    step = excess / jnp.where(usable, slope, 1.0)
    return y - jnp.where(usable & (jnp.abs(step) < width), step, 0.0)[:, None]


def _bisect(law: Law, process: Process, logs: tuple[Array, Array], t: ArrayLike) -> tuple[Array, Array]:
    """The zero (b, 1) of `_excess`, and the width (b,) in units of which asinh y is searched: any tail is in reach."""
    c, one = law.components(logs[0].dtype), jnp.ones_like(logs[0])
    spread = jnp.sum(jnp.exp(c.log_weights) * jnp.abs(c.means[:, 0]))
    width = one * process.alpha(t).astype(one.dtype) * (1 + spread) + one * process.sigma(t).astype(one.dtype)

    def halve(_: ArrayLike, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = _excess(law, process, logs, t, (width * jnp.sinh(middle))[:, None])[0] > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (-_WIDEST * one, _WIDEST * one))
    return (width * jnp.sinh(0.5 * (low + high)))[:, None], width
