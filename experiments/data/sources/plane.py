"""Points in the plane from laws that are known exactly (`diffusion.oracles.planar`), for training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from experiments import streams
from experiments.data import randomness
from experiments.data.config import DataConfig
from experiments.data.source import Source
from experiments.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from diffusion.oracles import GaussianMixture

LAWS = {
    "checkerboard": "checkerboard",
    "moons": "two_moons",
    "spirals": "two_spirals",
    "gaussians": "eight_gaussians",
}
"""What follows `plane:`, and the law of that name in `diffusion.oracles`."""
COUNT = 50_000
"""Points in a data set."""


def read(where: str, config: DataConfig) -> Source:
    """`COUNT` independent points of the law, the same on every machine and for every seed of the configuration.

    Raises UsageError for options that go with images.
    """
    for flag, given in (("size", config.size), ("channels", config.channels), ("flip", config.flip)):
        if given:
            raise UsageError(f"--data.{flag} goes with images, and plane:{where} has points; leave it out.")
    return Source(images=draw(law(where), COUNT), name=f"plane:{where}")


def law(name: str) -> GaussianMixture:
    """The exact law of `plane:name`. Raises DataError when no law has this name."""
    if name not in LAWS:
        raise DataError(f"plane:{name} does not exist{did_you_mean(name, LAWS)}; there are plane:{', '.join(LAWS)}.")
    from diffusion import oracles

    return getattr(oracles, LAWS[name])()


def law_of(source: str) -> GaussianMixture | None:
    """The exact law of a data source by its URI; None where it is not known."""
    scheme, _, name = source.partition(":")
    return law(name) if scheme == "plane" else None


def draw(mixture: GaussianMixture, count: int) -> Float[np.ndarray, "n 2"]:
    """Float32 points of a mixture of isotropic Gaussians of equal weight, a pure function of the mixture.

    In NumPy, in float64, from random words that are promised never to change: a component, and Box and Muller's two
    normal numbers.
    """
    which, radius, angle = (
        (randomness.words(streams.PLANE, streams.POINTS, stream, count=count) >> np.uint64(11)) * 2.0**-53
        for stream in range(3)
    )
    means, std = np.asarray(mixture.means), np.sqrt(np.asarray(mixture.floor))
    component = (which * len(means)).astype(np.int64)
    length = std[component] * np.sqrt(-2 * np.log1p(-radius))
    turn = 2 * np.pi * angle
    offsets = length[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return (means[component] + offsets).astype(np.float32)
