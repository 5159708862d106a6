"""`scorefield export`: a run handed on: its sampler as one file, its weights alone, or a folder of diffusers."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.commands.arguments import read_arguments
from experiments.commands.drawing import DrawingArguments
from experiments.commands.options import take_flag
from experiments.errors import UsageError
from experiments.names import counted
from experiments.progress import reporting, stage
from experiments.runs.counted import with_counts
from experiments.runs.load import load_run

DESCRIPTION = """\
Hand a run on, in one of three forms.

  scorefield export --run runs/mnist --sampler dpmpp-2m --steps 20 --out digits.zip
  scorefield sample --exported digits.zip --seeds 0-63

--out writes a whole sampler: the program of all its steps, the weights, and what they are, for jax alone. The options
of sampler, steps, grid, guidance, classes and clipping are those of `scorefield sample`. --batch makes it one for
batches of that size, whose samples have the bits of `sample --batch`; without, it takes any number, and gives the same
up to rounding.

  scorefield export --run runs/mnist --weights digits.safetensors
  scorefield import scorefield:digits.safetensors --out runs/again

--weights writes the parameters alone, with the configuration in the metadata; --ema chooses which.

  scorefield export --run runs/birds --diffusers birds

--diffusers writes a folder that diffusers loads, of a run whose network is a UNet2DModel.
"""
Platform = Literal["cpu", "cuda", "tpu", "rocm"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportArguments(DrawingArguments):
    """The arguments of `scorefield export`."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.zip")] = None
    """The file of the sampler."""
    batch: int | None = None
    """Samples that it draws at a time. [any number]"""
    platforms: tuple[Platform, ...] = ("cpu", "cuda", "tpu")
    """Platforms that it has a program for."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE.safetensors")] = None
    """The file of the weights alone, with the configuration in its metadata."""
    diffusers: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder in the layout of diffusers."""


def run(argv: list[str]) -> int:
    """Export a run; returns the exit status."""
    label, argv = take_flag(argv, "--class")
    if label is not None:
        argv = [*argv, f"--label={label}"]
    arguments, name = read_arguments(ExportArguments, argv, "scorefield export", DESCRIPTION, ("--class",))
    forms = {"--out": arguments.out, "--weights": arguments.weights, "--diffusers": arguments.diffusers}
    given = [flag for flag, place in forms.items() if place is not None]
    if not given:
        raise UsageError(
            "what to write is missing; give --out FILE.zip, --weights FILE.safetensors or --diffusers DIR."
        )
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are two exports; give one of them.")
    if given != ["--out"]:
        _check_alone(arguments, argv, given[0])
    if arguments.batch is not None and arguments.batch < 1:
        raise UsageError(f"--batch is {arguments.batch}; give at least 1.")
    if not arguments.platforms or len(set(arguments.platforms)) != len(arguments.platforms):
        raise UsageError("--platforms names each platform once; give one or more, such as cpu,cuda.")
    with reporting(quiet=arguments.json), stage("exporting"):
        path, said, line = _WRITERS[given[0]](arguments, name)
    if arguments.json:
        print(json.dumps({**said, "file": str(path)}))
    else:
        print(f"{line}: {path}")
    return 0


def _check_alone(arguments: ExportArguments, argv: list[str], flag: str) -> None:
    """Raise UsageError for options of a sampler where weights alone are written."""
    of_a_sampler = {field.name for field in dataclasses.fields(ExportArguments)} - {
        *("run", "ema", "best", "data", "json", "out", "weights", "diffusers")
    }
    for field in dataclasses.fields(arguments):
        typed = field.name != "sampler" and field.name in of_a_sampler
        if typed and getattr(arguments, field.name) != field.default:
            named = "class" if field.name == "label" else field.name.replace("_", "-")
            raise UsageError(f"--{named} is of a sampler, and {flag} writes weights alone; leave it out.")
    if any(word.partition("=")[0] == "--sampler" or word.startswith("--sampler.") for word in argv):
        raise UsageError(f"--sampler is of a sampler, and {flag} writes weights alone; leave it out.")


Written = tuple[Path, dict[str, Any], str]


def _sampler(arguments: ExportArguments, name: str) -> Written:
    from experiments.exporting.bundle import require_new_file
    from experiments.exporting.sampler import export_sampler

    assert arguments.out is not None
    require_new_file(arguments.out)
    model = with_counts(load_run(arguments, arguments.data))
    classes = arguments.classes(model)
    arguments.check_clip(model)
    solver = arguments.solver(name, model, classes)
    about = export_sampler(
        arguments.out,
        model,
        solver,
        arguments.guided(),
        classes,
        brownian_tree=arguments.brownian_tree,
        batch=arguments.batch,
        platforms=arguments.platforms,
    )
    many = "any number of samples" if arguments.batch is None else counted(arguments.batch, "sample")
    kinds = f" of {len(about['classes']['names'])} classes" if about["classes"] else ""
    line = (
        f"{name} in {solver.provenance['steps']} steps, {many}{kinds} at a time, {about['parameters']:,} parameters, "
        f"for {', '.join(arguments.platforms)}, {os.path.getsize(arguments.out) / 1e6:.1f} MB"
    )
    return arguments.out, {name: value for name, value in about.items() if name != "config"}, line


def _weights(arguments: ExportArguments, name: str) -> Written:
    from experiments.exporting.weights import export_weights

    assert arguments.weights is not None
    said = export_weights(arguments.weights, load_run(arguments, arguments.data))
    line = f"{said['parameters']:,} parameters in {counted(said['arrays'], 'array')}, {said['of']}"
    return arguments.weights, said, line


def _diffusers(arguments: ExportArguments, name: str) -> Written:
    from experiments.exporting.diffusers import export_diffusers

    assert arguments.diffusers is not None
    said = export_diffusers(arguments.diffusers, load_run(arguments, arguments.data))
    line = f"{said['pipeline']} of a {said['scheduler']}, {said['parameters']:,} parameters, {said['of']}"
    return arguments.diffusers, said, line


_WRITERS = {"--out": _sampler, "--weights": _weights, "--diffusers": _diffusers}
