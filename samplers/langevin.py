"""Langevin dynamics: at one noise level, down a ladder of them, after each step of another sampler, or adjusted.

A step of size η at level t is x + ½η ∇ln p_t(x) + √η n. Repeated, it converges to p_t up to a bias of order η; MALA has
none. Every step size is the sample's own: a norm over the batch would let samples depend on their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from diffusion import keys as keys_lib
from diffusion.arrays import expand, safe_sqrt, sum_event
from diffusion.ddpm.reverse_steps import FixedSmall, step
from diffusion.keys import Draws
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser, score
from diffusion.process import Process, transition_coefficients
from diffusion.pytree import is_concrete, pytree, short_repr, static
from samplers import streams
from samplers.exponential import exponential_step
from samplers.sample import Sampler


def langevin_step(
    keys: Draws, x: Float[Array, "b *event"], gradient: Float[Array, "b *event"], size: ArrayLike
) -> Float[Array, "b *event"]:
    """x + ½η ∇ln p(x) + √η n; `gradient` is ∇ln p(x), `size` is η, a scalar or (b,)."""
    eta = expand(jnp.asarray(size, x.dtype), x)
    return x + 0.5 * eta * gradient + safe_sqrt(eta) * keys_lib.normal(keys, x.shape[1:], x.dtype)


class Adjusted(NamedTuple):
    """What a step of MALA or of Hamiltonian Monte Carlo returns."""

    x: Float[Array, "b *event"]
    """The states after the step."""
    accepted: Bool[Array, " b"]
    """Whether each sample took the proposal."""

    __repr__ = short_repr


def mala_step(
    keys: Draws,
    x: Float[Array, "b *event"],
    log_density: Callable[[Array], Array],
    size: ArrayLike,
) -> Adjusted:
    """A Langevin step, accepted with Metropolis and Hastings' probability: p itself is left invariant, at any size.

    `log_density` is x -> ln p(x) (b,) up to a constant, an energy with its sign changed; `size` is η, a scalar or (b,).
    The proposal's density is q(y|x) ∝ exp(−|y − x − ½η ∇ln p(x)|²/2η) (Roberts & Tweedie 1996, section 1.4).
    """

    def value_and_gradient(y: Array) -> tuple[Array, Array]:
        values, pull = jax.vjp(log_density, y)
        return values, pull(jnp.ones_like(values))[0]

    eta = expand(jnp.asarray(size, x.dtype), x)
    here, gradient = value_and_gradient(x)
    proposal = langevin_step(keys_lib.fold(keys, 0), x, gradient, size)
    there, back = value_and_gradient(proposal)
    forth_density = -sum_event((proposal - x - 0.5 * eta * gradient) ** 2 / (2 * eta))
    back_density = -sum_event((x - proposal - 0.5 * eta * back) ** 2 / (2 * eta))
    chance = there - here + back_density - forth_density
    # NaN, from a proposal outside the density's support, makes the comparison false: it is rejected.
    accepted = jnp.log(keys_lib.uniform(keys_lib.fold(keys, 1), (), x.dtype)) < chance
    return Adjusted(jnp.where(expand(accepted, x), proposal, x), accepted)


@pytree
class AnnealedLangevin(Sampler):
    """At every level of the grid `repeats` Langevin steps of η = `size` · σ_t², then on to the next level.

    (Song & Ermon 2019, arXiv:1907.05600, algorithm 1: their α_i = ε σ_i²/σ_L² is η.) x goes from level to level scaled
    by α_s/α_t. The step onto σ = 0 is the denoiser's, the final jump of Jolicoeur-Martineau et al. 2020
    (arXiv:2009.05475). The size does not shrink with the grid's steps, so neither does the bias: this method has no
    order.
    """

    repeats: int = static(default=5)
    """Langevin steps at each level."""
    size: float = 0.1
    """η in units of σ_t²; unstable from 4 on."""

    order: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if isinstance(self.repeats, int) and self.repeats < 1:
            raise ValueError(f"repeats = {self.repeats}; give at least one Langevin step for each level.")
        if is_concrete(self.size) and not 0 < self.size < 4:
            raise ValueError(f"size = {self.size}; give a number between 0 and 4, where Langevin steps are stable.")

    @property
    def stochastic(self) -> bool:
        """True."""
        return True

    def nfe(self, steps: int, to_data: bool) -> int:
        """`repeats` calls a step, and one for the jump onto the data."""
        return self.repeats * steps + int(to_data)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, "Langevin dynamics")

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """The Langevin steps at t, and the way to s."""
        gradient, eta = score(process, denoise), self.size * process.schedule.variance(t)

        def repeat(i: Array, y: Array) -> Array:
            return langevin_step(keys_lib.fold(keys, i), y, gradient(y, t), eta)

        x = jax.lax.fori_loop(0, self.repeats, repeat, x)
        # From α = 0 there is nothing to scale: both levels are noise.
        alpha = process.alpha(t)
        scale = jnp.where(alpha > 0, process.alpha(s) / jnp.where(alpha > 0, alpha, 1.0), 1.0)
        to_data = process.sigma(s) == 0
        return jax.lax.cond(
            to_data, lambda: exponential_step(process, x, denoise(x, t), t, s), lambda: scale * x
        ), carry


@pytree
class PredictorCorrector(Sampler):
    """A step of ancestral sampling or of reverse diffusion, then `corrections` Langevin steps at the new level.

    (Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5.) The step size of a correction is

        η = 4 (snr σ_s)²

    which is their 4 (snr |n|/|∇ln p_s|)² at the lengths that n and the gradient of noise alone have in the root mean
    square, √d and √d/σ_s. (E|∇ln p_s|² <= d/σ_s² for every law, so at the lengths of data theirs is no smaller, but
    for its factor 1 − β_i under VP.) Theirs is random, by means over the batch; with norms of each sample's own it
    would be no step of Langevin's, and make laws of few dimensions several times too wide. The fixed one leaves
    N(m, V I) with the variance V/(1 − (snr σ_s)²/V), in every dimension at most 1/(1 − snr²) times too large: 1.03
    at 0.16. It is the same step on every schedule, since x and σ_s scale alike. Reverse diffusion is their eq. 46,
    x_s = (2 − α_{t|s}) x_t + σ_{t|s}² ∇ln p_t + σ_{t|s} n.
    """

    predictor: Literal["ancestral", "reverse-diffusion"] = static(default="reverse-diffusion")
    """The step that precedes the corrections."""
    corrections: int = static(default=1)
    """Langevin steps after each step; 0 is the predictor alone."""
    snr: float = 0.16
    """The signal-to-noise ratio r of the Langevin steps; unstable from 1 on."""

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if isinstance(self.predictor, str) and self.predictor not in ("ancestral", "reverse-diffusion"):
            raise ValueError(f"predictor = {self.predictor!r}; choose ancestral or reverse-diffusion.")
        if isinstance(self.corrections, int) and self.corrections < 0:
            raise ValueError(f"corrections = {self.corrections}; give 0 for none, or more.")
        if is_concrete(self.snr) and not 0 < self.snr < 1:
            raise ValueError(f"snr = {self.snr}; give a number between 0 and 1, usually 0.01 to 0.2.")

    @property
    def stochastic(self) -> bool:
        """True."""
        return True

    @property
    def strong_order(self) -> int:
        """1 for the predictor alone."""
        return int(self.corrections == 0)

    @property
    def stated_order(self) -> int:
        """1, weakly, for the predictor; with corrections there is a bias that does not vanish with the step."""
        return 1 if self.corrections == 0 else 0

    def nfe(self, steps: int, to_data: bool) -> int:
        """One call a step, and one for each correction, of which the step onto the data has none."""
        return steps + self.corrections * (steps - int(to_data))

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, "predictor-corrector sampling")

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """Predict, and correct unless σ_s = 0."""
        x_0, to_data = denoise(x, t), process.sigma(s) == 0
        if self.predictor == "ancestral":
            moved = step(process, FixedSmall(), x_0, x, s, t).sample(keys)
        else:
            scale, variance = transition_coefficients(process, s, t)
            gradient = (process.alpha(t) * x_0 - x) / process.schedule.variance(t)
            noise = safe_sqrt(variance) * keys_lib.normal(keys, x.shape[1:], x.dtype)
            moved = (2 - scale) * x + variance * gradient + noise
            moved = jnp.where(to_data, process.alpha(s) * x_0, moved)
        if self.corrections == 0:
            return moved, carry
        again = keys_lib.fold(keys, streams.CORRECTOR)
        return jax.lax.cond(to_data, lambda: moved, lambda: self._correct(again, moved, s, process, denoise)), carry

    def _correct(self, keys: Draws, x: Array, s: Array, process: Process, denoise: Denoiser) -> Array:
        gradient, eta = score(process, denoise), 4 * self.snr**2 * process.schedule.variance(s)

        def repeat(i: Array, y: Array) -> Array:
            return langevin_step(keys_lib.fold(keys, i), y, gradient(y, s), eta)

        return jax.lax.fori_loop(0, self.corrections, repeat, x)
