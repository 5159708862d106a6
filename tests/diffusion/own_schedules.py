"""Schedules as a user would write them: α, σ and the inverse of the log-SNR, and nothing else."""

import jax.numpy as jnp

from diffusion.pytree import pytree
from diffusion.schedules import Schedule


@pytree
class Parabola(Schedule):
    """α = 1 − t², σ = t: pure noise at t = 1."""

    def alpha(self, t):
        return 1 - jnp.asarray(t, jnp.result_type(float, t)) ** 2

    def sigma(self, t):
        return jnp.asarray(t, jnp.result_type(float, t))

    def time_from_log_snr(self, log_snr):
        """With u = α/σ, t² + u t − 1 = 0."""
        u = jnp.exp(0.5 * jnp.asarray(log_snr))
        return 2 / (u + jnp.sqrt(u**2 + 4))


@pytree
class RoundedCosine(Schedule):
    """α = cos(πt/2), which is 6e-17 and not 0 at t = 1."""

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * jnp.asarray(t))

    def sigma(self, t):
        return jnp.sin(0.5 * jnp.pi * jnp.asarray(t))

    def time_from_log_snr(self, log_snr):
        return 2 / jnp.pi * jnp.arctan(jnp.exp(-0.5 * jnp.asarray(log_snr)))


@pytree
class ShortOfNoise(Parabola):
    """The parabola left at t = 0.9, where α = 0.19."""

    @property
    def t_max(self):
        return 0.9


@pytree
class Slow(RoundedCosine):
    """The same with time from 0 to 4."""

    @property
    def t_max(self):
        return 4.0

    def alpha(self, t):
        return super().alpha(0.25 * jnp.asarray(t))

    def sigma(self, t):
        return super().sigma(0.25 * jnp.asarray(t))

    def time_from_log_snr(self, log_snr):
        return 4 * super().time_from_log_snr(log_snr)


ENDLESS = [Parabola(), RoundedCosine()]
"""Those that end in noise."""
