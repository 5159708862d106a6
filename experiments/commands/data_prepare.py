"""`scorefield data prepare`: a data set written as one file of records."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.commands.data_options import ReadingArguments, read_arguments
from experiments.data.prepare import prepare, require_new
from experiments.data.registry import open_in_passing
from experiments.data.summary import warnings
from experiments.errors import UsageError, warn
from experiments.memory import shown
from experiments.names import counted
from experiments.progress import reporting
from experiments.training.stopping import tell_written

DESCRIPTION = """\
Write a data set as one ArrayRecord file: resized once, with its labels, classes and test split, checksummed.

  scorefield data prepare folder:photos --size 64 --out photos.records
  scorefield train --preset photos64-edm-unet --data records:photos.records

The options are those of `scorefield train --data.*`. The same command again goes on where it was stopped. While it
works the parts that it has written lie in FILE.parts beside the file, and take as much room again.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareArguments(ReadingArguments):
    """The arguments of `scorefield data prepare`."""

    held_out: tyro.conf.SuppressFixed[tyro.conf.Fixed[float]] = 0.1
    """It is for training, and so are these."""
    seed: tyro.conf.SuppressFixed[tyro.conf.Fixed[int]] = 0
    loading: tyro.conf.SuppressFixed[tyro.conf.Fixed[Literal["auto", "memory", "lazy"]]] = "lazy"
    memory_gib: float = 4.0
    """Largest compressed array that is taken into memory, in GiB; a larger one is unpacked on the disk of --out first,
    and takes room there until the file is written."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write, such as photos.records; it must not be there yet."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress."""


def run(argv: list[str]) -> int:
    """Prepare a data set; returns the exit status."""
    arguments = read_arguments(PrepareArguments, argv, "scorefield data prepare", DESCRIPTION)
    if arguments.out is None:
        raise UsageError("--out is missing; give the file to write, such as --out photos.records.")
    out, config = arguments.out, arguments.config()
    require_new(out)
    tell_written(lambda count: f"the same command goes on with {out.name}" if count else "nothing was written")
    with reporting(quiet=arguments.quiet or arguments.json):
        source = open_in_passing(config, out.absolute().parent)
        for line in warnings(source, source.held_out):
            warn(line)
        facts = prepare(source, config, out)
    size, shape = out.stat().st_size, "×".join(map(str, facts.shape))
    if arguments.json:
        said = {"file": str(out), "bytes": size, "images": facts.images, "held_out": facts.held_out}
        said |= {"shape": facts.shape, "classes": facts.class_names, "fingerprint": facts.fingerprint}
        print(json.dumps({**said, "notes": facts.notes}))
    elif not arguments.quiet:
        for note in facts.notes:
            print(note, file=sys.stderr)
        held_out = f", {facts.held_out:,} of them held out" if facts.held_out else ""
        print(f"{counted(facts.images, 'image')} of {shape}{held_out}, {shown(size)}: records:{out}")
    return 0
