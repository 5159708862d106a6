"""From a trained model to images or points: the denoiser, the grid, the loop over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from diffusion.ddpm.reverse_steps import Learned
from experiments.data.scaling import to_uint8
from experiments.errors import DivergedError, UsageError
from experiments.runs.model import Model
from samplers.ancestral import Ancestral
from samplers.grids import Grid
from samplers.sample import Sampler, sample

if TYPE_CHECKING:
    from experiments.sampling.guidance import Wish

# One key for all samples of all runs: sample i is told apart by its seed, its id.
KEY_SEED = 0


@dataclass(frozen=True)
class Drawn:
    """A batch of samples."""

    seeds: list[int]
    images: UInt8[np.ndarray, "b height width channels"] | Float32[np.ndarray, "b d"]
    """Images; of a model of points the points, as they come."""
    nfe: int
    """Network calls for each; under guidance two for each call of the denoiser."""


class Sampling(Protocol):
    """A sampler on a grid."""

    @property
    def sampler(self) -> Sampler:
        """The sampler."""
        ...

    @property
    def grid(self) -> Grid:
        """Its grid."""
        ...


def draw(
    model: Model,
    solver: Sampling,
    seeds: Sequence[int],
    *,
    batch: int,
    label: int | Sequence[int] | None = None,
    wish: Wish,
    brownian_tree: bool = False,
) -> Iterator[Drawn]:
    """Images or points of the seeds, batch by batch; what a seed gives does not depend on the others.

    `label` is one class for all, or one for each seed; `wish` changes the model's answers, by guidance or clipping;
    `brownian_tree` is as in `sample`. Every batch has the same shape, so there is one compilation.
    Raises UsageError for a label that the model does not know.
    """
    process, sampler, batch = model.process, solver.sampler, min(batch, len(seeds))
    labels = None if label is None else np.broadcast_to(np.asarray(label), (len(seeds),))
    if labels is not None and model.num_classes and not (labels.min() >= 0 and labels.max() < model.num_classes):
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise UsageError(f"--class {wrong} does not exist; this model knows the classes 0 to {model.num_classes - 1}.")
    with_variance = isinstance(sampler, Ancestral) and isinstance(sampler.variance, Learned)
    for start in range(0, len(seeds), batch):
        part = list(seeds[start : start + batch])
        padded = np.asarray(part + [part[-1]] * (batch - len(part)))
        now = None if labels is None else jnp.asarray(np.resize(labels[start : start + batch], batch), jnp.int32)
        denoise = wish.denoiser(model, sampler, now, with_variance=with_variance)
        result = sample(
            *(jax.random.key(KEY_SEED), process, denoise, sampler, solver.grid, (batch, *model.event_shape)),
            ids=padded,
            brownian_tree=brownian_tree,
        )
        finite = np.isfinite(np.asarray(result.x)).reshape(batch, -1).all(axis=1)
        if not np.all(finite):
            wrong = padded[int(np.argmin(finite))]
            raise DivergedError(f"the sample of seed {wrong} is not finite; use more steps, or less guidance.")
        calls = wish.calls(sampler, result.nfe)
        made = np.asarray(result.x, np.float32) if model.of_points else np.asarray(to_uint8(result.x))
        yield Drawn(part, made[: len(part)], calls)
