"""Classes of a model as people say them, by name or by number, or refused in a sentence that lists those there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from experiments.errors import UsageError, did_you_mean
from experiments.names import listed
from experiments.runs.model import Model

NEEDS_CONDITIONAL = "--class goes with a conditional model, and the network of this run knows no classes."


def class_numbers(model: Model, given: Any, name: str = "--class") -> Int32[np.ndarray, "..."]:
    """The numbers of classes that are given by number, by name, or as an array or list of either; same shape.

    A text that is a class's name is that class, and else a number in range, unless all names are numbers: then the
    name alone counts. In runs of `--data.rules` 1 a number in range always is the class's number. Raises UsageError,
    in which `name` is what was given, for a class that the model does not know or has seen no image of, and for what
    is neither a text nor a whole number. Numbers for a model without classes are left for `make_denoiser` to refuse.
    """
    values = np.asarray(given)
    if values.dtype.kind == "U":
        numbers = [_number(model, str(text), name) for text in values.ravel()]
        values = np.asarray(numbers, np.int64).reshape(values.shape)
    if values.dtype.kind not in "iu":
        raise UsageError(f"{name} is {given!r}; give whole numbers, or names of classes.")
    require_known(model, values, name)
    return values.astype(np.int32)


def require_known(model: Model, numbers: np.ndarray, name: str = "--class") -> None:
    """Raise UsageError, as `class_numbers` does, for a class that the model does not know or has seen no image of."""
    if not model.num_classes:
        return
    wrong = numbers[(numbers < 0) | (numbers >= model.num_classes)]
    if wrong.size:
        raise UsageError(f"{_said(name, wrong.flat[0])} does not exist; this model knows {choice(model)}.")
    unseen = numbers[~np.isin(numbers, model.trained_classes)]
    if unseen.size:
        called = class_name(model, int(unseen.flat[0]))
        raise UsageError(f"{_said(name, called)} had no training image; choose one of {choice(model)}.")


def class_names(model: Model) -> Sequence[str]:
    """The name of each class of the model; its number where the data have no names."""
    return model.facts.class_names or [str(i) for i in range(model.num_classes)]


def class_name(model: Model, number: int) -> str:
    """The name of a class of the model."""
    return class_names(model)[number]


def choice(model: Model) -> str:
    """The classes that can be sampled, in words."""
    names = [class_names(model)[number] for number in model.trained_classes]
    consecutive = len(names) > 2 and names == [str(i) for i in range(len(names))]
    return "the classes " + (f"0 to {len(names) - 1}" if consecutive else listed(names))


def _number(model: Model, text: str, name: str) -> int:
    if not model.num_classes:
        raise UsageError(NEEDS_CONDITIONAL)
    names, number = class_names(model), int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    in_range = 0 <= number < model.num_classes
    if in_range and model.config.data.rules == 1:
        return number
    if text in names:
        return names.index(text)
    if in_range and not all(each.isascii() and each.isdecimal() for each in names):
        return number
    near = "" if text.isdecimal() else did_you_mean(text[:100], [names[i] for i in model.trained_classes])
    raise UsageError(f"{_said(name, text)} does not exist{near}; this model knows {choice(model)}.")


def _said(name: str, value: Any) -> str:
    shown = listed([str(value)])
    return f"{name} {shown}" if name.startswith("--") else f"the class {shown} in {name}"
