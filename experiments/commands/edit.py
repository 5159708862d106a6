"""`scorefield edit`: pictures completed, restored or drawn anew by a trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.commands.arguments import read_arguments
from experiments.commands.edit_options import EditArguments, check
from experiments.commands.options import take_flag
from experiments.commands.outcome import place, told
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError
from experiments.progress import BATCHES, reporting, tracked
from experiments.runs.counted import with_counts
from experiments.runs.load import load_run, training_part
from experiments.runs.provenance import origin
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import choose_classes, require_no_class
from experiments.sampling.seeds import Seeds
from experiments.sampling.solver import Solver, build
from experiments.sampling.throughput import Throughput

if TYPE_CHECKING:
    from experiments.commands.edit_task import Asked
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
    from experiments.pictures.edits import claim, digest_of, home_of, names_of
    from experiments.pictures.files import single
    from experiments.pictures.shown import require_png
    from experiments.sampling.editing import edit, require_images

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
    digest = digest_of(provenance)
    folder = arguments.outdir or home_of(model, "edits", problem.told["edit"], digest)
    stems = names_of(problem.files)
    files = claim(model, folder, [*(f"{stem}-{single(s)}" for stem in stems for s in seeds), "strip.png"], digest)
    labels = None if classes is None else np.tile(classes.of(seeds), len(problem.task))
    throughput = Throughput(min(arguments.batch, len(files) - 1))
    try:
        drawn = edit(model, solver, problem.task, list(seeds), labels=labels, guidance=guidance, batch=arguments.batch)
        with reporting(quiet=arguments.json):
            parts = list(_tracked(drawn, throughput, len(files) - 1, arguments.batch))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"--sampler {name}: {error}") from None
    answers = _written(model, problem, parts, files, provenance, digest)
    _tell(arguments, problem, answers, parts, files, provenance, throughput)
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


def _tracked(drawn: Iterator[Edited], throughput: Throughput, count: int, batch: int) -> Iterator[Edited]:
    for part in tracked(drawn, BATCHES, -(-count // min(batch, count))):
        throughput.add(len(part.seeds))
        yield part


def _written(
    model: Model,
    problem: Asked,
    parts: list[Edited],
    files: list[Path],
    provenance: dict[str, Any],
    digest: str,
) -> list[dict[str, Any]]:
    """What is told of each answer, once all are written."""
    from experiments.data.scaling import to_model
    from experiments.pictures.edits import DIGEST, strip
    from experiments.pictures.files import save_png
    from experiments.sampling.editing import half_range

    images = np.concatenate([part.images for part in parts])
    pictures, seeds = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pictures", "seeds"))
    known = parts[0].residual is not None
    residuals = np.concatenate([part.residual for part in parts if part.residual is not None]) if known else []
    provenance, answers = {**provenance, DIGEST: digest, "nfe": parts[0].nfe}, []
    for i, path in enumerate(files[:-1]):
        answer: dict[str, Any] = {"image": str(problem.files[pictures[i]]), "seed": int(seeds[i]), "file": str(path)}
        if known:
            answer |= {"consistency_rms": float(residuals[i])}
            answer |= {"consistency_over_noise": float(residuals[i] / problem.noise)} if problem.noise else {}
        if problem.truth is not None:
            off = (to_model(images[i]) - problem.truth[pictures[i]]).astype(np.float64) * half_range(model)
            answer |= {"distance_rms": float(np.sqrt(np.mean(off**2)))}
        save_png(path, images[i], {**provenance, **answer})
        answers.append(answer)
    each = len(images) // len(problem.task)
    save_png(files[-1], strip(problem.given, images, each), {**provenance, "answers": answers})
    return answers


def _tell(
    arguments: EditArguments,
    problem: Asked,
    answers: list[dict[str, Any]],
    parts: list[Edited],
    files: list[Path],
    provenance: dict[str, Any],
    throughput: Throughput,
) -> None:
    if arguments.json:
        report = {**provenance, "nfe": parts[0].nfe, "answers": answers, "files": [str(path) for path in files]}
        print(json.dumps({**report, **throughput.report()}))
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
    print(f"{len(answers)} answers, {parts[0].nfe} network calls each, {told(throughput, ())}: {place(files)}")
