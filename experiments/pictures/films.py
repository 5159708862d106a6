"""Animations (GIF) with their provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import Pixels
from experiments.errors import DataError
from experiments.files import replacing
from experiments.pictures.shown import for_grid

SHORTEST = 240
"""Pixels of the longer side at least."""


def save_gif(path: Path, images: Pixels, provenance: Mapping[str, Any], milliseconds: int = 100) -> None:
    """Images (n, ...) one after the other and back again, for ever, with the provenance as a comment of JSON.

    Pixels become squares of equal pixels, so that the longer side has 240 or more. Raises UsageError when the file
    cannot be written.
    """
    from PIL import Image

    images = for_grid(images)
    scale = max(1, -(-SHORTEST // max(images.shape[1:3])))
    there_and_back = [*images, *images[-2:0:-1]]
    frames = [
        Image.fromarray(np.squeeze(image.repeat(scale, axis=0).repeat(scale, axis=1), axis=-1))
        if image.shape[-1] == 1
        else Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1)).convert("RGB")
        for image in there_and_back
    ]
    with replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=milliseconds,
            loop=0,
            comment=json.dumps(dict(provenance)).encode(),
        )


def read_gif_provenance(path: Path) -> dict[str, Any]:
    """What `save_gif` wrote beside the frames. Raises DataError where there is no such thing."""
    from PIL import Image

    try:
        with open(path, "rb") as file, Image.open(file, formats=["GIF"]) as picture:
            said = json.loads(picture.info.get("comment", b""))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{path} carries no readable provenance ({error}); give a file that scorefield wrote."
        ) from None
    if not isinstance(said, dict):
        raise DataError(f"{path} carries no readable provenance; give a file that scorefield wrote.")
    return said
