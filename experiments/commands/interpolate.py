"""`scorefield interpolate`: the pictures between two pictures, or between two seeds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.commands.options import parse, take_flag
from experiments.commands.outcome import place
from experiments.errors import UsageError
from experiments.progress import reporting, stage
from experiments.runs.counted import with_counts
from experiments.runs.load import DataArguments, load_run
from experiments.runs.provenance import origin
from experiments.sampling.guidance import Guidance
from experiments.sampling.labels import choose_classes, require_no_class

if TYPE_CHECKING:
    from experiments.data.source import Pixels
    from experiments.runs.model import Model

DESCRIPTION = """\
Go from one picture to another, or from the sample of one seed to that of another, through the latents of a model's
probability flow, which turn on a great circle.

  scorefield interpolate --run runs/photos --images cat.png dog.png
  scorefield interpolate --run runs/photos --seeds 3 8 --frames 17

Written are strip.png, with all frames in a row, and film.gif, there and back. The root mean square is printed by which
the two ends come back from their latents otherwise than they went, in levels of 0..255. On a discrete chain the way is
that of DDIM, in --chain-steps steps.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateArguments(DataArguments):
    """The arguments of `scorefield interpolate`."""

    images: tuple[Path, ...] = ()
    """Two pictures, of the run's size and colours unless --resize."""
    seeds: tuple[int, ...] = ()
    """Two seeds, those of `scorefield sample`."""
    frames: int = 9
    """Number of pictures, the two ends included."""
    linear: bool = False
    """Go straight on between the latents, which makes the middle too flat; to compare with."""
    label: str | None = None
    """One class for all frames, by name or number; --class is the same flag. [none]"""
    guidance: float | None = None
    """Strength of guidance by the class."""
    tolerance: float = 1e-4
    """Tolerance of the solver, relative and absolute."""
    chain_steps: int = 250
    """Steps each way on a discrete chain; at most as many as it has."""
    resize: bool = False
    """Bring the pictures to the run's size, by cropping and resizing."""
    crop: Literal["center", "none", "pad"] = "center"
    """With --resize, what becomes of other proportions, as --data.crop in training."""
    batch: int = 16
    """Pictures at a time; it affects the speed only."""
    milliseconds: int = 100
    """How long each frame of the film is shown."""
    outdir: Path | None = None
    """Folder to write to. [RUN/interpolations/NAME, named from what determines the pictures]"""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> int:
    """Interpolate; returns the exit status."""
    label, argv = take_flag(argv, "--class")
    if label is not None:
        argv = [*argv, f"--label={label}"]
    arguments = parse(InterpolateArguments, argv, "scorefield interpolate", DESCRIPTION, taken=("--class",))
    _check(arguments)
    from experiments.pictures.edits import DIGEST, claim, digest_of, home_of, strip
    from experiments.pictures.files import save_png
    from experiments.pictures.films import save_gif
    from experiments.sampling.editing import require_images
    from experiments.sampling.interpolation import angle, interpolate, require_flow

    model = with_counts(load_run(arguments, arguments.data))
    shape = require_images(model)
    require_flow(model)
    ends, what = _ends(arguments, model, shape)
    known, steps = _class(arguments, model), _chain_steps(arguments, model)
    chain = model.process.schedule.discrete
    provenance = {
        **what,
        "frames": arguments.frames,
        "between": "line" if arguments.linear else "slerp",
        **({"chain_steps": steps} if chain else {"tolerance": arguments.tolerance}),
        "class": known,
        "guidance": arguments.guidance,
        **origin(model),
    }
    digest = digest_of({**provenance, "milliseconds": arguments.milliseconds})
    folder = arguments.outdir or home_of(model, "interpolations", next(iter(what)), digest)
    files = claim(model, folder, ["strip.png", "film.gif"], digest)
    with reporting(quiet=arguments.json), stage("the way"):
        found = interpolate(
            model,
            ends,
            arguments.frames,
            label=known,
            guidance=Guidance(strength=arguments.guidance),
            linear=arguments.linear,
            tolerance=arguments.tolerance,
            chain_steps=steps,
            batch=arguments.batch,
        )
    told = {"round_trip_rms": found.round_trip.tolist(), "angle": angle(found.latents), "nfe": list(found.nfe)}
    save_png(files[0], strip([], found.images, arguments.frames), {**provenance, **told, DIGEST: digest})
    save_gif(files[1], found.images, {**provenance, **told, DIGEST: digest}, arguments.milliseconds)
    if arguments.json:
        print(json.dumps({**provenance, **told, "files": [str(path) for path in files]}))
        return 0
    print(
        f"latents {told['angle']:.1f} degrees apart; {found.nfe[0]} network calls to them at most, {found.nfe[1]} back"
    )
    print("round trip {:.3g} and {:.3g} levels of 0..{} RMS".format(*found.round_trip, 2**model.bits - 1))
    print(f"{arguments.frames} frames: {place(files)}")
    return 0


def _check(arguments: InterpolateArguments) -> None:
    """Raise UsageError for flags that do not go together, or are out of range."""
    for flag, values in (("--images", arguments.images), ("--seeds", arguments.seeds)):
        if len(values) not in (0, 2):
            raise UsageError(
                f"{flag} has {len(values)}; give two, such as {flag} {'a.png b.png' * (flag[2] == 'i') or '3 8'}."
            )
    if bool(arguments.images) == bool(arguments.seeds):
        raise UsageError("give --images A B or --seeds A B, one of the two: between these pictures the way is made.")
    for seed in arguments.seeds:
        if not 0 <= seed < 2**31:
            raise UsageError(f"--seeds has {seed}; give whole numbers from 0 on, below 2^31.")
    for flag, value, least in (("frames", arguments.frames, 2), ("batch", arguments.batch, 1)):
        if value < least:
            raise UsageError(f"--{flag} is {value}; give at least {least}.")
    if not 0 < arguments.tolerance < 1:
        raise UsageError(f"--tolerance is {arguments.tolerance:g}; give a number between 0 and 1, such as 1e-4.")
    if not 10 <= arguments.milliseconds <= 60_000:
        raise UsageError(f"--milliseconds is {arguments.milliseconds}; give 10 to 60000, such as 100.")


def _ends(
    arguments: InterpolateArguments, model: Model, shape: tuple[int, int, int]
) -> tuple[Pixels | tuple[int, int], dict[str, Any]]:
    """(The two ends, what they are as JSON values)."""
    if arguments.seeds:
        return (arguments.seeds[0], arguments.seeds[1]), {"seeds": list(arguments.seeds)}
    from experiments.data.given import pictures_of, read_picture, sha256_of

    data = dataclasses.replace(model.config.data, crop=arguments.crop)
    for path in arguments.images:
        if path.is_dir():
            raise UsageError(f"--images has the folder {path}; give two pictures.")
    files = pictures_of(arguments.images)
    pictures = [read_picture(path, shape[:2], shape[2], data, resize=arguments.resize) for path in files]
    return np.concatenate(pictures), {
        "images": [str(path) for path in files],
        "image_sha256": [sha256_of(path) for path in files],
    }


def _class(arguments: InterpolateArguments, model: Model) -> int | None:
    """The class of all frames, None for none."""
    if arguments.label is None:
        require_no_class(model)
        return None
    classes = choose_classes(model, arguments.label)
    if classes is not None and len(classes.numbers) != 1:
        raise UsageError(f"--class is {arguments.label}, and all frames have one class; give one, or none.")
    return None if classes is None else classes.numbers[0]


def _chain_steps(arguments: InterpolateArguments, model: Model) -> int:
    if not model.process.schedule.discrete:
        return arguments.chain_steps
    length = int(np.asarray(model.process.t_max))
    if arguments.chain_steps < 2:
        raise UsageError(f"--chain-steps is {arguments.chain_steps}; give 2 to {length}, the steps of the chain.")
    return min(arguments.chain_steps, length)
