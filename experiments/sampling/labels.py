"""Which class each seed has: a function of the seed alone, so that no seed's image depends on the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from diffusion.pytree import short_repr
from experiments import streams
from experiments.data.randomness import words
from experiments.errors import UsageError
from experiments.names import listed
from experiments.runs.classes import NEEDS_CONDITIONAL, class_name, class_names, class_numbers
from experiments.runs.load import run_data
from experiments.runs.model import Model

WORDS = ("all", "random", "none")
"""What `--class` takes besides classes; where a class has the name itself, the word is :all, :random or :none."""


@dataclass(frozen=True)
class Classes:
    """The classes of seeds: one for all, several in turn, or drawn by how frequent they are."""

    numbers: tuple[int, ...]
    """Seed s has numbers[s mod their count], unless they are drawn."""
    word: str | None = None
    """The word that stands for them, None where they were named."""
    counts: tuple[int, ...] = ()
    """Training images of each class of the model, where the classes are drawn as frequent as these."""

    __repr__ = short_repr

    def of(self, seeds: Iterable[int]) -> Int32[np.ndarray, " n"]:
        """The class of each seed."""
        known = list(seeds)
        if not self.counts:
            return np.asarray(self.numbers, np.int32)[np.asarray(known) % len(self.numbers)]
        upto = np.cumsum(self.counts)
        ranks = [int(words(seed, streams.CLASS, count=1)[0] % np.uint64(upto[-1])) for seed in known]
        return np.searchsorted(upto, ranks, side="right").astype(np.int32)

    def count(self, seeds: Sequence[int]) -> int:
        """How many different classes the seeds have."""
        seen: set[int] = set()
        for start in range(0, len(seeds), 4096):
            seen.update(self.of(seeds[start : start + 4096]).tolist())
            if len(seen) == len(self.numbers):
                break
        return len(seen)

    def report(self, model: Model) -> dict[str, Any]:
        """What was asked for, as JSON values: the word, or the classes, and the name of a single one."""
        if self.word is None and len(self.numbers) == 1:
            return {"class": self.numbers[0], "class_name": class_name(model, self.numbers[0])}
        return {"class": self.word or list(self.numbers)}


def choose_classes(model: Model, text: str | None = None, name: str = "--class") -> Classes | None:
    """The classes that a text means; None for no class, which is all that there is without classes.

    "all", which is meant unless something is given, are the classes with training images in turn; "random" are these
    as frequent as in training; "none" is no class. A class whose name is the text, or else whose number, comes before
    these words, for which a colon in front is optional otherwise. "cat,dog" and "0-9" are several in turn.
    Raises UsageError, in which `name` is what was given, for a class that the model does not know or has seen no image
    of, one that is given twice, and for no class of a model that was always told one.
    """
    if not model.num_classes:
        if text in (None, "none"):
            return None
        raise UsageError(NEEDS_CONDITIONAL)
    names = class_names(model)
    word = "all" if text is None else "" if text in names else text.removeprefix(":")
    if word == "none":
        require_no_class(model, name)
        return None
    if word == "all":
        return Classes(model.trained_classes, word)
    if word == "random":
        return Classes(model.trained_classes, word, model.facts.class_counts or run_data(model)[0].class_counts)
    assert text is not None
    numbers = [
        int(class_numbers(model, part, name)) for part in ([text] if text in names else _parts(text, names, name))
    ]
    twice = next((number for i, number in enumerate(numbers) if number in numbers[:i]), None)
    if twice is not None:
        raise UsageError(f"{name} {listed([text])} names the class {listed([names[twice]])} twice; give it once.")
    return Classes(tuple(numbers))


def require_no_class(model: Model, name: str = "--class") -> None:
    """Raise UsageError for a model of classes that was never trained without one."""
    if model.num_classes and model.config.label_dropout == 0:
        raise UsageError(
            f"{name} is missing, and this run's network was always told a class; give one, such as {name} 0."
        )


def _parts(text: str, names: Sequence[str], flag: str) -> Iterable[str | int]:
    """The classes of "cat,dog,3-5", one by one.

    A range is of names where all of these are numbers, or it begins and ends with one, and else of numbers.
    """
    for part in text.split(","):
        part = part.strip()
        ends = None if part in names else re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", part)
        if ends is None:
            yield part
            continue
        low, high = map(int, ends.groups())
        if high < low:
            raise UsageError(f"{flag} {part} ends before it begins; write {high}-{low}.")
        if all(name.isdecimal() for name in names) or (ends[1] in names and ends[2] in names):
            yield from [name for name in names if name.isdecimal() and low <= int(name) <= high] or [part]
        else:
            yield from range(low, high + 1)
