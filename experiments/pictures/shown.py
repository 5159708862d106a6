"""Images of 16 bits and of any number of channels as pictures that a PNG can hold.

A grid is for looking at: it has 8 bits, v/257 rounded. A single picture keeps 16 bits of grey; of colour Pillow writes
no more than 8. Four channels of 8 bits are RGBA; others than 1 or 3 lie side by side in grey. Arrays (npz) hold what
there is.
"""

from __future__ import annotations

import numpy as np

from experiments.data.depth import narrowed
from experiments.data.source import Pixels
from experiments.errors import UsageError


def side_by_side(images: Pixels) -> Pixels:
    """Grey, RGB and RGBA as they are; of others the channels from left to right, (n, height, channels·width, 1)."""
    n, height, width, channels = images.shape
    if channels in (1, 3) or (channels == 4 and images.dtype == np.uint8):
        return images
    return np.moveaxis(images, -1, 2).reshape(n, height, channels * width, 1)


def for_grid(images: Pixels) -> Pixels:
    """Images as uint8, grey, RGB or RGBA."""
    images = side_by_side(images)
    return narrowed(images) if images.dtype == np.uint16 else images


def require_png(event_shape: tuple[int, ...], bits: int) -> None:
    """Raise UsageError for images of which no picture holds all bits."""
    if bits == 16 and event_shape[-1] == 3:
        raise UsageError("--format png holds 8 bits of colour, and this run's images have 16; give --format npz.")
