"""Samplers around a sampler: what a subclass does not define is that of the sampler inside."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from diffusion.noises import require_gaussian
from diffusion.process import Process
from samplers.sample import Sampler, require_sampler


class Wrapped(Sampler):
    """A sampler whose `step` calls that of another and adds Gaussian noise of its own.

    A subclass is a `pytree` with the field `sampler`, the one inside; it defines `step`, and whatever else differs.
    """

    sampler: Sampler
    """The sampler inside."""

    @property
    def stochastic(self) -> bool:
        """True: noise is added to the steps of the sampler inside, even where those are deterministic."""
        return True

    @property
    def remembers(self) -> bool:
        """Whether the sampler inside does."""
        return self.sampler.remembers

    @property
    def takes_pair(self) -> bool:
        """Whether the sampler inside does."""
        return self.sampler.takes_pair

    @property
    def takes_both_times(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the sampler inside does."""
        return self.sampler.takes_both_times

    @property
    def takes_variance(self) -> bool:
        """Whether the sampler inside does."""
        return self.sampler.takes_variance

    def nfe(self, steps: int, to_data: bool) -> int:
        """The calls of the sampler inside."""
        return self.sampler.nfe(steps, to_data)

    def calls(self, process: Process, grid: np.ndarray) -> int:
        """The calls of the sampler inside."""
        return self.sampler.calls(process, grid)

    def check_noise(self, process: Process) -> None:
        """Raise TypeError when the noise is not Gaussian, or as the sampler inside does."""
        require_gaussian(process.noise, type(self).__name__)
        require_sampler(self.sampler, process)

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise as the sampler inside does."""
        self.sampler.check(process, grid)

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """The carry of the sampler inside."""
        return self.sampler.init(x, grid)
