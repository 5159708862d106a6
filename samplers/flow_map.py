"""Steps of a flow map: as long as one likes, for a model that was trained as one."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion import keys as keys_lib
from diffusion.flow_maps.maps import map_from_x0
from diffusion.keys import Draws
from diffusion.noises import require_gaussian
from diffusion.process import Process
from diffusion.pytree import is_concrete, pytree
from samplers.sample import Sampler


@pytree
class FlowMapSteps(Sampler):
    """x_s = Φ_{t→s}(x), of a denoiser that is told both times, G(x, t, s): DDIM's step with G in place of x̂_0.

    With `fresh` = γ > 0 it goes to less noise and adds the rest anew, to ρ_s √(1 − γ²) of ρ = σ/α: γ = 1 is the
    multistep sampling of consistency models, x_s = α_s Φ_{t→0}(x) + σ_s n (Song et al. 2023, arXiv:2303.01469,
    algorithm 1; Kim et al. 2024, arXiv:2310.02279, γ-sampling). Of an exact map every grid gives exact samples.
    """

    fresh: float = 0.0
    """γ, the share of the noise at s that is new: 0 is deterministic, 1 keeps none of the old."""

    order: ClassVar[int] = 0
    """0: its error is the model's, and does not vanish with the step."""
    takes_both_times: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if is_concrete(self.fresh) and not 0 <= self.fresh <= 1:
            raise ValueError(f"fresh = {self.fresh}; give a number from 0 (no new noise) to 1 (all of it new).")

    @property
    def stochastic(self) -> bool:
        """Whether γ > 0."""
        return bool(self.fresh > 0)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError for a γ that is positive or traced, with a noise that is not Gaussian."""
        if not is_concrete(self.fresh) or self.fresh > 0:
            require_gaussian(process.noise, "a flow map with fresh noise")

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Any,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """Φ_{t→s'}(x), then noise from s' to s."""
        if is_concrete(self.fresh) and self.fresh == 0:
            return map_from_x0(process, x, _asked(denoise, x, t, s), t, s), carry
        fresh = jnp.asarray(self.fresh, x.dtype)
        # ln(α²/σ²) where ρ is ρ_s √(1 − γ²); infinite, and the time 0, for γ = 1.
        before = process.schedule.time_from_log_snr(process.schedule.log_snr(s) - jnp.log1p(-(fresh**2))).astype(
            s.dtype
        )
        there = map_from_x0(process, x, _asked(denoise, x, t, before), t, before)
        noise = keys_lib.normal(keys, x.shape[1:], x.dtype)
        return process.alpha(s) / process.alpha(before) * there + fresh * process.sigma(s) * noise, carry


def _asked(denoise: Any, x: Array, t: Array, s: Array) -> Array:
    """G(x, t, s). Raises TypeError for a denoiser that takes (x, t) alone."""
    try:
        return denoise(x, t, s)
    except TypeError as error:
        if "positional argument" not in str(error):
            raise
        raise TypeError(
            "FlowMapSteps asks G(x, t, s), and this denoiser takes (x, t) alone; give one of diffusion.flow_maps, such "
            "as network_two_time_denoiser, or choose another sampler, such as DDIM()."
        ) from None
