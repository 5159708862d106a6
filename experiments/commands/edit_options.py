"""The flags of `scorefield edit`, and which of them do not go together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.commands.arguments import RunArguments
from experiments.errors import UsageError
from experiments.sampling.guidance import Clip

_KINDS = ("mask", "super_resolve", "deblur", "strength", "operator")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditArguments(RunArguments):
    """The arguments of `scorefield edit`."""

    image: tuple[Path, ...] = ()
    """Pictures, or folders of them; of the run's size and colours, unless --resize."""
    mask: Path | None = None
    """Picture of the same size, white where the pictures are drawn anew."""
    method: Literal["replacement", "repaint", "pigdm"] | None = None
    """How a masked part is drawn: repaint goes over each stretch of steps again, replacement does not and fits less
    well, pigdm leads the model by the gradient of the known part. [repaint; pigdm for all but --mask]"""
    resamplings: int = 10
    """RePaint: how often each stretch is drawn."""
    jump: int = 1
    """RePaint: the number of steps in a stretch."""
    super_resolve: int | None = None
    """Factor by which the pictures are smaller than the run's images."""
    deblur: float | None = None
    """Standard deviation of the blur, in pixels of the run's images."""
    strength: float | None = None
    """Part of the way to noise that the picture is taken, above 0 up to 1."""
    operator: Path | None = None
    """File (npz) of a linear operator, and of what was measured."""
    noise: float | None = None
    """Standard deviation of the noise in what was measured, in levels of 0..255 (of 0..65535 in a run of 16 bits).
    [0.29, that of rounding to whole levels; 0 for --mask]"""
    simulate: bool = False
    """Take whole pictures, and measure them first, with the noise of --noise."""
    resize: bool = False
    """Bring the pictures to the size that is wanted, by cropping and resizing."""
    crop: Literal["center", "none", "pad"] = "center"
    """With --resize, what becomes of other proportions, as --data.crop in training."""
    seeds: str = "0-3"
    """One seed for each answer to a picture: 0-3, or 1,5,10-12."""
    label: str | None = None
    """Class, by name or number; several in turn by the seeds, all, random, or none; --class is the same flag. [none]"""
    guidance: float | None = None
    """Strength of guidance by the class."""
    clip: Clip | None = None
    """Whether the model's answers are kept within the range of images, as in `scorefield sample`. [the run's own]"""
    percentile: float | None = None
    """Percentile of the pixels that dynamic clipping divides by. [99.5]"""
    batch: int = 16
    """Answers drawn at a time; it affects the speed only."""
    outdir: Path | None = None
    """Folder to write to. [RUN/edits/NAME, named from what determines the answers]"""


def check(arguments: EditArguments) -> None:
    """Raise UsageError for flags that do not go together, or are out of range."""
    kinds = [f"--{kind.replace('_', '-')}" for kind in _KINDS if getattr(arguments, kind) is not None]
    if len(kinds) != 1:
        given = f"{' and '.join(kinds)} are given" if kinds else "it is not said what is known"
        raise UsageError(f"{given}; give one of --mask, --super-resolve, --deblur, --strength and --operator.")
    kind = kinds[0]
    if arguments.method is not None and kind != "--mask" and (arguments.method != "pigdm" or kind == "--strength"):
        raise UsageError(f"--method {arguments.method} goes with --mask, and not with {kind}; leave it out.")
    if kind in ("--mask", "--strength") and arguments.simulate:
        raise UsageError(f"--simulate measures a picture, and {kind} takes it as it is; leave it out.")
    if kind == "--strength" and arguments.noise is not None:
        raise UsageError("--noise is that of a measurement, and --strength says how much is added; leave it out.")
    if arguments.noise is not None and not 0 <= arguments.noise < float("inf"):
        raise UsageError(f"--noise is {arguments.noise:g}; give a standard deviation in levels, 0 or more.")
    for flag, value in (("resamplings", arguments.resamplings), ("jump", arguments.jump), ("batch", arguments.batch)):
        if value < 1:
            raise UsageError(f"--{flag} is {value}; give at least 1.")
