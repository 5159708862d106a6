"""The data as the loop sees it: batches by number, and what a network must know of them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments import streams
from experiments.config.nodes import Denoising
from experiments.config.tree import Config
from experiments.data.lazy import VERSION
from experiments.data.pipeline import Batches, pipeline, read_ahead
from experiments.data.place import Place, place_of
from experiments.errors import DataError, UsageError, warn
from experiments.names import listed

if TYPE_CHECKING:
    from experiments.data.source import Source

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
    """SHA-256 of the training images and labels, as `Source.fingerprint` says."""
    class_counts: tuple[int, ...] | None = field(default=None, compare=False)
    """Training images of each class; None in checkpoints that were written before they were counted."""
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
        fingerprint, place, counts = value["fingerprint"], value.get("place"), value.get("class_counts")
        several = (list, tuple)
        sizes = isinstance(shape, several) and len(shape) in (1, 3)
        for what, fine in (
            ("event_shape", sizes and all(_is_count(n, 1) for n in shape)),
            ("num_classes", _is_count(classes, 0)),
            ("class_names", isinstance(names, several) and all(isinstance(name, str) for name in names)),
            ("fingerprint", isinstance(fingerprint, str)),
            ("class_counts", counts is None or (isinstance(counts, several) and all(_is_count(n, 0) for n in counts))),
            ("place", place is None or (isinstance(place, dict) and all(map(_is_text, map(place.get, _OF_PLACE))))),
        ):
            if not fine:
                raise ValueError(f"{what} is {value[what]!r}")
        known = None if place is None else Place(*map(place.get, _OF_PLACE))
        return Facts(tuple(shape), classes, tuple(names), fingerprint, None if counts is None else tuple(counts), known)


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
        return self._together(self.batches[step], self.others[step])

    @contextmanager
    def read_ahead(self, first: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """As `pipeline.read_ahead` gives them."""
        with read_ahead(self.batches, first) as own, read_ahead(self.others, first) as others:
            yield map(self._together, own, others)

    def _together(self, batch: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**batch, REFERENCE: other["image"]}


@dataclass(frozen=True)
class RunData:
    """The data of a run: its batches, and those on which its held-out loss is measured."""

    facts: Facts
    batches: Batches
    held_out: Sequence[dict[str, np.ndarray]] = ()
    """This process's shares of the batches for the held-out loss."""
    summary: str = ""
    """What was read, in a line."""
    warnings: tuple[str, ...] = ()
    """What seems not to be meant, in a line each."""
    parts: tuple[Source, Source | None] | None = None
    """The training and the held-out part, for what is measured on them; None where the batches are all there is."""
    lazy: bool = False
    """Whether images are decoded as they are used."""

    def __repr__(self) -> str:
        return f"RunData({self.facts}, {len(self.held_out)} held-out batches)"

    @contextmanager
    def from_step(self, first: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """The batches from step `first` on; lazy ones are decoded ahead of their use."""
        if not self.lazy:
            yield (self.batches[step] for step in itertools.count(first))
        elif isinstance(self.batches, _WithReference):
            with self.batches.read_ahead(first) as batches:
                yield batches
        else:
            with read_ahead(self.batches, first) as batches:
                yield batches


def open_data(config: Config, uri: str | None = None) -> RunData:
    """The data of `config`: its training part as batches, its held-out part as a few fixed ones.

    They are at `uri`, and unless that is given where `config` says.

    Raises DataError for a source that cannot be read, UsageError for a conditional run on data without classes.
    """
    from experiments.data import divided
    from experiments.data.summary import summary, warnings

    source = config.data if uri is None else replace(config.data, source=uri)
    training, held_out = divided(source)
    if config.conditional:
        _require_classes(training, held_out)
    seed, batch_size, counts = config.training.seed, config.training.batch_size, training.class_counts
    facts = Facts(
        training.event_shape,
        training.num_classes,
        training.class_names,
        training.fingerprint,
        counts,
        place_of(source.source),
    )
    said: dict[str, Any] = {
        "summary": summary(training, held_out),
        "warnings": tuple(warnings(training, held_out)),
        "parts": (training, held_out),
        "lazy": training.lazy is not None,
    }

    def batches(part: Source, flip: bool) -> Batches:
        place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        return pipeline(part, seed=seed, batch_size=batch_size, flip=flip, **place)

    stream = batches(training, config.data.flip)
    if isinstance(config.objective, Denoising) and config.objective.reference:
        others = {"seed": seed + streams.REFERENCE, "batch_size": config.objective.reference, "flip": config.data.flip}
        stream = _WithReference(stream, pipeline(training, **others))
    if held_out is None:
        return RunData(facts, stream, **said)
    fixed, count = batches(held_out, False), min(max(1, len(held_out) // batch_size), _HELD_OUT_BATCHES)
    return RunData(facts, stream, [fixed[i] for i in range(count)], **said)


def _require_classes(training: Source, held_out: Source | None) -> None:
    """Raise UsageError unless a network can be conditioned on the classes of the data."""
    counts, name = training.class_counts, training.name
    if not counts:
        raise UsageError(
            f"--conditional needs classes, and {name} has none{training.hint}; label the images, or use "
            "--no-conditional."
        )
    if len(counts) == 1:
        raise UsageError(
            f"--conditional needs two classes or more, and {name} has the class {listed(training.class_names)} alone; "
            "use --no-conditional, or give the folder in which the classes are."
        )
    drawn = () if held_out is None else held_out.class_counts
    if max(counts) == 1 and any(drawn) and not any(map(min, counts, drawn)):
        raise UsageError(
            f"each class of {name} has a single image, so that none can be held out; give --data.held-out 0, or "
            "--no-conditional."
        )


def tell(data: RunData, quiet: bool) -> None:
    """Print on standard error what was read, unless `quiet`, and what seems not to be meant; process 0 does."""
    if jax.process_index() == 0:
        if data.summary and not quiet:
            print(data.summary, file=sys.stderr, flush=True)
        for line in data.warnings:
            warn(line)


def require_same_data(before: Facts, now: Facts) -> None:
    """Raise DataError unless a run goes on with the data that it began with."""
    if before != now:
        if before.fingerprint and before.fingerprint.startswith(VERSION) != now.fingerprint.startswith(VERSION):
            lazily = before.fingerprint.startswith(VERSION)
            raise DataError(
                f"this run decodes its images {'as they are used' if lazily else 'into memory'}, and now they would be "
                f"decoded {'into memory' if lazily else 'as they are used'}; give --data.loading "
                f"{'lazy' if lazily else 'memory'}."
            )
        what = "images or labels" if replace(before, fingerprint=now.fingerprint) == now else "shape or classes"
        raise DataError(
            f"the {what} of --data.source are not those that this run was trained on; restore them, or train anew in "
            "another --outdir."
        )
