"""What the commands of `scorefield data` take: a URI, and the options of `scorefield train --data.*`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro

from experiments.commands.options import parse
from experiments.data.config import DataConfig
from experiments.errors import UsageError, refuse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingArguments(DataConfig):
    """A data set and how it is read."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URI")] = ""
    """The data set, such as folder:photos; `scorefield train --help all` lists the forms."""
    flip: tyro.conf.SuppressFixed[tyro.conf.Fixed[bool]] = False
    """It is for training."""

    def config(self) -> DataConfig:
        """How the data set is read, as a training has it."""
        return DataConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(DataConfig)})


Arguments = TypeVar("Arguments", bound=ReadingArguments)


def read_arguments(cls: type[Arguments], argv: Sequence[str], prog: str, description: str) -> Arguments:
    """The arguments of a command; its options may be written as those of a training too, --data.size for --size.

    Raises UsageError for anything that cannot be read, and for values that no data set is read with.
    """
    words = [f"--{word[len('--data.') :]}" if word.startswith("--data.") else word for word in argv]
    arguments = parse(cls, words, prog, description)
    if not arguments.source:
        raise UsageError("no data set is named; give its URI first, such as folder:photos.")
    refuse((refused, sentence.replace("--data.", "--")) for refused, sentence in arguments.config().refusals())
    return arguments
