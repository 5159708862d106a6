"""Ancestral sampling: DDPM's generator chain, one step at a time."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Array, Float

from diffusion.ddpm.reverse_steps import FixedSmall, ReverseVariance, step
from diffusion.keys import Draws
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import pytree
from samplers.sample import Sampler


@pytree
class Ancestral(Sampler):
    """x_s ~ N(posterior mean at x̂_0, variance): Ho et al. 2020, algorithm 2, on any grid of any Gaussian process.

    `variance` is one of `diffusion.ddpm.reverse_steps`: FixedSmall (β̃), FixedLarge (β), Optimal (Analytic-DPM) or
    Learned, whose denoiser returns a pair. The step onto σ = 0 returns x̂_0.
    """

    variance: ReverseVariance = FixedSmall()
    """The variance of the reverse steps."""

    order: ClassVar[float] = 1

    @property
    def stochastic(self) -> bool:
        """True."""
        return True

    @property
    def strong_order(self) -> int:
        """1: its limit is the reverse SDE."""
        return 1

    @property
    def takes_variance(self) -> bool:
        """True: a variance that is not wanted is left."""
        return True

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian."""
        require_gaussian(process.noise, "ancestral sampling")

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
        """One draw from p(x_s | x_t)."""
        return step(process, self.variance, denoise(x, t), x, s, t).sample(keys), carry
