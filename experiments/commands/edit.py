"""`scorefield edit`: pictures completed, restored or drawn anew by a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.commands.arguments import read_arguments
from experiments.commands.edit_options import EditArguments, check
from experiments.commands.options import take_flag
from experiments.commands.outcome import place, told
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError
from experiments.names import counted
from experiments.progress import BATCHES, reporting, stage, tracked
from experiments.runs.counted import with_counts
from experiments.runs.load import load_run, training_part
from experiments.runs.provenance import origin
from experiments.sampling.drawing import starts
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import choose_classes, require_no_class
from experiments.sampling.seeds import Seeds
from experiments.sampling.solver import Solver, build
from experiments.sampling.throughput import Throughput
from experiments.training.stopping import tell_written

if TYPE_CHECKING:
    from experiments.commands.edit_task import Asked
    from experiments.pictures.edits import Answers
    from experiments.runs.model import Model
    from experiments.sampling.editing import Edited
    from experiments.sampling.labels import Classes

DESCRIPTION = """\
Complete, restore or change pictures by a trained model, several answers for each.

  scorefield edit --run runs/photos --image cat.png --mask mask.png --seeds 0-7
  scorefield edit --run runs/photos --image cat.png --mask mask.png --method pigdm --sampler ddim --steps 50
  scorefield edit --run runs/photos --image small.png --super-resolve 4
  scorefield edit --run runs/photos --image blurred.png --deblur 1.5 --noise 2
  scorefield edit --run runs/photos --image sketch.png --strength 0.6
  scorefield edit --run runs/photos --operator camera.npz

One of these says what is known:

  --mask FILE         all but what is white in this picture, which is drawn anew (grey counts from half on, transparent
                      as black); --method repaint, replacement or pigdm
  --super-resolve N   the means of N × N pixels: the picture given is N times smaller than the run's images
  --deblur WIDTH      the picture blurred by a Gaussian of this standard deviation in pixels, mirrored at its edges
  --strength S        nothing for certain (SDEdit): the picture is taken the part S of the way to noise, at 0.5 half and
                      half, and led back; the larger, the less stays of it
  --operator FILE     y = A u + noise: an npz file with the array matrix (m, d), A, for the height × width × channels
                      = d levels u of an image, row by row with the channels together; observed (m,) or (n, m), y; and,
                      where it is known, noise_std

All but --mask and --strength are by ΠGDM (pigdm). Of each answer the root mean square of A u − y is printed, in levels
of 0..255 and over the noise: about 1 is what noise leaves. --simulate takes a whole picture and measures it first, so
that the distance from it is printed too. The answers are written as PNGs, and strip.png shows them beside what was
given.
"""


def run(argv: list[str]) -> int:
    """Edit; returns the exit status."""
    label, argv = take_flag(argv, "--class")
    if label is not None:
        argv = [*argv, f"--label={label}"]
    arguments, name = read_arguments(EditArguments, argv, "scorefield edit", DESCRIPTION, ("--class",))
    check(arguments)
    return _edit(arguments, parse_seeds(arguments.seeds), name)


def _edit(arguments: EditArguments, seeds: Seeds, name: str) -> int:
    from experiments.commands.edit_task import asked
    from experiments.pictures.edits import Answers
    from experiments.pictures.shown import require_png
    from experiments.sampling.editing import answer, require_images

    model = with_counts(load_run(arguments, arguments.data))
    shape = require_images(model)
    require_png(shape, model.bits)
    classes = _classes(arguments, model)
    solver = _solver(arguments, model, name, classes is not None)
    problem = asked(arguments, model, shape)
    guidance = Guidance(strength=arguments.guidance, clip=arguments.clip, percentile=arguments.percentile)
    provenance = {**problem.told, **solver.provenance, **origin(model), "seeds": arguments.seeds}
    provenance |= {"class": None} if classes is None else classes.report(model)
    provenance |= {"guidance": arguments.guidance, "clip": guidance.limits(model).clip}
    written = Answers(model, problem.files, problem.given, seeds, provenance, arguments.outdir)
    batch = min(arguments.batch, len(written.numbers))
    begins = starts(written.numbers, batch, written.there)
    labels = None if classes is None else np.repeat(classes.of(seeds), len(problem.task))
    throughput = Throughput(batch)
    tell_written(written.told)
    with reporting(quiet=arguments.json), written:
        try:
            pictures, ids = written.parted(written.numbers)
            options = {"labels": labels, "guidance": guidance, "batch": batch, "starts": begins}
            drawn = answer(model, solver, problem.task, pictures, ids, **options)
            for start, part in zip(begins, tracked(drawn, BATCHES, len(begins)), strict=True):
                written.add(written.numbers[start : start + batch], part.images, part.nfe, _fits(model, problem, part))
                throughput.add(len(part.seeds))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UsageError(f"--sampler {name}: {error}") from None
        with stage("the strip of all"):
            files = written.finish()
    _tell(arguments, provenance, written, files, throughput)
    return 0


def _classes(arguments: EditArguments, model: Model) -> Classes | None:
    """The classes that are told: none, unless they are given."""
    if arguments.label is None:
        require_no_class(model)
        return None
    return choose_classes(model, arguments.label)


def _solver(arguments: EditArguments, model: Model, name: str, given_class: bool) -> Solver:
    solver = build(
        arguments.choice(name, model.config),
        model,
        training_part(model),
        given_class=given_class,
        guided=arguments.guidance is not None,
    )
    if arguments.strength is not None and name == "bespoke":
        raise UsageError("--sampler bespoke was fitted to a whole way; with --strength choose another, such as heun.")
    if arguments.mask is not None and arguments.method in (None, "repaint") and arguments.jump >= len(solver.grid):
        raise UsageError(f"--jump is {arguments.jump}, and there are {len(solver.grid) - 1} steps; give fewer.")
    return solver


def _fits(model: Model, problem: Asked, part: Edited) -> list[dict[str, Any]]:
    """How well each answer of a batch fits, as far as that is known."""
    from experiments.data.scaling import to_model
    from experiments.sampling.editing import half_range

    fits: list[dict[str, Any]] = [{} for _ in part.seeds]
    for i, fit in enumerate(fits):
        if part.residual is not None:
            fit |= {"consistency_rms": float(part.residual[i])}
            fit |= {"consistency_over_noise": float(part.residual[i] / problem.noise)} if problem.noise else {}
        if problem.truth is not None:
            off = (to_model(part.images[i]) - problem.truth[part.pictures[i]]).astype(np.float64) * half_range(model)
            fit |= {"distance_rms": float(np.sqrt(np.mean(off**2)))}
    return fits


def _tell(
    arguments: EditArguments, provenance: dict[str, Any], written: Answers, files: list[Path], throughput: Throughput
) -> None:
    answers = written.told_of
    if arguments.json:
        report = {**provenance, "nfe": written.nfe, "answers": answers, "files": [str(path) for path in files]}
        print(json.dumps({**report, "already_there": len(written.there), **throughput.report()}))
        return
    for answer in answers:
        words = [f"{answer['image']}, seed {answer['seed']}:"]
        if "consistency_rms" in answer:
            words.append(f"A u - y {answer['consistency_rms']:.3g} levels RMS")
        if "consistency_over_noise" in answer:
            words.append(f"({answer['consistency_over_noise']:.2f} × the noise)")
        if "distance_rms" in answer:
            words.append(f", {answer['distance_rms']:.3g} from the picture")
        if len(words) > 1:
            print(" ".join(words).replace(" ,", ","))
    rate = told(throughput, written.there)
    calls = f"{counted(written.nfe or 0, 'network call')} each"
    print(f"{counted(len(answers), 'answer')}, {calls}, {rate}: {place(files)}")
