"""The Gaussian with independent coordinates, the law of every step of a chain."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffusion import keys as keys_lib
from diffusion.arrays import expand, sum_event
from diffusion.brownian import BrownianIncrement
from diffusion.pytree import pytree


@pytree
class Normal:
    """N(mean, std²), one for each element of the batch; `std` is a scalar, (b,), or of as many axes as `mean`."""

    mean: Float[Array, "b *event"]
    """The means."""
    std: Float[Array, "..."]
    """The standard deviations, broadcast against the means."""

    def _std(self) -> Array:
        return expand(self.std, self.mean)

    def sample(self, key: Key[Array, "..."] | BrownianIncrement) -> Float[Array, "b *event"]:
        """mean + std · n; one key, or one for each element of the batch, or Brownian increments."""
        keys = key if isinstance(key, BrownianIncrement) else keys_lib.as_keys(key, self.mean.shape[0])
        return self.mean + self._std() * keys_lib.normal(keys, self.mean.shape[1:], self.mean.dtype)

    def log_prob(self, x: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """ln N(x; mean, std²) in nats, summed over the event."""
        z = (x - self.mean) / self._std()
        return sum_event(-0.5 * z**2 - jnp.log(self._std()) - 0.5 * math.log(2 * math.pi))

    def entropy(self) -> Float[Array, " b"]:
        """½ ln(2πe std²) in nats, summed over the event."""
        return sum_event(jnp.broadcast_to(jnp.log(self._std()), self.mean.shape) + 0.5 * math.log(2 * math.pi * math.e))


def kl_divergence(p: Normal, q: Normal) -> Float[Array, " b"]:
    """KL(p ‖ q) = Σ ln(σ_q/σ_p) + (σ_p² + (μ_p − μ_q)²)/(2σ_q²) − ½, in nats, summed over the event."""
    std_p, std_q = expand(p.std, p.mean), expand(q.std, q.mean)
    shift = (p.mean - q.mean) / std_q
    return sum_event(0.5 * shift**2 + jnp.broadcast_to(_excess((std_p - std_q) / std_q), p.mean.shape))


def _excess(delta: Array) -> Array:
    """½(r² − 1) − ln r at r = 1 + δ; by its series where the terms cancel: δ²(1 − δ/3 + δ²/4 − ...)."""
    small = jnp.abs(delta) < 1e-2
    near = jnp.where(small, delta, 0.0)
    series = near**2 * (1 - near / 3 + near**2 / 4 - near**3 / 5 + near**4 / 6 - near**5 / 7)
    far = jnp.where(small, 1.0, delta)
    return jnp.where(small, series, 0.5 * far * (2 + far) - jnp.log1p(far))
