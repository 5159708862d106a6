"""`scorefield sample`: images or points from a trained model, one for each seed, with their provenance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.commands.arguments import catalogue, read_arguments
from experiments.commands.drawing import DrawingArguments
from experiments.commands.options import take_flag
from experiments.commands.outcome import place, told
from experiments.commands.processes import share_of
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError
from experiments.names import counted
from experiments.pictures.output import Output
from experiments.pictures.parts import shared_output
from experiments.pictures.request import Request
from experiments.progress import BATCHES, reporting, tracked
from experiments.runs.counted import with_counts
from experiments.runs.load import load_run
from experiments.runs.provenance import origin
from experiments.sampling.drawing import draw, starts
from experiments.sampling.guidance import beyond_defaults
from experiments.sampling.seeds import Seeds
from experiments.sampling.share import Share
from experiments.sampling.throughput import Throughput
from experiments.training.stopping import tell_written

DESCRIPTION = """\
Draw images or points from a trained model. The image of a seed is the same in every batch.

  scorefield sample --run runs/digits-ddpm --seeds 0-63
  scorefield sample --run runs/mnist --sampler dpmpp-2m --steps 20 --class 3 --guidance 2

For a model of points in the plane the picture has three panels: the exact density of the data, the model's own, and
the samples; --format npz writes the points.

--exported FILE.zip samples a file that `scorefield export` wrote; `--exported FILE.zip --help` shows its options.
--kernel langevin, mala or hmc samples the energy of a run that has one; `--kernel mala --help` shows its options.
A conditional model draws all classes in turn, seed by seed, and the picture has a row for each. --class chooses: a
name or a number, several as cat,dog or 0-9, `random` as frequent as in training, `none` for no class, or `all`.

Several processes share the seeds, one on each device or host: the same command for each, with --num-processes N and
--process-id 0 to N - 1, and a folder that all can see. They need not start together.

--sampler NAME chooses a sampler other than the run's own, and `--sampler NAME --help` shows the options of that one:
""" + "\n".join(f"  {', '.join(names)}" for names in catalogue())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments(DrawingArguments):
    """The arguments of `scorefield sample`."""

    seeds: str = "0-63"
    """One seed for each image or point: 0-63, or 1,5,10-12."""
    batch: int = 64
    """Images drawn at a time; it affects the speed only."""
    num_processes: int | None = None
    """Number of processes that share the seeds, each started by a command of its own."""
    process_id: int | None = None
    """This process's number among them, from 0. [what SLURM or Open MPI says]"""
    outdir: Path | None = None
    """Folder to write to. [RUN/samples/NAME, named from what determines the samples]"""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images or points, one PNG for each image, or one array file."""


def run(argv: list[str]) -> int:
    """Sample; returns the exit status."""
    exported, argv = take_flag(argv, "--exported")
    if exported is not None:
        from experiments.commands import sample_exported

        return sample_exported.run(exported, argv)
    kernel, argv = take_flag(argv, "--kernel")
    if kernel is not None:
        from experiments.commands import sample_energy

        return sample_energy.run(kernel, argv)
    coordinator, argv = take_flag(argv, "--coordinator")
    if coordinator is not None:
        raise UsageError(
            f"--coordinator {coordinator} is for training: these processes meet in --outdir; leave it out."
        )
    label, argv = take_flag(argv, "--class")
    if label is not None:
        argv = [*argv, f"--label={label}"]
    arguments, name = read_arguments(
        SampleArguments, argv, "scorefield sample", DESCRIPTION, ("--class", "--kernel", "--exported")
    )
    if arguments.batch < 1:
        raise UsageError(f"--batch is {arguments.batch}; give at least 1.")
    share = share_of(arguments.num_processes, arguments.process_id)
    return _sample(arguments, parse_seeds(arguments.seeds), share, name)


def _sample(arguments: SampleArguments, seeds: Seeds, share: Share, name: str) -> int:
    model = with_counts(load_run(arguments, arguments.data))
    classes = arguments.classes(model)
    if model.of_points and arguments.format == "png":
        raise UsageError("--format png goes with images, and this run makes points; take --format npz.")
    arguments.check_clip(model)
    solver = arguments.solver(name, model, classes)
    guidance = arguments.guided()
    provenance = {
        **solver.provenance,
        **origin(model),
        "seeds": arguments.seeds,
        **({"class": None} if classes is None else classes.report(model)),
        "guidance": arguments.guidance,
        **beyond_defaults(guidance, guidance.limits(model), brownian_tree=arguments.brownian_tree),
    }
    batch = share.batch(arguments.batch, len(seeds))
    written = shared_output(
        Request(model, arguments.format, seeds, provenance, classes), arguments.outdir, share, batch
    )
    places = share.places(len(seeds), batch)
    mine = seeds[places.start : places.stop]
    throughput = Throughput(batch)
    tell_written(written.told)
    try:
        batches = draw(
            model,
            solver,
            mine,
            batch=batch,
            label=classes,
            guidance=guidance,
            brownian_tree=arguments.brownian_tree,
            there=written.there,
            filled=True,
        )
        with reporting(quiet=arguments.json), written:
            for drawn in tracked(batches, BATCHES, len(starts(mine, batch, written.there))):
                written.add(drawn.seeds, drawn.images, drawn.nfe)
                throughput.add(len(drawn.seeds))
            paths = written.finish()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    done = _Done(written, paths, throughput, share, len(mine))
    if arguments.json:
        print(json.dumps({**provenance, **done.report()}))
    else:
        kinds = 0 if classes is None else classes.count(mine)
        print(done.sentence(len(seeds), kinds, at_most=guidance.limited))
    return 0


@dataclasses.dataclass(frozen=True)
class _Done:
    """What was drawn and written."""

    written: Output
    paths: Sequence[Path]
    throughput: Throughput
    share: Share
    drawn: int
    """The samples of this process."""

    def report(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        said: dict[str, Any] = {"nfe": self.written.nfe, "files": [str(path) for path in self.paths]}
        said |= {"already_there": len(self.written.there), **self.throughput.report()}
        if self.share.count > 1:
            said |= {"process": self.share.index, "processes": self.share.count, "samples": self.drawn}
            said |= {"missing_parts": self.written.missing}
        return said

    def sentence(self, total: int, kinds: int, *, at_most: bool) -> str:
        """It in a line; `kinds` is the number of classes among the samples."""
        of = f" of {kinds} classes" if kinds > 1 else ""
        count = f"{counted(self.drawn, 'sample')}{of}"
        if self.share.count > 1:
            count = f"process {self.share.index} of {self.share.count}: {self.drawn} of {total} samples{of}"
        where = place(self.paths) if self.paths else "nothing to draw"
        if self.written.missing:
            parts = ", ".join(map(str, self.written.missing))
            where = f"the file of all waits for process {parts}, the last of which puts it together"
        if not self.drawn:
            return f"{count}: {where}"
        calls = f"{'at most ' if at_most else ''}{counted(self.written.nfe or 0, 'network call')} each"
        return f"{count}, {calls}, {told(self.throughput, self.written.there)}: {where}"
