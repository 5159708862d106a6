"""Memorisation: how close the network is to the exact denoiser of the training set, which knows nothing else."""

from __future__ import annotations

import math

from experiments.verification.trained.finding import (
    NOT_APPLICABLE,
    TENTH,
    Finding,
    Quantity,
    curves,
    estimate,
    root,
    verdict_of,
)
from experiments.verification.trained.needs import NEEDS
from experiments.verification.trained.passes import Pass, Passes
from experiments.verification.trained.subject import Subject
from experiments.verification.trained.words import at_levels

_TOLD_APART = 0.1  # of its held-out loss: below it the exact denoiser does as well on other images as on its own


def memorised(subject: Subject, passes: Passes) -> Finding:
    """The gap between the losses on held-out and on training images, relative to that of the exact denoiser."""
    head = (
        "memorisation",
        NEEDS["memorisation"].title,
        r"\gamma = \frac{L_{held}(D) - L_{train}(D)}{L_{held}(D^*) - L_{train}(D^*)}\quad "
        r"D^*(x_t) = \mathbb{E}[x_0|x_t],\ x_0 \in \mathrm{training\ set}",
        "the network D with D*, the exact denoiser of the training set, which knows nothing else: how much better "
        "each is on training images than on held-out ones, as a part γ of what D* is, in mean squares; and how far D "
        "is from D* and from x_0 on held-out images, root mean squares per pixel",
    )
    assert passes.held_out is not None  # `too_few` has seen to it
    pairs = list(zip(passes.training, passes.held_out, strict=True))
    places = [i for i, pair in enumerate(pairs) if _exact_gap(*pair).above(_TOLD_APART)]
    if not places:
        why = "the exact denoiser of the training set does as well on held-out images: they tell nothing apart"
        return Finding(*head, f"{NOT_APPLICABLE}: {why}", "")
    found = [_share(*pairs[i]) for i in places]
    rows = {
        "memorised part γ": tuple(found),
        "held out, to D*": tuple(root(estimate(pairs[i][1].apart)) for i in places),
        "held out, to x_0": tuple(root(estimate(pairs[i][1].error)) for i in places),
    }
    levels = [subject.levels[i] for i in places]
    wrong = [i for i, one in enumerate(found) if one.above(TENTH)]
    most = max((found[i].value for i in wrong), default=0.0)
    bad = (
        f"{at_levels(subject, wrong, levels)} the network has gone part of the way, {most:.0%} at the most, from "
        "denoising any image to recalling its training images. Usually there are too few images for the network and "
        "the length of the training; stop sooner (--best), make the network smaller, or add images, mirror images or "
        "dropout. If the held-out images are of another kind, that alone makes the gap, and nothing is memorised."
    )
    good = (
        "The network treats held-out images as it treats training images, which the exact denoiser of the training set "
        "does not."
    )
    return Finding(
        *head,
        verdict_of(bool(wrong)),
        bad if wrong else good,
        limit="γ beyond a tenth by 4 standard errors: a tenth of the price of recalling instead of denoising. Levels "
        "are left out where D* itself does as well on held-out images.",
        levels=tuple(level.ratio for level in levels),
        rows=rows,
        plot=curves({k: v for k, v in rows.items() if "held" in k}, [x.ratio for x in levels], "RMS distance"),
    )


def _difference(held_out: object, training: object) -> Quantity:
    """The difference of the means of two independent sets, with its standard error."""
    a, b = estimate(held_out), estimate(training)
    return Quantity(a.value - b.value, math.hypot(a.standard_error, b.standard_error))


def _exact_gap(training: Pass, held_out: Pass) -> Quantity:
    """The relative gap of the exact denoiser, (L_held(D*) − L_train(D*))/L_held(D*)."""
    gap, scale = _difference(held_out.least, training.least), float(held_out.least.mean())
    return Quantity(gap.value / scale, gap.standard_error / scale) if scale > 0 else Quantity(0.0)


def _share(training: Pass, held_out: Pass) -> Quantity:
    """The memorised part γ, with its standard error by linearisation."""
    scale = _difference(held_out.least, training.least).value
    value = _difference(held_out.error, training.error).value / scale
    left = _difference(held_out.error - value * held_out.least, training.error - value * training.least)
    return Quantity(value, left.standard_error / scale)
