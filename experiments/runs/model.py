"""A trained network with all that it takes to use it, and the denoiser that it makes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
from jaxtyping import Array

from diffusion.ddpm.reverse_steps import learned_denoiser, mean_denoiser
from diffusion.flow_maps.network import network_two_time_denoiser
from diffusion.interpolated import continuous
from diffusion.prediction import Denoiser, network_denoiser
from diffusion.process import Process
from experiments.config.nodes import FlowMap
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.training.data import Facts, num_classes

if TYPE_CHECKING:
    from experiments.training.imported import Imported
    from experiments.training.model import AnyNetwork
    from experiments.training.warm_start import Origin


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network with its parameters, and where they come from: a run's checkpoint, or a training in progress."""

    config: Config
    facts: Facts
    """What the network knows of its data."""
    network: AnyNetwork
    params: Any
    path: Path | None = None
    """The checkpoint's folder."""
    step: int | None = None
    """The number of updates behind the checkpoint."""
    digest: str | None = None
    """SHA-256 of the checkpoint's manifest, and so of every byte in it; of an average that was made after training, of
    its own, which names the checkpoint's."""
    average: int | float | None = 0
    """Which average the parameters are: its number, counted from 0, or its relative width; None for the raw ones."""
    origin: Origin | None = None
    """The run that its own began from, if there is one."""
    imported: Imported | None = None
    """The files that it was made from, if it was not trained here."""
    data: str | None = None
    """The URI of the run's data, given by the person; None for where the run has read them."""
    between: bool = False
    """Whether a chain is read between its times too."""

    @property
    def process(self) -> Process:
        """x_t = α x_0 + σ z of the run."""
        process = self.config.process()
        return continuous(process) if self.between else process

    @property
    def flow(self) -> Model:
        """The same, of which a chain is read between its times by `diffusion.continuous`, so that it has a flow."""
        return dataclasses.replace(self, between=True) if self.config.process().schedule.discrete else self

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of an image, (d,) of a point."""
        return self.facts.event_shape

    @property
    def num_classes(self) -> int:
        """The number of classes that the network knows, 0 if it is not conditional."""
        return num_classes(self.config, self.facts)

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """The classes that it was shown images of: all, where the checkpoint does not say."""
        counts = self.facts.class_counts
        return tuple(i for i in range(self.num_classes) if counts is None or counts[i] > 0)

    @property
    def bits(self) -> int:
        """The bits of each number of its images, 8 or 16."""
        return self.config.data.bits

    @property
    def of_points(self) -> bool:
        """Whether it makes points, not images."""
        return len(self.event_shape) == 1

    @property
    def ema(self) -> str:
        """Which parameters these are, as `--ema` names them: "raw", "0", "0.15"."""
        return "raw" if self.average is None else str(self.average)

    @property
    def parameters(self) -> str:
        """Which parameters these are, in words: "raw", "average 0", "average of relative width 0.15"."""
        of_width = isinstance(self.average, float)
        return "raw" if self.average is None else f"average {'of relative width ' * of_width}{self.average}"

    def __repr__(self) -> str:
        """One line: where it comes from, what it makes, how large it is."""
        place = "in training" if self.path is None else f"{self.path}, step {self.step}"
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params) if hasattr(leaf, "shape"))
        kind, shape = type(self.config.network).__name__.removesuffix("Config"), "×".join(map(str, self.event_shape))
        classes = f" in {self.num_classes} classes" if self.num_classes else ""
        return f"Model({place}, {self.parameters}: {kind} of {count:,} parameters for {shape}{classes})"


def make_denoiser(model: Model, labels: Array | None, *, with_variance: bool = False) -> Denoiser:
    """E[x_0 | x_t] of the model for `labels` (b,), or for no class.

    `with_variance` keeps the learned variance beside it, for ancestral sampling and the ELBO.
    Raises UsageError for labels on a model without classes.
    """
    if labels is not None and model.num_classes == 0:
        raise UsageError("--class goes with a conditional model, and the network of this run knows no classes.")
    arguments = (model.network, model.params, model.process, model.config.preconditioning, labels)
    if isinstance(model.config.objective, FlowMap):
        return cast(Denoiser, network_two_time_denoiser(*arguments))  # a denoiser while it is not told a second time
    if not model.config.learned_variance:
        return network_denoiser(*arguments)
    denoise = learned_denoiser(*arguments)
    return cast(Denoiser, denoise) if with_variance else mean_denoiser(denoise)
