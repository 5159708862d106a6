"""What a training would read of a data set, and what not and why: of every picture, and not up to the first bad one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.data.config import DataConfig
from experiments.data.decode import read_header, traits
from experiments.data.lazy import View
from experiments.data.pictures import LazyPictures, SizesError
from experiments.data.registry import one_by_one, open_source
from experiments.data.shapes import in_threads, require_memory
from experiments.data.source import Source, split
from experiments.data.summary import warnings
from experiments.errors import DataError, PictureError, UsageError
from experiments.progress import tracked

_ANY_SIZE = 64
"""To which pictures of different sizes are brought, so that the rest can be looked at."""

_AT_ONCE = 256
_HOW = {"center": "cut to the middle", "none": "squeezed", "pad": "padded"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found."""

    source: str
    images: int = 0
    """Of training and held out together."""
    shape: tuple[int, ...] = ()
    """(height, width, channels); empty where pictures have several sizes, and none is given to bring them to."""
    classes: dict[str, int]
    held_out: int = 0
    passed_over: tuple[str, ...] = ()
    converted: dict[str, int]
    """How many pictures each thing is done to."""
    refused: tuple[str, ...] = ()
    """Each picture that cannot be read, and whatever else a training would refuse the data for."""
    left_out: tuple[str, ...] = ()
    """Each picture that cannot be read, where `on_bad` says that such are left out."""
    skippable: bool = False
    """Whether all that is refused are pictures that `on_bad` "skip" would leave out."""
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a training would take the data."""
        return not self.refused


def check(config: DataConfig) -> Report:
    """Open the data of `config` as a training does, decoding every picture once. Raises UsageError for bad options."""
    asked, config = config, one_by_one(config)
    source, errors, opened = _opened(config)
    refused = [str(error) for error in errors]
    if source is None or opened is None:
        return Report(source=config.source, classes={}, converted={}, refused=tuple(refused))
    parts = [source] if source.held_out is None else [source, source.held_out]
    bad = tuple(dict.fromkeys(sentence for part in parts for sentence in part.bad))
    if bad:  # each of them is named by itself
        refused = [str(error) for error in errors if not isinstance(error, PictureError)]
    damaged = _damaged(parts)
    refused += [*damaged, *(() if asked == config else _too_large(parts, asked))]
    converted = sum((_converted(part, config) for part in parts), Counter[str]())
    try:
        training, held_out = split(source, opened.held_out, opened.seed, opened.rules)
    except UsageError as error:
        training, held_out, refused = source, None, [*refused, str(error)]
    counts = Counter[str]()
    for part in (training, held_out):
        if part is not None:
            counts.update(dict(zip(part.class_names, part.class_counts, strict=False)))
    skipped = config.on_bad == "skip"
    return Report(
        source=config.source,
        images=len(training) + (0 if held_out is None else len(held_out)),
        shape=source.event_shape if opened.size == config.size else (),
        classes={name: counts[name] for name in training.class_names},
        held_out=0 if held_out is None else len(held_out),
        passed_over=tuple(note for note in source.notes if skipped or " left out " not in note),
        converted=dict(converted.most_common()),
        refused=(*refused, *(() if skipped else bad)),
        left_out=bad if skipped else (),
        skippable=bool(bad) and not skipped and not refused,
        warnings=() if damaged else tuple(warnings(training, held_out)),
    )


def _opened(config: DataConfig) -> tuple[Source | None, list[DataError], DataConfig | None]:
    """(The data set without its bad pictures, and in some size if they have several; what a training would say; how it
    was opened).
    """
    refused: list[DataError] = []
    while True:
        try:
            return open_source(config), refused, config
        except DataError as error:
            if str(error) not in map(str, refused):
                refused.append(error)
            if isinstance(error, PictureError) and config.on_bad == "refuse":
                config = replace(config, on_bad="skip")
            elif isinstance(error, SizesError) and config.size is None:
                config = replace(config, size=_ANY_SIZE)
            else:
                return None, refused, None


def _damaged(parts: list[Source]) -> list[str]:
    """What is said of the first image that cannot be read, in data that opening them has not read whole."""
    try:
        for part in parts:
            lazy = part.lazy
            images = lazy.images if isinstance(lazy, View) else lazy
            if lazy is not None and not isinstance(images, LazyPictures):
                for start in tracked(range(0, len(lazy), _AT_ONCE), f"images, {_AT_ONCE} at a time", compiles=False):
                    lazy[start : start + _AT_ONCE]
    except DataError as error:
        return [str(error)]
    return []


def _too_large(parts: list[Source], asked: DataConfig) -> list[str]:
    """What a training would say of pictures that are to be in memory and are too many."""
    try:
        for part in parts if asked.loading == "memory" else ():
            require_memory(part.images.shape, asked, part.name)
    except DataError as error:
        return [str(error)]
    return []


def _converted(source: Source, config: DataConfig) -> Counter[str]:
    """How many pictures are changed how before they are images of the data set."""
    images = source.lazy.images if isinstance(source.lazy, View) else source.lazy
    if not isinstance(images, LazyPictures):
        return Counter()
    files, (_, height, width, channels) = images.files, images.shape

    def look(i: int) -> tuple[str, ...]:
        header = read_header(lambda: files.open(i), files.name(i), config)
        return (
            *traits(lambda: files.open(i), files.name(i), config),
            *_resized(header.height, header.width, height, width, config),
            *(("grey, made RGB",) if header.grey and channels == 3 else ()),
            *(("coloured, made grey",) if not header.grey and channels == 1 else ()),
        )

    counts = Counter[str]()
    for start in tracked(range(0, len(files), _AT_ONCE), f"headers, {_AT_ONCE} at a time", compiles=False):
        rows = range(start, min(start + _AT_ONCE, len(files)))
        for whats in in_threads(lambda k, rows=rows: look(rows[k]), len(rows), block=16):
            counts.update(whats)
    return counts


def _resized(height: int, width: int, to_height: int, to_width: int, config: DataConfig) -> Iterator[str]:
    if config.size is None:
        return
    if height * to_width != width * to_height:
        yield f"of other proportions ({_HOW[config.crop]})"
    sides = height / to_height, width / to_width
    side = max(sides) if config.crop == "pad" else min(sides)
    if side != 1:
        yield "enlarged" if side < 1 else "reduced"
