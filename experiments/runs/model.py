"""A network, its parameters and its run's configuration, and the denoiser that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from jaxtyping import Array

from diffusion.ddpm.reverse_steps import learned_denoiser, mean_denoiser
from diffusion.prediction import Denoiser, network_denoiser
from diffusion.process import Process
from experiments.config.tree import Config
from experiments.errors import UsageError


@dataclass(frozen=True)
class Model:
    """What is needed to sample: a network, its parameters, its run's configuration."""

    config: Config
    network: Callable[..., Array]
    params: Any
    event_shape: tuple[int, ...]
    num_classes: int = 0

    @property
    def process(self) -> Process:
        """x_t = α x_0 + σ z of the run."""
        return self.config.process()

    @property
    def of_points(self) -> bool:
        """Whether it makes points, not images."""
        return len(self.event_shape) == 1


def make_denoiser(model: Model, labels: Array | None, *, with_variance: bool = False) -> Denoiser:
    """E[x_0 | x_t] of the model for `labels` (b,), or for no class.

    `with_variance` keeps the learned variance beside it, for ancestral sampling and the ELBO.
    Raises UsageError for labels on a model without classes.
    """
    if labels is not None and model.num_classes == 0:
        raise UsageError("--class goes with a conditional model, and this run was trained without --conditional.")
    arguments = (model.network, model.params, model.process, model.config.preconditioning, labels)
    if not model.config.learned_variance:
        return network_denoiser(*arguments)
    denoise = learned_denoiser(*arguments)
    return cast(Denoiser, denoise) if with_variance else mean_denoiser(denoise)
