"""The checks by their titles, and the images that each needs: an error is estimated from two numbers at least."""

from __future__ import annotations

from typing import NamedTuple

from experiments.names import counted
from experiments.verification.trained.finding import NOT_APPLICABLE, Finding
from experiments.verification.trained.subject import Subject

FEW, MANY = 20, 200
"""Calls of the denoiser for a sample, where few are compared with many."""


class Needs(NamedTuple):
    """What a check is called, and how many images of either part it needs."""

    title: str
    training: int = 2
    held_out: int = 0
    or_none: bool = False
    """Whether it does without held-out images where there is none at all."""


NEEDS = {
    "loss": Needs("The denoising loss against its bounds"),
    "unbiased": Needs(
        "The error has mean 0, whatever is known of x_t", training=3
    ),  # halves: one, and two with an error
    "identity": Needs("Without noise the denoiser is the identity"),
    "fokker-planck": Needs("The score Fokker-Planck equation", training=1),  # of one image there are many noisy ones
    "curl": Needs("The score is a gradient", training=1),
    "sde-ode": Needs("The SDE and the flow have one law", training=0),
    "steps": Needs(f"{FEW} calls against {MANY}", training=1),
    "likelihood": Needs("The bound on the likelihood and the likelihood", held_out=2, or_none=True),
    "memorisation": Needs("The denoiser has not learnt the training set by heart", held_out=2),
    "copies": Needs("Samples are not copies of training images", held_out=2),
}
"""All checks by name."""


def too_few(subject: Subject, name: str) -> Finding | None:
    """The finding that a check is not applicable for want of images, if it is."""
    needs, held_out = NEEDS[name], 0 if subject.held_out is None else len(subject.held_out)
    counts = [("training", len(subject.training), needs.training)]
    if held_out or not needs.or_none:
        counts.append(("held-out", held_out, needs.held_out))
    for part, count, least in counts:
        if count < least:
            few = f"{counted(count, f'{part} image')}, {least} are needed"
            why = "no images are held out" if part == "held-out" and not count else few
            return Finding(name, needs.title, "", "", f"{NOT_APPLICABLE}: {why}", "")
    return None
