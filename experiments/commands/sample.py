"""`scorefield sample`: images or points from a trained model, one seed each, with their provenance."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.commands.arguments import RunArguments, catalogue, read_arguments
from experiments.commands.options import take_flag
from experiments.commands.progress import progress
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError, warn
from experiments.pictures.output import write
from experiments.runs.load import load_run, model_of, run_data
from experiments.sampling import solver
from experiments.sampling.draw import draw
from experiments.sampling.guidance import Clip, Wish
from experiments.sampling.throughput import Throughput

if TYPE_CHECKING:
    from experiments.runs.load import TrainedModel

DESCRIPTION = """\
Draw images or points from a trained model. The image of a seed is the same in every batch.

  scorefield sample --run runs/digits-ddpm --seeds 0-63
  scorefield sample --run runs/mnist --sampler dpmpp-2m --steps 20 --class 3 --guidance 2

Of a model of points in the plane the picture has three panels: the exact density of the data, the model's own, and
the samples; --format npz writes the points.

--kernel langevin, mala or hmc samples the energy of a run that has one; `--kernel mala --help` shows its options.
--class N chooses the class of a conditional model. --sampler NAME chooses a sampler other than the run's own, and
`--sampler NAME --help` shows the options of that one:
""" + "\n".join(f"  {', '.join(names)}" for names in catalogue())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments(RunArguments):
    """What `scorefield sample` is told."""

    seeds: str = "0-63"
    """One seed for each image or point: 0-63, or 1,5,10-12."""
    label: int | None = None
    """Class of all images (also --class)."""
    guidance: float | None = None
    """Strength of guidance: 1 is the model itself, more exaggerates the class, or what the model has over --weak."""
    guidance_low: float = 0.0
    """Guide from this noise level σ/α on, at lower ones sample the class as it is."""
    guidance_high: float = float("inf")
    """Guide up to this noise level σ/α, at higher ones sample the class as it is."""
    weak: Path | None = None
    """Autoguidance: folder of a run, or of a checkpoint, of a worse model of the same images, to be led away from;
    its first average is taken."""
    clip: Clip = "no"
    """Keep the model's answers within the range of images, pixel by pixel (range) or image by image (dynamic)."""
    percentile: float = 99.5
    """Percentile of the pixels that dynamic clipping divides by."""
    brownian_tree: bool = False
    """Take an SDE sampler's noise from one Brownian path for each seed: more steps, the same image more exactly."""
    batch: int = 64
    """Images drawn at a time; it changes the speed only."""
    outdir: Path = Path("samples")
    """Folder to write to."""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images or points, one PNG for each image, or one array file."""


def run(arguments: list[str]) -> int:
    """Sample; returns the exit status."""
    kernel, arguments = take_flag(arguments, "--kernel")
    if kernel is not None:
        from experiments.commands import sample_energy

        return sample_energy.run(kernel, arguments)
    label, arguments = take_flag(arguments, "--class")
    if label is not None and not (label.isascii() and label.isdecimal()):
        raise UsageError(f"--class {label!r} is not the number of a class; give 0, 1, ...")
    if label is not None:
        arguments = [*arguments, "--label", label]
    told, name = read_arguments(SampleArguments, arguments, "scorefield sample", DESCRIPTION, ("--class", "--kernel"))
    if told.batch < 1:
        raise UsageError(f"--batch is {told.batch}; give at least 1.")
    seeds = parse_seeds(told.seeds)
    trained = load_run(told)
    return _sample(told, seeds, name, trained)


def _sample(told: SampleArguments, seeds: list[int], name: str, trained: TrainedModel) -> int:
    model = model_of(trained)
    if model.of_points:
        _check_points(told)
    chosen = solver.build(
        *(told, name, model, lambda: run_data(trained)[0]),
        given_class=told.label is not None,
        guided=told.guidance is not None,
    )
    weak = _weak(told)
    weak_model = None if weak is None else model_of(weak)
    wish = Wish(*(told.guidance, told.guidance_low, told.guidance_high, weak_model), told.clip, told.percentile)
    wish.check(model, chosen.sampler, told.label is not None)
    parts, throughput = [], Throughput(min(told.batch, len(seeds)))
    try:
        for drawn in draw(
            *(model, chosen, seeds),
            **{"batch": told.batch, "label": told.label, "wish": wish, "brownian_tree": told.brownian_tree},
        ):
            parts.append(drawn)
            throughput.add(len(drawn.seeds))
            progress(throughput, len(seeds), told.json)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    pictures = np.concatenate([part.images for part in parts])
    provenance = {
        **solver.provenance(told, trained, chosen),
        "nfe": parts[0].nfe,
        "seeds": told.seeds,
        "class": told.label,
        "guidance": told.guidance,
        **_said(told, weak),
    }
    paths = write(told.outdir, told.format, model, pictures, seeds, provenance, told.label)
    if told.json:
        print(json.dumps({**provenance, "files": [str(path) for path in paths], **throughput.report()}))
    else:
        at_most = "at most " if wish.limited else ""
        where = paths[0] if len(paths) == 1 else f"{told.outdir} ({len(paths)} files)"
        print(f"{len(seeds)} samples, {at_most}{provenance['nfe']} network calls each, {throughput}: {where}")
    return 0


def _check_points(told: SampleArguments) -> None:
    """Raise UsageError for what is asked of images only."""
    for flag, value, remedy in (
        ("--format png", told.format == "png", "take --format npz"),
        (f"--clip {told.clip}", told.clip != "no", "leave it out"),
    ):
        if value:
            raise UsageError(f"{flag} goes with images, and this run makes points; {remedy}.")


def _weak(told: SampleArguments) -> TrainedModel | None:
    """The model to be led away from: its first average."""
    if told.weak is None:
        return None
    from experiments.runs.load import load_model

    return load_model(told.weak, warn=warn)


def _said(told: SampleArguments, weak: TrainedModel | None) -> dict[str, Any]:
    """What was asked for beyond the defaults, as JSON values."""
    said: dict[str, Any] = {}
    if told.guidance_low > 0 or told.guidance_high < float("inf"):
        said["guidance_interval"] = [told.guidance_low, told.guidance_high if told.guidance_high < 1e30 else "inf"]
    if weak is not None:
        said["weak"] = {
            "checkpoint": str(weak.path),
            "step": weak.step,
            "sha256": weak.digest,
            "parameters": "average 0",
        }
    if told.clip != "no":
        said["clip"] = told.clip if told.clip == "range" else f"dynamic, percentile {told.percentile:g}"
    if told.brownian_tree:
        said["brownian_tree"] = True
    return said
