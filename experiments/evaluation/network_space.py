"""The features of a network that others have trained, in batches, as a space in which sets of images are compared."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from experiments.data.source import Pixels
from experiments.errors import DataError, DivergedError
from experiments.evaluation.features import in_batches
from experiments.evaluation.networks.known import place_of
from experiments.evaluation.networks.weights import Network, open_network

BATCH = 32
"""Images that pass through a network at once; one program serves every number of them."""


class NetworkSpace:
    """The features of a network from a file; images may have any size, and one channel, which is then each of three."""

    accuracy: float | None = None
    """What the network was trained for, it is not asked here."""

    def __init__(self, network: Network, batch: int = BATCH):
        self.network, self.batch = network, batch

    def __repr__(self) -> str:
        return f"NetworkSpace({self.name})"

    @property
    def name(self) -> str:
        """The network, eight digits of its file's SHA-256, and its preprocessing."""
        network = self.network
        return f"{network.title} @{network.sha256[:8]}, {network.preprocessing.name}"

    @property
    def distance(self) -> str:
        """What a Fréchet distance is called here: FID in those features alone in which it was defined."""
        return "FID" if self.network.is_fid else "Fréchet distance"

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the features: the file, and what is done to an image before."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        rule = self.network.preprocessing.described(self.network.side)
        return hashlib.sha256(f"{self.network.title}\n{self.network.sha256}\n{rule}".encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """What a number in this space is to be stated with, as JSON values."""
        network = self.network
        return {
            "network": network.title,
            "weights": str(network.path),
            "weights_sha256": network.sha256,
            "weights_known_as": None if network.known is None else network.known.title,
            "preprocessing": network.preprocessing.described(network.side),
            "is_fid": network.is_fid,
        }

    def __call__(self, images: Pixels) -> Float32[np.ndarray, "n d"]:
        """Features of images (n, height, width, channels). Raises DataError for other than one or three channels."""
        return self.streamed([images], len(images))

    def streamed(self, parts: Iterable[Pixels], count: int) -> Float32[np.ndarray, "count d"]:
        """Features of `count` images that come in parts; no more is kept of each than its features."""
        features, done = np.empty((count, self.network.width), np.float32), 0
        for images in in_batches(parts, lambda shape: self.batch):
            if images.shape[-1] not in (1, 3):
                raise DataError(
                    f"images have {images.shape[-1]} channels, and {self.network.title} takes 3, or 1 as grey; give "
                    "pictures of either kind."
                )
            padded = images[np.resize(np.arange(len(images)), self.batch)]
            seen = self._network(self._params, self._prepared(padded))
            features[done : done + len(images)] = np.asarray(seen)[: len(images)]
            done += len(images)
        if done != count:
            raise ValueError(f"the parts hold {done} images, not {count}.")
        if not np.isfinite(features).all():
            raise DivergedError(f"{self.network.path} gives features that are not finite; its weights are damaged.")
        return features

    @functools.cached_property
    def _params(self) -> Any:
        """The parameters on the device."""
        return jax.device_put(self.network.params)

    @functools.cached_property
    def _network(self) -> Any:
        """One program for every data set. Products are of float32 also where a device would choose fewer bits."""
        return jax.jit(_in_full(self.network.body))

    @functools.cached_property
    def _prepared(self) -> Any:
        """A program for each size of image."""

        def prepared(images: Any) -> Any:
            levels = images.astype(np.float32)
            levels = levels / 257 if images.dtype == np.uint16 else levels
            return self.network.prepared(levels if images.shape[-1] == 3 else levels.repeat(3, -1))

        return jax.jit(prepared)


def open_space(features: str, preprocessing: str | None = None) -> NetworkSpace:
    """The space of a file of weights, or of a network that an installed package ships.

    Raises as `open_network` and `place_of` do.
    """
    return NetworkSpace(open_network(place_of(features), preprocessing))


def _in_full(body: Any) -> Any:
    def traced(params: Any, x: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return body(params, x)

    return traced
