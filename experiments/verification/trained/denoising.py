"""The denoiser as a regression: bounds on its loss, patterns in its errors, and its limit without noise."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from experiments.verification.laws import alpha_and_sigma
from experiments.verification.registry import STANDARD_ERRORS
from experiments.verification.trained.finding import (
    NOT_APPLICABLE,
    TENTH,
    Finding,
    Quantity,
    curves,
    estimate,
    number,
    ratio,
    root,
    verdict_of,
)
from experiments.verification.trained.needs import NEEDS
from experiments.verification.trained.passes import Pass, Passes, draws
from experiments.verification.trained.subject import LEVELS, Subject, batches, denoised, levels_at, ratio_range, spread
from experiments.verification.trained.words import at_levels, causes


def loss(subject: Subject, passes: Passes) -> Finding:
    """The loss, between the least possible, of the training set's exact denoiser, and that of the best affine one."""
    levels, training, held_out = subject.levels, passes.training, passes.held_out
    rows = {"training": tuple(root(estimate(one.error)) for one in training)}
    if held_out is not None:
        rows["held out"] = tuple(root(estimate(one.error)) for one in held_out)
    rows["exact, training set"] = tuple(root(estimate(one.least)) for one in training)
    affine = [one.affine for one in training if one.affine is not None]
    if affine:
        rows["best affine"] = tuple(root(estimate(one)) for one in affine)
    shown = curves(rows, [level.ratio for level in levels], "RMS error")
    if subject.share is not None:
        rows["share of training"] = tuple(Quantity(_share(subject, level.ratio)) for level in levels)
    faults = _faults_of_loss(subject, passes)
    good = "The loss lies between what the training set allows and what its mean and covariance give for nothing"
    good += "." if held_out is None else ", and held-out images are denoised as well as training images."
    return Finding(
        "loss",
        NEEDS["loss"].title,
        r"\mathbb{E}|x_0 - D^*(x_t)|^2 \leq \mathbb{E}|x_0 - D(x_t)|^2 \leq \min_{A,b}\mathbb{E}|x_0 - A x_t - b|^2",
        f"root mean square of x_0 − D per pixel, over {draws(subject)} draws of training and of held-out images; "
        "D* is the exact denoiser of the training set"
        + (", of the image's class" if subject.num_classes else "")
        + f". A pixel's standard deviation is {number(subject.scale)}.",
        verdict_of(bool(faults)),
        " ".join(faults) or good,
        limit=f"{STANDARD_ERRORS:g} standard errors beyond a tenth of the mean square, 5% of the error itself; "
        "below the exact denoiser's loss, where nothing can be, by 4 standard errors",
        levels=tuple(level.ratio for level in levels),
        rows=rows,
        plot=shown,
    )


def _faults_of_loss(subject: Subject, passes: Passes) -> list[str]:
    """A sentence or two on each fault of the loss."""
    training, held_out, sentences = passes.training, passes.held_out, []
    broken = [i for i, one in enumerate(training) if not np.isfinite(one.error).all()]
    if broken:
        return [f"{at_levels(subject, broken)} the network's answers are not finite numbers."]
    if worse := [i for i, one in enumerate(training) if one.affine is not None and _excess(one).above(TENTH)]:
        sentences.append(
            f"{at_levels(subject, worse)} the mean and the covariance of the images alone, which is what the best "
            "affine denoiser knows, do better than the network. " + causes(subject, worse, "undertrained")
        )
    gaps = [] if held_out is None else [_gap(*pair) for pair in zip(training, held_out, strict=True)]
    if overfit := [i for i, gap in enumerate(gaps) if gap.above(TENTH)]:
        sentences.append(
            f"{at_levels(subject, overfit)} the loss on held-out images is more than a tenth above that on training "
            "images: the network has begun to know them by heart. Fewer steps, more images, dropout or mirror images "
            "help; --best takes the checkpoint of the lowest held-out loss. Or the two parts are not of one kind."
        )
    if below := [i for i, one in enumerate(training) if estimate(one.error - one.least).below(0.0)]:
        sentences.append(
            f"{at_levels(subject, below)} the loss is below that of the exact denoiser, which is impossible: the "
            "network is told more than x_t, such as labels that give images away, or it was trained on other images."
        )
    return sentences


def _excess(one: Pass) -> Quantity:
    """The relative excess of the loss over that of the affine denoiser."""
    assert one.affine is not None
    found = ratio(one.error, one.affine)
    return Quantity(found.value - 1, found.standard_error)


def _gap(training: Pass, held_out: Pass) -> Quantity:
    """The relative excess of the loss on held-out images over that on training images."""
    mine, theirs = estimate(training.error), estimate(held_out.error)
    value = theirs.value / mine.value
    error = math.hypot(theirs.standard_error / mine.value, value * mine.standard_error / mine.value)
    return Quantity(value - 1, error)


def _share(subject: Subject, ratio: float) -> float:
    assert subject.share is not None
    return subject.share(ratio * 10**-0.25, ratio * 10**0.25)


def unbiased(subject: Subject, passes: Passes) -> Finding:
    """The correlations of the remaining error with functions of x_t."""
    levels, found = subject.levels, passes.training
    names = {"a fixed image": "a fixed image", "its own answer": "its own answer D", "what it sees": "tanh(c x_t)"}
    rows = {label: tuple(one.correlations[name] for one in found) for name, label in names.items()}
    rows = {"mean of ε̂ − ε": tuple(one.bias for one in found), **rows}
    wrong = {name: [i for i, one in enumerate(found) if _beyond(one.correlations[name])] for name in names}
    sentences = []
    if where := wrong["a fixed image"]:
        sentences.append(
            f"{at_levels(subject, where)} the answers are off by a fixed image, which a constant would mend. "
            + causes(subject, where, "bias")
        )
    if where := wrong["its own answer"]:
        r = max((found[i].correlations["its own answer"].value for i in where), key=abs)
        way = "too large" if r > 0 else "too small"
        sentences.append(
            f"{at_levels(subject, where)} the answers are {way}: a multiple of themselves would do better. "
            + causes(subject, where, "scale")
        )
    if where := [i for i in wrong["what it sees"] if i not in wrong["its own answer"]]:
        sentences.append(
            f"{at_levels(subject, where)} too much or too little of x_t is left in the answers. "
            + causes(subject, where, "scale")
        )
    good = (
        "No fixed image, no multiple of the answer and no function of x_t that was tried would, beyond doubt, take a "
        "hundredth off the loss: what is left of the error has no such pattern."
    )
    return Finding(
        "unbiased",
        NEEDS["unbiased"].title,
        r"\mathbb{E}[\hat\epsilon(x_t,t)] = \mathbb{E}[\epsilon] = 0\quad"
        r"\mathbb{E}[(\epsilon - \hat\epsilon(x_t,t))\cdot\psi(x_t)] = 0",
        f"the error D − x_0, which is −σ/α times ε̂ − ε, with functions ψ of x_t over {draws(subject)} draws of "
        "training images: correlations E[e·ψ]/√(E|e|² E|ψ|²), whose square is the part of the loss that a multiple "
        "of ψ would take off. The fixed image is learnt on half of the draws and tried on the others.",
        verdict_of(any(wrong.values())),
        " ".join(sentences) or good,
        limit="a correlation that is beyond a tenth by 4 standard errors: 1% of the loss. Whether it is 0 is a "
        "question of the number of draws alone, for no network is exact.",
        levels=tuple(level.ratio for level in levels),
        rows=rows,
        plot=curves(rows, [level.ratio for level in levels], "correlation", log_y=False),
    )


def _beyond(correlation: Quantity) -> bool:
    return correlation.above(TENTH) or correlation.below(-TENTH)


def identity(subject: Subject) -> Finding:
    """The denoiser at the least noise, where there is next to nothing to remove."""
    lowest = ratio_range(subject.process)[0]
    levels = levels_at(subject.process, (lowest, math.sqrt(lowest * LEVELS[0]), max(lowest, LEVELS[0])))
    title = NEEDS["identity"].title
    latex = r"\lim_{\sigma\rightarrow 0} D(x,t) = x\quad\mathbb{E}|D(x_t) - x_t/\alpha|^2 \leq d\,\sigma^2/\alpha^2"
    compared = (
        f"root mean squares per pixel over σ/α, for {subject.samples} noisy training images: of D(x_t) − x_t/α, what "
        "is taken away, and of D(x_t) − x_0, what is left. The exact denoiser has both below 1, and their squares "
        "add up to 1."
    )
    if lowest > 5 * LEVELS[0]:
        why = f"the least noise of this process is σ/α = {number(lowest)}, which is much"
        return Finding("identity", title, latex, compared, f"{NOT_APPLICABLE}: {why}", "")
    moved, left = [], []
    for level in levels:
        a, b = _deviations(subject, level.t, level.ratio)
        moved.append(a)
        left.append(b)
    rows = {"what is taken away": tuple(map(root, moved)), "what is left": tuple(map(root, left))}
    limit = (1 + TENTH) ** 2
    wrong = [i for i in range(len(levels)) if moved[i].above(limit) or left[i].above(limit)]
    worst = max((rows["what is left"][i].value * levels[i].ratio for i in wrong), default=0.0)
    bad = (
        f"At σ/α = {', '.join(number(levels[i].ratio) for i in wrong)} the denoiser does harm: its answer is further "
        f"from the image than x_t/α itself, by {_seen(subject, worst)}. " + causes(subject, wrong, "ends", levels)
    )
    good = (
        "Where there is next to no noise the denoiser hands on what it is given, and takes no more than the noise away."
    )
    return Finding(
        "identity",
        title,
        latex,
        compared,
        verdict_of(bool(wrong)),
        bad if wrong else good,
        limit="1.1, a tenth above 1, by 4 standard errors: x_t/α itself would be nearer to x_0",
        levels=tuple(level.ratio for level in levels),
        rows=rows,
        plot=curves(rows, [level.ratio for level in levels], "over σ/α"),
    )


def _seen(subject: Subject, distance: float) -> str:
    if subject.of_points:
        return f"{number(distance)} in the units of the points"
    if distance < subject.bin_width / 2:
        return "less than half a grey level: nobody sees it, but likelihoods and scores do"
    return f"{number(distance / subject.bin_width)} grey levels"


def _deviations(subject: Subject, t: float, level: float) -> tuple[Quantity, Quantity]:
    """(E|D − x_t/α|², E|D − x_0|²), each over dσ²/α²."""
    images, repetitions = spread(subject.training, subject.samples)
    moved, left = [], []
    alpha = np.float32(alpha_and_sigma(subject.process, t)[0])
    for batch in batches(subject, subject.training, t, subject.samples, 20):
        answer = denoised(subject.denoiser(batch.labels), batch.x_t, jnp.asarray(t, batch.x_t.dtype))
        kept = len(batch.places)
        x_t, x_0, answer = (np.asarray(part) for part in (batch.x_t, batch.x_0, answer))
        for out, target in ((moved, x_t / alpha), (left, x_0)):
            off = np.asarray(answer - target, np.float64).reshape(len(answer), -1)
            square = np.mean((off / level) ** 2, axis=1)
            out.append(square[:kept])
    a, b = (estimate(np.concatenate(out).reshape(images, repetitions).mean(1)) for out in (moved, left))
    return a, b
