"""A trained model under the equations: what is out of line, by how much, and what usually causes it.

    findings = check_run(model, training, held_out, samples=256, seed=0, batch=64)
    print(lines(findings))

The checks are functions in the other modules of this package; `check` takes any `Subject`, from a run or not.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from diffusion.prediction import Denoiser
from experiments.config.nodes import ImportanceConfig
from experiments.config.tree import Config
from experiments.data.lazy import Mirrored
from experiments.data.scaling import bin_width
from experiments.data.source import Source
from experiments.errors import ScorefieldError
from experiments.names import canonical
from experiments.progress import tracked
from experiments.runs.model import Model, make_denoiser
from experiments.verification.trained import denoising, fields, likelihood, memory, sampling
from experiments.verification.trained.finding import OUT_OF_LINE, Finding, Quantity, lines
from experiments.verification.trained.needs import too_few
from experiments.verification.trained.passes import Passes, run_passes
from experiments.verification.trained.points import in_points
from experiments.verification.trained.subject import Pictures, Subject
from samplers.ddim import DDIM
from samplers.dpm_solver import DPMSolverMultistep
from samplers.registry import SAMPLERS
from samplers.sample import Sampler

__all__ = ["Finding", "Quantity", "Subject", "check", "check_run", "lines", "subject_of"]


def check_run(
    model: Model,
    training: Source,
    held_out: Source | None,
    *,
    samples: int = 256,
    seed: int = 0,
    batch: int = 64,
    tell: Callable[[Finding], None] | None = None,
) -> list[Finding]:
    """Every check of a trained model, on images of `training`, on which it was trained, and of `held_out`.

    `samples` is the number of images that are sampled, and sets the number that are examined: the time is proportional
    to it, the square of every standard error inversely so. `batch` bounds the memory and otherwise changes the results
    by rounding only. `seed` determines all random draws. `tell` is called with each finding as soon as it is made.
    """
    return check(subject_of(model, training, held_out, samples=samples, seed=seed, batch=batch), tell)


def check(subject: Subject, tell: Callable[[Finding], None] | None = None) -> list[Finding]:
    """Every check of a subject that has enough images for it.

    A check that raises an exception is out of line, and its finding says why.
    """
    shared, findings = Shared(subject), []
    for name, measure in tracked(CHECKS.items(), "checks"):
        start = time.perf_counter()
        try:
            finding = too_few(subject, name) or measure(shared)
        except ScorefieldError:
            raise
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            why = f"It could not be measured: {type(error).__name__}: {error} ({line.name}, line {line.lineno})."
            finding = Finding(name, name, "", "", OUT_OF_LINE, why)
        finding = in_points(finding) if subject.of_points else finding
        findings.append(dataclasses.replace(finding, seconds=time.perf_counter() - start))
        if tell is not None:
            tell(findings[-1])
    return findings


class Shared:
    """A subject, and the results that several checks share."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.draws = subject, sampling.Draws(subject)

    @functools.cached_property
    def passes(self) -> Passes:
        """The passes of the denoiser at all noise levels."""
        return run_passes(self.subject)


CHECKS: dict[str, Callable[[Shared], Finding]] = {
    "loss": lambda shared: denoising.loss(shared.subject, shared.passes),
    "unbiased": lambda shared: denoising.unbiased(shared.subject, shared.passes),
    "identity": lambda shared: denoising.identity(shared.subject),
    "fokker-planck": lambda shared: fields.fokker_planck(shared.subject),
    "curl": lambda shared: fields.curl(shared.subject),
    "sde-ode": lambda shared: sampling.stochastic(shared.draws),
    "steps": lambda shared: sampling.steps(shared.draws),
    "likelihood": lambda shared: likelihood.likelihood(shared.subject),
    "memorisation": lambda shared: memory.memorised(shared.subject, shared.passes),
    "copies": lambda shared: sampling.copies(shared.draws),
}
"""All checks by name, in the order of the report: a check comes after those on which it rests."""


def subject_of(
    model: Model, training: Source, held_out: Source | None, *, samples: int, seed: int, batch: int
) -> Subject:
    """A trained model as the checks see it, with its run's sampler made deterministic."""
    config, images, labels = model.config, training.images, training.labels
    if config.data.flip:  # the mirror images, half of the training data
        whole = isinstance(images, np.ndarray)
        images = np.concatenate([images, images[:, :, ::-1]]) if whole else Mirrored(images)
        labels = None if labels is None else np.concatenate([labels, labels])

    def denoiser(labels: Array | None) -> Denoiser:
        return make_denoiser(model, labels)

    return Subject(
        model,
        denoiser,
        training=Pictures(images, labels),
        held_out=None if held_out is None else Pictures(held_out.images, held_out.labels),
        between=(lambda labels: make_denoiser(model.flow, labels)) if model.process.schedule.discrete else None,
        sampler=deterministic(config),
        grid=canonical(config.sampling.grid),
        bin_width=bin_width(model.bits),
        share=_share_of(config),
        hints=_hints(config, model.imported is not None),
        samples=samples,
        seed=seed,
        batch=batch,
    )


def _hints(config: Config, imported: bool) -> dict[str, str]:
    """The sentences on how this configuration may be to blame, by kind of cause."""
    if imported:
        return {"": "This network was trained by somebody else, on data that it does not name."}
    training, ema, kind = config.training, config.ema, config.preconditioning.kind
    hints = {"": f"This run took {training.steps} steps of {training.batch_size} images."}
    if config.augment.pad:
        hints["bias"] = (
            f"It was trained on crops that are moved by up to {config.augment.pad} pixels (--augment.pad), and these "
            "are the images as they are."
        )
    memory = round(1 / (1 - ema.decays[0]))
    if not ema.warmup and 4 * memory > training.steps:
        hints["bias"] = hints["undertrained"] = (
            f"Its average looks back over {memory} steps, which is long for this run: take --ema raw, or a smaller "
            "decay."
        )
    if kind not in ("edm", "ve", "pfgmpp"):
        hints["slope"] = (
            "The network is told the time on the scale of 1,000, which lets it waver from one time to the next; "
            "--preconditioning.kind edm is told ln(σ/α)."
        )
    if kind in ("eps", "score"):
        hints["high"] = (
            "Where there is much noise a network that predicts it leaves x_0 to the small difference (x − σε̂)/α, and "
            "its errors grow by σ/α. --preconditioning.kind edm or v predicts the image there; less noise at the prior "
            "(--sigma-max of a sampler's grid) avoids it."
        )
    if kind == "x0":
        hints["ends"] = "The network itself has to hand x_t on; --preconditioning.kind edm does that for it."
    return hints


def deterministic(config: Config) -> Sampler:
    """The run's own sampler, or the one without noise that is nearest to it."""
    name = canonical(config.sampling.sampler)
    if name in ("ancestral", "cfgpp"):
        return DDIM()
    own = SAMPLERS[name].default()
    return DPMSolverMultistep() if own.stochastic else own


def _share_of(config: Config) -> Callable[[float, float], float] | None:
    """The share of training's draws between two σ/α; None where times are drawn by importance."""
    times, process = config.times, config.process()
    if isinstance(times, ImportanceConfig):
        return None
    log_snr = jax.jit(lambda u: process.schedule.log_snr(times.quantile(process, u)))
    u = (np.arange(8192, dtype=np.float32) + 0.5) / 8192
    ratios = np.exp(-0.5 * np.asarray(log_snr(u), np.float64))
    return lambda low, high: float(np.mean((ratios >= low) & (ratios < high)))
