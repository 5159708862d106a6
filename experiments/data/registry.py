"""Data sources by the scheme of their URI; a new one is a module of that name in `sources/` and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.data.config import DataConfig
from experiments.data.inplace import NotInPlaceError
from experiments.data.records import is_record_file
from experiments.data.source import Source, split
from experiments.data.unpack import unpacking
from experiments.errors import DataError, ExhaustedError, UsageError, did_you_mean, reason, refuse

Reader = Callable[[str, DataConfig], Source]
"""From what follows the colon of a URI to the data set."""


@dataclass(frozen=True)
class Kind:
    """How a source is written and read."""

    form: str
    """The URI, such as idx:DIR."""
    summary: str
    """What it holds, for the help text."""
    reader: Reader | None = None
    """How it is read; by `read` of the module in `sources/` that has the scheme's name unless given."""

    @property
    def scheme(self) -> str:
        """What the URI starts with."""
        return self.form.partition(":")[0]

    def read(self, where: str, config: DataConfig) -> Source:
        """The data set at `where`, what follows the colon."""
        reader = self.reader or importlib.import_module(f"experiments.data.sources.{self.scheme}").read
        return reader(where, config)


SOURCES: dict[str, Kind] = {
    kind.scheme: kind
    for kind in (
        Kind("digits", "1,797 handwritten digits of 8×8 pixels, from scikit-learn"),
        Kind("plane:NAME", "50,000 points in the plane: checkerboard, moons, spirals or gaussians"),
        Kind("idx:DIR", "the IDX files of MNIST and its relatives, gzipped or not"),
        Kind("folder:DIR", "pictures; sub-folders are classes"),
        Kind("zip:FILE", "pictures in a zip; sub-folders are classes, or dataset.json labels them"),
        Kind("npz:FILE", "arrays images and labels, x and y, x_train …, arr_0 …"),
        Kind("records:FILE", "what `scorefield data prepare` has written, read from the disk"),
        Kind("hf:NAME", "a Hugging Face data set by name or path (needs scorefield[hf])"),
    )
}
"""Scheme to kind."""
_OF_PICTURES = ("digits", "idx", "folder", "zip", "hf")
_IN_FILES = ("folder", "zip", "hf")
"""Sources of pictures in files, any of which can be read one by one."""
_IN_MEMORY = ("digits", "plane")
"""Sources that are small, and never lazy."""


NO_DATA = "none"
"""The source of a run that has no data, such as one that was imported."""


def open_source(source: str | DataConfig = "digits", **options: Any) -> Source:
    """The data set at a URI of one of the forms in `SOURCES`, decoded into memory; `options` are fields of DataConfig.

    Raises DataError for whatever is wrong with the data, UsageError for options that DataConfig refuses.
    """
    config = DataConfig(source=source, **options) if isinstance(source, str) else replace(source, **options)
    refuse(config.refusals())
    if config.source == NO_DATA:
        raise DataError("this run was imported, and no data came with it; give theirs by --data URI.")
    scheme, _, where = config.source.partition(":")
    kind = SOURCES.get(scheme)
    if kind is None:
        raise DataError(f"{config.source!r} is no data source{_suggestion(config.source)}.")
    if ":" in kind.form and not where:
        raise DataError(f"{config.source!r} does not say where; write {kind.form}.")
    if config.label_column is not None and kind.reader is None and scheme != "hf":
        raise UsageError(f"--data.label-column goes with hf:NAME, and {config.source} has no columns; leave it out.")
    if config.channels not in (None, 1, 3) and kind.reader is None and scheme in _OF_PICTURES:
        raise UsageError(f"--data.channels {config.channels} goes with arrays, npz:FILE; pictures have 1 or 3.")
    if config.loading == "lazy" and kind.reader is None and scheme in _IN_MEMORY:
        raise UsageError(f"--data.loading lazy goes with files, and {scheme} is always in memory; leave it out.")
    try:
        return _of_depth(replace(kind.read(where, config), name=config.source), config)
    except OSError as error:
        raise DataError(
            f"{error.filename or config.source} cannot be read ({reason(error)}); check that it may be read."
        ) from None
    except (UnicodeError, RecursionError) as error:  # of names that are no text, and of nests without end
        raise DataError(f"{config.source} cannot be read ({reason(error)}); restore it, or write it anew.") from None
    except MemoryError:
        raise ExhaustedError(f"{config.source} does not fit into memory; choose a smaller --data.size.") from None


def one_by_one(config: DataConfig) -> DataConfig:
    """`config`, by which pictures in files are decoded when they are asked for, and other data are as they were."""
    return replace(config, loading="lazy") if config.source.partition(":")[0] in _IN_FILES else config


def open_in_passing(config: DataConfig, folder: Path) -> Source:
    """The data set in as little memory as it can be read in, for one who goes through it once.

    Arrays that are compressed and above `config.memory_gib` are unpacked on the disk of `folder`. Raises as
    `open_source` does, and UsageError where that disk has not the room for them.
    """
    if config.source.partition(":")[0] not in _IN_MEMORY:
        try:
            return open_source(config, loading="lazy")
        except NotInPlaceError:
            pass
    with unpacking(folder):
        return open_source(config, loading="auto")


def _of_depth(source: Source, config: DataConfig) -> Source:
    """`source`, whose images have the bits that are asked for; a reader of a plugin may not know of them."""
    found = 8 * source.images.dtype.itemsize
    if not source.of_points and found != config.bits:
        raise DataError(f"{source.name} gives images of {found} bits; give --data.bits {found}.")
    return source


def divided(config: DataConfig) -> tuple[Source, Source | None]:
    """(Training part, held-out part) of the data of a run: what every command means by them.

    Raises as `open_source` and `split` do.
    """
    return split(open_source(config), config.held_out, config.seed, config.rules)


def _suggestion(uri: str) -> str:
    """What the person may have meant: the path of something that is there, or a scheme spelt otherwise."""
    path, forms = Path(uri).expanduser(), ", ".join(kind.form for kind in SOURCES.values())
    if path.is_dir():
        return f"; write {'idx' if any(path.glob('*-idx3-ubyte*')) else 'folder'}:{uri}"
    if path.is_file() and path.suffix.lower() in (".zip", ".npz"):
        return f"; write {path.suffix.lower()[1:]}:{uri}"
    if is_record_file(path):
        return f"; write records:{uri}"
    return f"{did_you_mean(uri.partition(':')[0], SOURCES)}; the forms are {forms}"
