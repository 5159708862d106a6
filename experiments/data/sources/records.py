"""Images that `scorefield data prepare` has written, read from the disk at random, each when it is asked for."""

from __future__ import annotations

import numpy as np

from experiments.data.config import DataConfig
from experiments.data.lazy import View
from experiments.data.records import RecordImages
from experiments.data.shapes import require_memory
from experiments.data.source import Source
from experiments.data.sources.paths import file_at
from experiments.errors import DataError


def read(where: str, config: DataConfig) -> Source:
    """The images of the file; its last ones are held out where the data set that it was made from has a test split.

    They are read when they are asked for, however few they are, unless `config.loading` wants them in memory.
    Nothing is resized any more. Raises DataError where `config` asks for another size, or other channels or bits than
    those of the file.
    """
    path = file_at(where, "records")
    images = RecordImages(path)
    facts, labels = images.facts, images.labels()
    *size, channels = facts.shape
    said = f"{'×'.join(map(str, facts.shape))} and {facts.bits} bits"
    for flag, wanted, fits, remedy in (
        ("size", config.size, config.shape in (None, tuple(size)), "leave that out"),
        ("channels", config.channels, config.channels in (None, channels), "leave that out"),
        ("bits", config.bits, config.bits == facts.bits, f"give --data.bits {facts.bits}"),
    ):
        if not fits:
            raise DataError(
                f"{path} holds images of {said}, and --data.{flag} is {wanted}; {remedy}, or write another file with "
                f"`scorefield data prepare --{flag} {wanted}`."
            )
    if config.loading == "memory":
        require_memory(images.shape, config, str(path))

    def part(first: int, last: int, held_out: Source | None = None) -> Source:
        lazy = images if last - first == len(images) else View(images, np.arange(first, last))
        return Source(
            name=where,
            images=lazy[:] if config.loading == "memory" else lazy,
            labels=None if labels is None else labels[first:last],
            class_names=facts.class_names,
            held_out=held_out,
            notes=facts.notes if first == 0 else (),
            hint=facts.hint if first == 0 else "",
        )

    count = facts.images - facts.held_out
    return part(0, count, part(count, facts.images) if facts.held_out else None)
