"""`scorefield sample --exported`: images or points from a file that `scorefield export` wrote, without its run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

from experiments.commands.options import parse
from experiments.commands.outcome import place, told
from experiments.commands.seeds import parse_seeds
from experiments.commands.spelling import flags_of
from experiments.errors import UsageError
from experiments.names import counted, flag_of
from experiments.progress import BATCHES, reporting, tracked
from experiments.sampling.seeds import Seeds

DESCRIPTION = """\
Draw images or points from a file that `scorefield export` wrote. Sampler, steps, grid, guidance, clipping and weights
are those of the file. The image of a seed is that of `scorefield sample` on the run.

  scorefield sample --exported FILE.zip --seeds 0-63
  scorefield sample --exported FILE.zip --seeds 0-63 --class 3 --outdir samples

A file for batches of one size draws that many at a time, and gives the same bits as `sample --batch` of that size on
the same platform; one for any batch gives the same up to rounding.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedArguments:
    """The arguments of `scorefield sample --exported`."""

    seeds: str = "0-63"
    """One seed for each image or point: 0-63, or 1,5,10-12."""
    label: str | None = None
    """Classes, by name or number: cat, 2, cat,dog or 0-9; all in turn, or random; --class is the same flag.
    [those that the file was exported with]"""
    batch: int | None = None
    """Images drawn at a time, where the file leaves that open. [64]"""
    outdir: Path | None = None
    """Folder to write to. [samples/NAME, named from what determines the samples]"""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images, one PNG for each image, or one array file."""
    json: bool = False
    """Print the result as JSON."""


def run(exported: str, argv: list[str]) -> int:
    """Sample a file; returns the exit status."""
    argv = [f"--label{word.removeprefix('--class')}" if word.split("=")[0] == "--class" else word for word in argv]
    _refuse_fixed(exported, argv)
    prog = "scorefield sample --exported FILE.zip"
    arguments = parse(ExportedArguments, argv, prog, DESCRIPTION, taken=("--class", "--exported"))
    if arguments.batch is not None and arguments.batch < 1:
        raise UsageError(f"--batch is {arguments.batch}; give at least 1.")
    return _sample(Path(exported).expanduser(), arguments, parse_seeds(arguments.seeds))


def _refuse_fixed(exported: str, argv: list[str]) -> None:
    """Raise UsageError for an option that the file has decided."""
    from experiments.commands.drawing import DrawingArguments

    own = flags_of(ExportedArguments)
    fixed = {flag for flag in flags_of(DrawingArguments) if flag not in own} | {"--sampler", "--kernel"}
    for word in argv:
        name = word.partition("=")[0]
        flag = f"--{flag_of(name[2:])}" if name.startswith("--") else name
        if flag in fixed or flag.startswith("--sampler."):
            raise UsageError(
                f"{flag} does not go with --exported: {exported} has it fixed; leave it out, or export another."
            )


def _sample(path: Path, arguments: ExportedArguments, seeds: Seeds) -> int:
    from experiments.exporting.sampler import read_sampler
    from experiments.pictures.output import output
    from experiments.pictures.request import Request
    from experiments.sampling.drawing import starts
    from experiments.sampling.throughput import Throughput
    from experiments.training.stopping import tell_written

    sampler = read_sampler(path)
    model, classes = sampler.model, sampler.chosen(arguments.label)
    if model.of_points and arguments.format != "npz":
        raise UsageError(f"{path} makes points, without the density that a picture of them shows; take --format npz.")
    provenance = {
        **sampler.provenance(),
        "seeds": arguments.seeds,
        **({"class": None} if classes is None else classes.report(model)),
    }
    written = output(Request(model, arguments.format, seeds, provenance, classes), arguments.outdir)
    batch = sampler.batch_of(arguments.batch, len(seeds))
    throughput = Throughput(batch)
    tell_written(written.told)
    batches = sampler.draw(seeds, batch=batch, label=classes, there=written.there)
    with reporting(quiet=arguments.json), written:
        for drawn in tracked(batches, BATCHES, len(starts(seeds, batch, written.there))):
            written.add(drawn.seeds, drawn.images, drawn.nfe)
            throughput.add(len(drawn.seeds))
        paths = written.finish()
    if arguments.json:
        report = {**provenance, "nfe": written.nfe, "files": [str(path) for path in paths]}
        print(json.dumps({**report, "already_there": len(written.there), **throughput.report()}))
    else:
        kinds = 0 if classes is None else classes.count(seeds)
        of = f" of {kinds} classes" if kinds > 1 else ""
        calls = f"{counted(written.nfe or 0, 'network call')} each"
        print(f"{counted(len(seeds), 'sample')}{of}, {calls}, {told(throughput, written.there)}: {place(paths)}")
    return 0
