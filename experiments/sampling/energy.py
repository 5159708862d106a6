"""Images or points from the energy of a run: Langevin dynamics, MALA or Hamiltonian Monte Carlo, while it cools.

At the temperature T = (σ/σ_0)² the slope of ln p̂^{1/T} is ∇ψ/σ², the score at the level σ of a denoiser that is not
told the level: cooling from (σ_max/σ_0)² to 1 passes through all levels that the energy was trained at (Li, Chen &
Sommer 2019, arXiv:1910.07762, section 3.3). Then come a few steps at T = 1, where MALA and HMC leave p̂ invariant, and
the denoiser's jump.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import keys as keys_lib
from diffusion.energy import log_density
from diffusion.pytree import short_repr
from experiments import streams
from experiments.data.scaling import to_pixels
from experiments.errors import DivergedError
from experiments.runs.energy import Energy
from experiments.sampling.drawing import Drawn, starts
from samplers.energy import Kernel, cooling, sample_energy

SIZES: dict[str, float] = {"langevin": 0.1, "mala": 0.3, "hmc": 0.1}
"""Step sizes η in units of σ_0² that suit images of a few hundred pixels."""


@dataclass(frozen=True)
class EnergySampler:
    """How an energy is sampled: by which kernel, and how it cools."""

    kernel: Kernel
    steps: int
    """The number of steps from the highest temperature to 1."""
    hold: int
    """The number of steps at the temperature 1."""
    temperature: float
    """The highest temperature."""
    size: float
    """The step size η/σ_0² at the temperature 1; at T it is T times as large."""
    leapfrogs: int
    """The number of leapfrogs in each step of hmc."""

    @property
    def calls(self) -> int:
        """How many slopes of the potential a sample needs if none is computed twice, that of the jump included."""
        each = self.leapfrogs if self.kernel == "hmc" else 1
        return each * (self.steps + self.hold) + (self.kernel != "langevin") + 1

    def report(self) -> dict[str, Any]:
        """The fields that matter to the kernel, as JSON values."""
        values: dict[str, Any] = {
            "kernel": self.kernel,
            "steps": self.steps,
            "hold": self.hold,
            "temperature": self.temperature,
            "step_size": self.size,
        }
        return values | ({"leapfrogs": self.leapfrogs} if self.kernel == "hmc" else {})


@dataclass(frozen=True)
class Part:
    """A batch of samples, and how well its chains moved."""

    drawn: Drawn
    acceptance: np.ndarray
    """The share of the batch that accepted each step, (steps,)."""

    __repr__ = short_repr


def draw_energy(
    energy: Energy,
    sampler: EnergySampler,
    seeds: Sequence[int],
    *,
    batch: int,
    there: Collection[int] = (),
    bits: int = 8,
) -> Iterator[Part]:
    """Samples of the seeds, batch by batch, from starts in N(0, (σ_max² + σ_d²) I); no seed's depends on another.

    Batches all of whose seeds are `there` already are left out. Images have `bits` bits.

    Raises ValueError for a chain that cannot be run, DivergedError for a sample that is not finite.
    """
    density, key = log_density(energy.psi, energy.sigma), jax.random.key(streams.SAMPLES)
    temperatures = cooling(sampler.temperature, sampler.steps, sampler.hold)
    spread = float(np.hypot(energy.high, energy.sigma_data))
    batch = min(batch, len(seeds))
    for start in starts(seeds, batch, there):
        part = list(seeds[start : start + batch])
        ids = jnp.asarray(part + [part[-1]] * (batch - len(part)))  # one shape, one compilation
        keys = keys_lib.sample_keys(jax.random.fold_in(key, streams.ENERGY_START), ids)
        result = sample_energy(
            key,
            density,
            spread * keys_lib.normal(keys, energy.event_shape),
            kernel=sampler.kernel,
            temperatures=temperatures,
            size=sampler.size * energy.sigma**2,
            leapfrogs=sampler.leapfrogs,
            jump=energy.sigma,
            ids=ids,
        )
        x = np.asarray(result.x, np.float32)[: len(part)]
        finite = np.isfinite(x).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            raise DivergedError(
                f"the sample of seed {part[int(np.argmin(finite))]} is not finite; give a smaller --step-size."
            )
        yield Part(
            Drawn(part, to_pixels(x, bits) if x.ndim > 2 else x, sampler.calls),
            np.asarray(result.accepted)[:, : len(part)].mean(1),
        )
