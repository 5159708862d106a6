"""What a configuration leaves to the data: numbers in the place of every "auto", before a run begins.

They are written into config.json, so that sampling and the run itself, when it goes on, have the same ones.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from diffusion.score_matching.weightings import EDMWeighting
from experiments import streams
from experiments.config.tree import Config
from experiments.data import randomness
from experiments.data.scaling import to_model
from experiments.data.source import Source
from experiments.errors import UsageError
from experiments.training.data import RunData

_MOST = 1024
"""Images that are measured at most."""
_CHUNK = 64


def settled(config: Config, data: RunData) -> Config:
    """`config` with numbers that fit the data in the place of every "auto".

    Raises UsageError for the standard deviation of data of which there are batches alone, or which are all the same.
    """
    network = config.network.settled(data.facts.event_shape)
    config = dataclasses.replace(config, network=network)  # pyright: ignore[reportArgumentType]
    if config.sigma_data != "auto":
        return config
    if data.parts is None:
        raise UsageError(
            "--sigma-data auto needs the images, and these data are batches alone; give --preconditioning.sigma-data."
        )
    return with_sigma_data(config, measured_sigma_data(data.parts[0]))


def measured_sigma_data(source: Source) -> float:
    """The standard deviation of all numbers of the data, in the model's units, to four digits.

    It is that of 1,024 images at most, always the same ones. Raises UsageError for data that are all the same.
    """
    rows = randomness.permutation(0, streams.SIGMA_DATA, count=len(source))[:_MOST]
    count, mean, squares = 0, 0.0, 0.0
    for first in range(0, len(rows), _CHUNK):
        x = to_model(source.images[np.sort(rows[first : first + _CHUNK])]).astype(np.float64)
        # Chan et al.'s sum of two parts, which does not cancel where the mean is far from zero.
        shift, both = x.mean() - mean, count + x.size
        squares += float(((x - x.mean()) ** 2).sum() + shift**2 * count * x.size / both)
        count, mean = both, float(mean + shift * x.size / both)
    sigma = float(f"{math.sqrt(squares / count):.4g}")
    if not sigma > 0:
        raise UsageError(
            f"--sigma-data auto measures {source.name}, which is the same number everywhere; give other data."
        )
    return sigma


def with_sigma_data(config: Config, sigma_data: float) -> Config:
    """`config` with this standard deviation wherever it has the default, and not measured any more."""
    return _filled(config, sigma_data, sigma_data)


def settled_as(config: Config, kept: Config) -> Config:
    """`config` with the numbers of a run that has begun, `kept`, in the place of every "auto"."""
    if config.sigma_data == "auto" and kept.sigma_data != "auto":
        weighting = kept.weighting.sigma_data if isinstance(kept.weighting, EDMWeighting) else None
        config = _filled(config, kept.preconditioning.sigma_data, weighting)
    own, other = config.network, kept.network
    if type(own) is not type(other):
        return config
    names = [field.name for field in dataclasses.fields(own) if getattr(own, field.name) == "auto"]
    taken: dict[str, Any] = {name: getattr(other, name) for name in names}
    return dataclasses.replace(config, network=dataclasses.replace(own, **taken))


def _filled(config: Config, preconditioning: float, weighting: float | None) -> Config:
    """Those two numbers where the nodes have the default; None for a weighting without one."""
    changes: dict[str, Any] = {"sigma_data": "given"}
    if config.preconditioning.sigma_data == type(config.preconditioning).sigma_data:
        changes["preconditioning"] = dataclasses.replace(config.preconditioning, sigma_data=preconditioning)
    if (
        weighting is not None
        and isinstance(config.weighting, EDMWeighting)
        and config.weighting.sigma_data == EDMWeighting.sigma_data
    ):
        changes["weighting"] = dataclasses.replace(config.weighting, sigma_data=weighting)
    return dataclasses.replace(config, **changes)
