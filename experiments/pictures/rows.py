"""A contact sheet with a row for each class, and the classes' names at its left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from experiments.data.source import Pixels
from experiments.pictures.files import SEPARATOR, contact_sheet
from experiments.pictures.shown import for_grid
from experiments.runs.classes import class_names
from experiments.runs.model import Model

MOST = 20
"""Classes that have a row each; of more the images lie in the order of their seeds, without names."""
_INK, _LONGEST = 230, 24  # grey of the names, and their characters


def sheet(
    images: Pixels, labels: Int[np.ndarray, " n"] | None, names: Sequence[str], pad: int = 8
) -> UInt8[np.ndarray, "rows cols channels"]:
    """The contact sheet of images of these classes: a row for each if there are 2 to 20, in the order of the classes.

    `names` are those of all classes, by number. Rows that are shorter than the longest end in grey. Without `labels`,
    and for one class or for more than 20, it is the plain sheet. Images become those of `for_grid`. Raises as
    `contact_sheet` does.
    """
    images = for_grid(images)
    kinds = np.unique(labels) if labels is not None else np.empty(0, int)
    if not 2 <= len(kinds) <= MOST:
        return contact_sheet(images, pad=pad)
    rows = [images[labels == kind] for kind in kinds]
    tiles = np.full((len(rows), max(map(len, rows)), *images.shape[1:]), SEPARATOR, np.uint8)
    if images.shape[-1] == 4:
        tiles[..., 3] = 255
    for tile, row in zip(tiles, rows, strict=True):
        tile[: len(row)] = row
    picture = contact_sheet(tiles.reshape(-1, *images.shape[1:]), tiles.shape[1], pad)
    margin = _names([(names[int(kind)], str(kind)) for kind in kinds], picture.shape[0], pad)
    channels = np.repeat(margin[..., None], images.shape[-1], axis=-1)
    if images.shape[-1] == 4:
        channels[..., 3] = 255
    return np.concatenate([channels, picture], axis=1)


def facts(model: Model, labels: Int[np.ndarray, " n"] | None) -> dict[str, object]:
    """The classes of the images in a picture, in the order of the seeds, and their names, as JSON values."""
    if labels is None:
        return {}
    names = class_names(model)
    return {"labels": labels.tolist(), "class_names": {str(kind): names[kind] for kind in np.unique(labels).tolist()}}


def _names(names: Sequence[tuple[str, str]], height: int, pad: int) -> UInt8[np.ndarray, "height width"]:
    """A margin of grey with a name for each row, or the second of a pair where the font has not all of its letters."""
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import Image, ImageDraw, ImageFont

    file = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    letters = FT2Font(file).get_charmap().keys()
    step = (height - pad) / len(names)
    font = ImageFont.truetype(file, int(min(max(step / 4, 11), 22)))
    shown = [name if name.strip() and letters >= set(map(ord, name)) else other for name, other in names]
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in shown]
    width = pad + int(np.ceil(max(font.getlength(name) for name in shown)))
    picture = Image.new("L", (width, height), SEPARATOR)
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(shown):
        draw.text((width, pad / 2 + (row + 0.5) * step), name, fill=_INK, font=font, anchor="rm")
    return np.asarray(picture)
