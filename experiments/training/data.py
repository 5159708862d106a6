"""The data as the loop sees it: batches by number, and what a network must know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import jax
import numpy as np

from experiments import streams
from experiments.config.nodes import Denoising
from experiments.config.tree import Config
from experiments.data.pipeline import Batches, pipeline
from experiments.data.place import Place, place_of
from experiments.errors import DataError, UsageError

REFERENCE = "reference"
"""The part of a batch that every device has whole: images for the stable target."""
# Enough to tell checkpoints apart, few enough to cost no more than a handful of training steps.
_HELD_OUT_BATCHES = 16


@dataclass(frozen=True)
class Facts:
    """What a checkpoint records of its data, beside the configuration."""

    event_shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    """SHA-256 of the training images and labels."""
    place: Place | None = field(default=None, compare=False)
    """Where they were read; None where nobody has noted it."""

    def __repr__(self) -> str:
        shape, kinds = "×".join(map(str, self.event_shape)), f", {self.num_classes} classes" if self.num_classes else ""
        return f"Facts({shape}{kinds}, data {self.fingerprint[:8] or 'unknown'})"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Facts:
        """The inverse of `to_json`; other keys are ignored.

        Raises KeyError for one that is missing, ValueError for a value that is none of its kind.
        """
        shape, classes, names = value["event_shape"], value["num_classes"], value["class_names"]
        fingerprint, place, listed = value["fingerprint"], value.get("place"), (list, tuple)
        for what, fine in (
            ("event_shape", isinstance(shape, listed) and len(shape) in (1, 3) and all(_is_count(n, 1) for n in shape)),
            ("num_classes", _is_count(classes, 0)),
            ("class_names", isinstance(names, listed) and all(isinstance(name, str) for name in names)),
            ("fingerprint", isinstance(fingerprint, str)),
            ("place", place is None or (isinstance(place, dict) and all(map(_is_text, map(place.get, _OF_PLACE))))),
        ):
            if not fine:
                raise ValueError(f"{what} is {value[what]!r}")
        known = None if place is None else Place(*map(place.get, _OF_PLACE))
        return Facts(tuple(shape), classes, tuple(names), fingerprint, known)


_OF_PLACE = tuple(one.name for one in fields(Place))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def num_classes(config: Config, facts: Facts) -> int:
    """The number of classes that the network of `config` knows: that of the data, or 0 unless it is conditional."""
    return facts.num_classes if config.conditional else 0


@dataclass(frozen=True)
class _WithReference:
    """Batches with other images beside them, a pure function of the seed and the step as well."""

    batches: Batches
    others: Batches

    def __getitem__(self, step: int, /) -> dict[str, np.ndarray]:
        return {**self.batches[step], REFERENCE: self.others[step]["image"]}


@dataclass(frozen=True)
class RunData:
    """The data of a run: its batches, and those on which its held-out loss is measured."""

    facts: Facts
    batches: Batches
    held_out: Sequence[dict[str, np.ndarray]] = ()
    """This process's shares of the batches for the held-out loss."""

    def __repr__(self) -> str:
        return f"RunData({self.facts}, {len(self.held_out)} held-out batches)"


def open_data(config: Config, uri: str | None = None) -> RunData:
    """The data of `config`: its training part as batches, its held-out part as a few fixed ones.

    They are at `uri`, and unless that is given where `config` says.

    Raises DataError for a source that cannot be read, UsageError for a conditional run on data without classes.
    """
    from experiments.data import open_source
    from experiments.data.source import Source, split

    source = open_source(config.data if uri is None else replace(config.data, source=uri))
    if config.conditional and source.num_classes == 0:
        raise UsageError(
            f"--conditional needs classes, and {source.name} has none; use --no-conditional, or label the images."
        )
    seed, batch_size = config.training.seed, config.training.batch_size
    training, held_out = split(source, config.data.held_out, config.data.seed)
    place = place_of(uri or config.data.source)
    facts = Facts(training.event_shape, training.num_classes, training.class_names, training.fingerprint, place)

    def batches(part: Source, flip: bool) -> Batches:
        place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        return pipeline(part, seed=seed, batch_size=batch_size, flip=flip, **place)

    stream = batches(training, config.data.flip)
    if isinstance(config.objective, Denoising) and config.objective.reference:
        others = {"seed": seed + streams.REFERENCE, "batch_size": config.objective.reference, "flip": config.data.flip}
        stream = _WithReference(stream, pipeline(training, **others))
    if held_out is None:
        return RunData(facts, stream)
    fixed, count = batches(held_out, False), min(max(1, len(held_out) // batch_size), _HELD_OUT_BATCHES)
    return RunData(facts, stream, [fixed[i] for i in range(count)])


def require_same_data(before: Facts, now: Facts) -> None:
    """Raise DataError unless a run goes on with the data that it began with."""
    if before != now:
        what = "images or labels" if replace(before, fingerprint=now.fingerprint) == now else "shape or classes"
        raise DataError(
            f"the {what} of --data.source are not those that this run was trained on; restore them, or train anew in "
            "another --outdir."
        )
