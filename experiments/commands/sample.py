"""`scorefield sample`: images or points from a trained model, one for each seed, with their provenance."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from experiments.commands.arguments import RunArguments, catalogue, read_arguments
from experiments.commands.options import take_flag
from experiments.commands.outcome import place, told
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError, warn
from experiments.pictures.output import output
from experiments.pictures.request import Request
from experiments.progress import BATCHES, reporting, tracked
from experiments.runs.counted import with_counts
from experiments.runs.load import load_model, load_run, training_part
from experiments.runs.provenance import checkpoint, origin
from experiments.sampling.drawing import draw, starts
from experiments.sampling.guidance import Clip, Guidance
from experiments.sampling.labels import WORDS, choose_classes
from experiments.sampling.seeds import Seeds
from experiments.sampling.solver import build
from experiments.sampling.throughput import Throughput
from experiments.training.stopping import tell_written

DESCRIPTION = """\
Draw images or points from a trained model. The image of a seed is the same in every batch.

  scorefield sample --run runs/digits-ddpm --seeds 0-63
  scorefield sample --run runs/mnist --sampler dpmpp-2m --steps 20 --class 3 --guidance 2

For a model of points in the plane the picture has three panels: the exact density of the data, the model's own, and
the samples; --format npz writes the points.

--kernel langevin, mala or hmc samples the energy of a run that has one; `--kernel mala --help` shows its options.
A conditional model draws all classes in turn, seed by seed, and the picture has a row for each. --class chooses: a
name or a number, several as cat,dog or 0-9, `random` as frequent as in training, `none` for no class, or `all`.

--sampler NAME chooses a sampler other than the run's own, and `--sampler NAME --help` shows the options of that one:
""" + "\n".join(f"  {', '.join(names)}" for names in catalogue())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments(RunArguments):
    """The arguments of `scorefield sample`."""

    seeds: str = "0-63"
    """One seed for each image or point: 0-63, or 1,5,10-12."""
    label: str | None = None
    """Classes, by name or number: cat, 2, cat,dog or 0-9; all in turn, random, or none; --class is the same flag.
    [all]"""
    guidance: float | None = None
    """Strength of guidance: 1 is the model itself, more exaggerates the class, or the model's advantage over --weak."""
    guidance_low: float = 0.0
    """Lowest noise level σ/α with guidance; below it the class is sampled as it is."""
    guidance_high: float = float("inf")
    """Highest noise level σ/α with guidance; above it the class is sampled as it is."""
    weak: Path | None = None
    """Autoguidance: folder of a run, or of a checkpoint, with a worse model of the same images to lead away from; its
    first average is taken."""
    clip: Clip = "no"
    """Whether the model's answers are kept within the range of images: pixel by pixel (range) or image by image
    (dynamic)."""
    percentile: float = 99.5
    """Percentile of the pixels that dynamic clipping divides by."""
    brownian_tree: bool = False
    """Whether an SDE sampler's noise comes from one Brownian path for each seed, so that more steps give the same image
    more exactly."""
    batch: int = 64
    """Images drawn at a time; it affects the speed only."""
    outdir: Path | None = None
    """Folder to write to. [RUN/samples/NAME, named from what determines the samples]"""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images or points, one PNG for each image, or one array file."""


def run(argv: list[str]) -> int:
    """Sample; returns the exit status."""
    kernel, argv = take_flag(argv, "--kernel")
    if kernel is not None:
        from experiments.commands import sample_energy

        return sample_energy.run(kernel, argv)
    label, argv = take_flag(argv, "--class")
    if label is not None:
        argv = [*argv, f"--label={label}"]
    arguments, name = read_arguments(SampleArguments, argv, "scorefield sample", DESCRIPTION, ("--class", "--kernel"))
    if arguments.batch < 1:
        raise UsageError(f"--batch is {arguments.batch}; give at least 1.")
    return _sample(arguments, parse_seeds(arguments.seeds), name)


def _sample(arguments: SampleArguments, seeds: Seeds, name: str) -> int:
    model = with_counts(load_run(arguments, arguments.data))
    classes = choose_classes(model, arguments.label)
    if classes is not None and classes.word is None and arguments.label in WORDS:
        warn(f"--class {arguments.label} is the class of that name; for the word write --class :{arguments.label}.")
    if model.of_points:
        _check_points(arguments)
    solver = build(
        arguments.choice(name, model.config),
        model,
        training_part(model),
        given_class=classes is not None,
        guided=arguments.guidance is not None,
    )
    guidance = _guidance(arguments)
    provenance = {
        **solver.provenance,
        **origin(model),
        "seeds": arguments.seeds,
        **({"class": None} if classes is None else classes.report(model)),
        "guidance": arguments.guidance,
        **_beyond_defaults(arguments, guidance),
    }
    written = output(Request(model, arguments.format, seeds, provenance, classes), arguments.outdir)
    batch = min(arguments.batch, len(seeds))
    throughput = Throughput(batch)
    tell_written(written.told)
    try:
        batches = draw(
            model,
            solver,
            seeds,
            batch=batch,
            label=classes,
            guidance=guidance,
            brownian_tree=arguments.brownian_tree,
            there=written.there,
        )
        with reporting(quiet=arguments.json), written:
            for drawn in tracked(batches, BATCHES, len(starts(seeds, batch, written.there))):
                written.add(drawn.seeds, drawn.images, drawn.nfe)
                throughput.add(len(drawn.seeds))
            paths = written.finish()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    if arguments.json:
        report = {**provenance, "nfe": written.nfe, "files": [str(path) for path in paths]}
        print(json.dumps({**report, "already_there": len(written.there), **throughput.report()}))
    else:
        calls = f"{'at most ' if guidance.limited else ''}{written.nfe} network calls each"
        kinds = 0 if classes is None else classes.count(seeds)
        of = f" of {kinds} classes" if kinds > 1 else ""
        print(f"{len(seeds)} samples{of}, {calls}, {told(throughput, written.there)}: {place(paths)}")
    return 0


def _guidance(arguments: SampleArguments) -> Guidance:
    return Guidance(
        strength=arguments.guidance,
        low=arguments.guidance_low,
        high=arguments.guidance_high,
        weak=None if arguments.weak is None else load_model(arguments.weak, warn=warn),
        clip=arguments.clip,
        percentile=arguments.percentile,
    )


def _check_points(arguments: SampleArguments) -> None:
    """Raise UsageError for options that go with images only."""
    for flag, value, remedy in (
        ("--format png", arguments.format == "png", "take --format npz"),
        (f"--clip {arguments.clip}", arguments.clip != "no", "leave it out"),
    ):
        if value:
            raise UsageError(f"{flag} goes with images, and this run makes points; {remedy}.")


def _beyond_defaults(arguments: SampleArguments, guidance: Guidance) -> dict[str, Any]:
    """What was asked for beyond the defaults, as JSON values."""
    asked: dict[str, Any] = {}
    if guidance.limited:
        asked["guidance_interval"] = [guidance.low, guidance.high if guidance.high < 1e30 else "inf"]
    if guidance.weak is not None:
        asked["weak"] = {**checkpoint(guidance.weak), "parameters": guidance.weak.parameters}
    if guidance.clip != "no":
        asked["clip"] = "range" if guidance.clip == "range" else f"dynamic, percentile {guidance.percentile:g}"
    if arguments.brownian_tree:
        asked["brownian_tree"] = True
    return asked
