"""The discrete chain of DDPM as a part of a configuration."""

from __future__ import annotations

import dataclasses
from typing import Literal

from diffusion.betas import Betas
from experiments.errors import Refusals

Shape = Literal["linear", "linear-rate", "scaled-linear", "sigmoid", "cosine", "ramp"]
_ENDS: dict[str, tuple[str, ...]] = {"linear-rate": (), "cosine": ("beta_max",), "ramp": ("beta_max",)}
"""The ends that a shape has, if not both."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
    """The discrete chain of DDPM: a `Betas`, described by how it is made."""

    shape: Shape = "linear"
    """Growth of β_t: linear (Ho et al.), linear-rate (the same for any length), scaled-linear (latent diffusion),
    sigmoid, cosine (Nichol & Dhariwal) or a ramp from zero."""
    steps: int = 1000
    """Length of the chain, T."""
    zero_terminal_snr: bool = False
    """Whether the chain is rescaled so that nothing of the data is left at T (Lin et al.)."""
    beta_min: float | None = None
    """β_1, for the shapes that have it. [that of the shape's paper]"""
    beta_max: float | None = None
    """β_T, and of a cosine the largest β. [that of the shape's paper]"""
    betas: tuple[float, ...] = ()
    """β_1 to β_T one by one, in place of a shape."""

    def refusals(self) -> Refusals:
        """A chain without steps, or too short for its shape, and variances that are none."""
        short = 20 if self.shape == "linear-rate" else 1 if self.zero_terminal_snr else 0
        return [
            (self.steps < 1, f"--schedule.steps is {self.steps}; the chain needs at least one step."),
            (
                1 <= self.steps <= short,
                f"--schedule.steps is {self.steps}; this chain needs more than {short}.",
            ),
            *(refusal for name, value in self._ends.items() for refusal in self._refused_end(name, value)),
            (
                not (all(0 < beta < 1 for beta in self.betas[:-1]) and all(0 < beta <= 1 for beta in self.betas[-1:])),
                "--schedule.betas has numbers that are no variances; give some between 0 and 1, of which the last may "
                "be 1.",
            ),
            (
                bool(self.betas) and len(self.betas) != self.steps,
                f"--schedule.betas has {len(self.betas)} numbers, and --schedule.steps is {self.steps}; give as many.",
            ),
        ]

    @property
    def _ends(self) -> dict[str, float]:
        """The ends that are given."""
        ends = {"beta_min": self.beta_min, "beta_max": self.beta_max}
        return {name: value for name, value in ends.items() if value is not None}

    def _refused_end(self, name: str, value: float) -> Refusals:
        flag = f"--schedule.{name.replace('_', '-')} {value:g}"
        return [
            (bool(self.betas), f"{flag} does not go with --schedule.betas; leave one of them out."),
            (
                name not in _ENDS.get(self.shape, (name,)),
                f"{flag} is nothing that --schedule.shape {self.shape} has; leave it out.",
            ),
            (not 0 < value < 1, f"{flag} is no variance of a step; give a number between 0 and 1."),
        ]

    def build(self) -> Betas:
        """The chain's schedule."""
        shape = getattr(Betas, self.shape.replace("-", "_"))
        chain: Betas = Betas.from_betas(self.betas) if self.betas else shape(self.steps, **self._ends)
        return chain.zero_terminal_snr() if self.zero_terminal_snr else chain
