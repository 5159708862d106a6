"""The usual causes of what is out of line, as sentences that name a remedy, the likeliest for this run first."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.verification.trained.finding import number
from experiments.verification.trained.subject import Level, Subject

RARE = 0.01
"""The share of training's draws below which a noise level, half a factor of ten wide, is hardly trained."""
HIGH = 2.0
"""The σ/α beyond which an image cannot be made out and a prediction of the noise says little about it."""

USUAL = {
    "undertrained": "Usually the training was too short, or its learning rate or network too small.",
    "bias": "Usually the training was too short, the average of the parameters still remembers its beginning "
    "(try --ema raw), or the images are scaled otherwise than in training.",
    "scale": "Usually the training was too short, answers are clipped on the way, or the preconditioning "
    "(--preconditioning.sigma-data) does not fit the data.",
    "ends": "Usually the weighting counts these noise levels for little, or the schedule goes further down than was "
    "trained.",
    "slope": "Usually the training was too short, or these levels count for little in the loss: an error that is "
    "small itself need not have small derivatives. Likelihoods, and an SDE in place of the ODE, suffer first.",
    "curl": "Usually the training was too short; more steps, a larger network, or an average over more of them "
    "(--ema) make a better field.",
}


def causes(subject: Subject, where: Sequence[int], kind: str, levels: Sequence[Level] | None = None) -> str:
    """The sentences on what to look at first if a check of this kind is out of line at the levels numbered `where`."""
    levels = subject.levels if levels is None else levels
    if not where:
        return ""
    sentences = []
    if subject.share is not None:
        shares = [subject.share(levels[i].ratio * 10**-0.25, levels[i].ratio * 10**0.25) for i in where]
        rare = [levels[i] for i, share in zip(where, shares, strict=True) if share < RARE]
        if rare:
            sentences.append(
                f"Of training's draws less than {RARE:.0%} are near σ/α = "
                f"{', '.join(number(level.ratio) for level in rare)}: draw these levels more often (--times), or let "
                "no sampler go there (--sigma-min, --sigma-max)."
            )
        if len(rare) == len(where):
            return " ".join(sentences)
    if "high" in subject.hints and kind != "slope" and min(levels[i].ratio for i in where) >= HIGH:
        return " ".join([*sentences, subject.hints["high"]])
    return " ".join([*sentences, USUAL[kind], *(subject.hints[name] for name in (kind, "") if name in subject.hints)])


def at_levels(subject: Subject, where: Sequence[int], levels: Sequence[Level] | None = None) -> str:
    """«At σ/α = 0.02 and 0.0632», or «At every noise level»; empty if `where` is empty."""
    levels = subject.levels if levels is None else levels
    if len(where) == len(levels) > 1:
        return "At every noise level"
    names = [number(levels[i].ratio) for i in where]
    if not names:
        return ""
    return "At σ/α = " + (names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}")
