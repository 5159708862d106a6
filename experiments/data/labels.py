"""Class labels as files hold them, converted to int32 or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from experiments.errors import DataError, reason

MAX_CLASSES = 65_536
"""More classes than any data set of images has; a larger label is a mistake, and would need a table of that size."""


def check_labels(labels: np.ndarray, count: int, where: str, classes: int = MAX_CLASSES) -> Int32[np.ndarray, "n"]:
    """`labels` (n,) or (n, 1) of any integer type, or of floats that are whole, as int32.

    Raises DataError naming `where` when they are not `count` whole numbers below `classes`.
    """
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == count:
        raise DataError(f"{where} has shape {labels.shape}; give one number per image, such as the argmax of one-hots.")
    if labels.ndim != 1 or len(labels) != count:
        raise DataError(f"{where} has shape {labels.shape} for {count} images; give one label per image.")
    if labels.dtype.kind not in "iufb" or not np.all(labels == np.floor(labels)):
        raise DataError(f"{where} holds {labels.dtype} labels that are not whole numbers; number the classes from 0.")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(f"{where} holds the label {wrong}; number the classes from 0 to at most {classes - 1}.")
    return labels.astype(np.int32)


def manifest_labels(
    text: bytes, names: Sequence[str], where: str, clean: Callable[[str], str] = str
) -> Int32[np.ndarray, "n"] | None:
    """The label of each name in a `dataset.json` {"labels": [["00000/img.png", 3], …]}, None if "labels" is null.

    The layout is that of the EDM data sets; `clean` makes of a name in the file one of `names`. Raises DataError naming
    `where` unless every image has one whole label and every label an image.
    """
    try:
        pairs = json.loads(text).get("labels")
        table = None if pairs is None else {clean(name): label for name, label in dict(pairs).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{where} is not of the form {{"labels": [["a.png", 0], …]}} or null ({reason(error)}); correct it.'
        ) from None
    if table is None or pairs is None:
        return None
    for name in names:
        if name not in table:
            raise DataError(f"{where} has no label for {name}; label every image, or give null for labels.")
    if len(pairs) != len(names):
        unknown = sorted(map(str, set(table) - set(names)))
        extra = f"such as {unknown[0]}" if unknown else "some twice"
        raise DataError(f"{where} has {len(pairs)} labels for {len(names)} images, {extra}; give one label per image.")
    for name in names:
        label = table[name]
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise DataError(f"{where} labels {name} with {label!r}; number the classes from 0 to {MAX_CLASSES - 1}.")
    return np.array([table[name] for name in names], np.int32)
