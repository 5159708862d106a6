"""Every value or combination of values of a configuration that cannot be trained, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from diffusion.noises import StudentT
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma
from diffusion.score_matching.weightings import EDMWeighting, LikelihoodWeighting, VelocityWeighting
from experiments.config.nodes import Chain, Generator
from experiments.errors import did_you_mean
from samplers.registry import GRIDS, SAMPLERS

if TYPE_CHECKING:
    from experiments.config.tree import Config

Refusals = list[tuple[bool, str]]
"""(Whether refused, the sentence)."""


def refusals(config: Config) -> Refusals:
    """Every value or combination of values that cannot be trained."""
    return _refused_counts(config) + _refused_numbers(config) + _refused_combinations(config)


def _unknown(flag: str, name: str, names: Iterable[str]) -> tuple[bool, str]:
    known = list(names)
    near = did_you_mean(name, known)
    return name.replace(
        "_", "-"
    ).lower() not in known, f"{flag} {name} does not exist{near}; choose {', '.join(known)}."


def _refused_counts(config: Config) -> Refusals:
    training, optimizer = config.training, config.optimizer
    return [
        (training.steps < 1, f"--training.steps is {training.steps}; give at least 1."),
        (training.batch_size < 1, f"--training.batch-size is {training.batch_size}; give at least 1."),
        (training.steps_per_dispatch < 1, "--training.steps-per-dispatch must be at least 1."),
        (training.log_every < 1, f"--training.log-every is {training.log_every}; give at least 1."),
        (
            training.checkpoint_every < 1,
            f"--training.checkpoint-every is {training.checkpoint_every}; give at least 1.",
        ),
        (training.keep_best < 0, f"--training.keep-best is {training.keep_best}; give 0 or more."),
        (training.seed < 0, f"--training.seed is {training.seed}; give 0 or more."),
        (
            min(training.validate_every, training.sample_every) < 0,
            "--training.validate-every and --training.sample-every must be 0 (off) or more.",
        ),
        (config.sampling.steps < 1, f"--sampling.steps is {config.sampling.steps}; give at least 1."),
        _unknown("--sampling.sampler", config.sampling.sampler, SAMPLERS),
        _unknown("--sampling.grid", config.sampling.grid, ("auto", *GRIDS)),
        (training.keep_last < 1, f"--training.keep-last is {training.keep_last}; a run needs at least one to resume."),
        (optimizer.accumulate < 1, f"--optimizer.accumulate is {optimizer.accumulate}; give at least 1."),
        (
            training.batch_size % max(optimizer.accumulate, 1) != 0,
            f"--training.batch-size {training.batch_size} is not a multiple of --optimizer.accumulate "
            f"{optimizer.accumulate}; choose one that divides the other.",
        ),
    ]


def _refused_numbers(config: Config) -> Refusals:
    optimizer = config.optimizer
    return [
        (
            not 0 < optimizer.learning_rate < math.inf,
            f"--optimizer.learning-rate is {optimizer.learning_rate}; give a positive number.",
        ),
        (
            not (0 <= optimizer.b1 < 1 and 0 <= optimizer.b2 < 1),
            f"--optimizer.b1 {optimizer.b1} and --optimizer.b2 {optimizer.b2} must be in [0, 1).",
        ),
        (
            not (optimizer.clip_norm >= 0 and optimizer.weight_decay >= 0),
            "--optimizer.clip-norm and --optimizer.weight-decay must be 0 (off) or more.",
        ),
        (optimizer.warmup_steps < 0, f"--optimizer.warmup-steps is {optimizer.warmup_steps}; give 0 or more."),
        (
            not config.ema.decays or not all(0 <= decay < 1 for decay in config.ema.decays),
            f"--ema.decays is {config.ema.decays}; give one or more decays in [0, 1), such as 0.999.",
        ),
        (
            not 0 <= config.label_dropout <= 1,
            f"--label-dropout is {config.label_dropout}; it is a fraction between 0 and 1.",
        ),
    ]


def _refused_combinations(config: Config) -> Refusals:
    discrete, kind = isinstance(config.schedule, Chain), config.preconditioning.kind
    blank = config.process().schedule.ends_in_noise
    return [
        *_refused_objectives(config),
        *_refused_levels(config),
        (
            config.learned_variance and not discrete,
            f"--learned-variance goes with --schedule chain, and the schedule is {type(config.schedule).__name__}.",
        ),
        (config.learned_variance and isinstance(config.noise, StudentT), "--learned-variance needs --noise gaussian."),
        (
            config.learned_variance and config.preconditioning.kind == "edm",
            "--learned-variance goes with a plain prediction; add --preconditioning.kind eps.",
        ),
        (
            discrete and config.preconditioning.kind == "velocity",
            "--preconditioning.kind velocity needs a derivative in t, and a chain has none; use eps, x0 or v.",
        ),
        (
            discrete and isinstance(config.weighting, (VelocityWeighting, LikelihoodWeighting)),
            f"--weighting {type(config.weighting).__name__} needs a derivative in t, and a chain has none; use snr.",
        ),
        (
            isinstance(config.noise, StudentT)
            and (config.preconditioning.kind == "score" or isinstance(config.weighting, LikelihoodWeighting)),
            "--noise student_t has no score and no likelihood weighting; use another prediction and weighting.",
        ),
        (
            kind in ("eps", "score") and blank,
            f"--preconditioning.kind {config.preconditioning.kind} does not determine the image at the prior of "
            f"{type(config.schedule).__name__}, where there is none in x_t; use velocity, v or x0.",
        ),
        (
            kind == "edm" and blank,
            f"--preconditioning.kind edm is told ln(σ/α), which is infinite at the prior of "
            f"{type(config.schedule).__name__}; use velocity, v or x0.",
        ),
        (
            kind == "residual" and blank,
            f"--preconditioning.kind residual adds to x/α, which is infinite at the prior of "
            f"{type(config.schedule).__name__}; use velocity, v or x0.",
        ),
    ]


def _refused_objectives(config: Config) -> Refusals:
    rule = config.objective
    if isinstance(rule, Generator):
        return _refused_generators(config, rule)
    return [
        (rule.reference < 0, f"--objective.reference is {rule.reference}; give 0 (off) or a number of images."),
        (
            config.conservative and config.learned_variance,
            "--conservative answers with one gradient, and --learned-variance needs a second answer; leave one out.",
        ),
        (
            rule.reference > 0 and config.learned_variance,
            "--objective.reference is for the plain denoising loss, and --learned-variance has another; leave one out.",
        ),
        (
            rule.reference > 0 and config.conditional,
            "--objective.reference takes images of all classes for the target; add --no-conditional.",
        ),
    ]


def _refused_levels(config: Config) -> Refusals:
    """An energy is of the levels that it was trained at, and times are cut to those of the schedule."""
    times, schedule = config.times, config.schedule
    if not isinstance(times, LogUniformSigma) or not isinstance(schedule, EDM):
        return []
    return [
        (
            times.low < schedule.sigma_min or times.high > schedule.sigma_max,
            f"--times.low {times.low:g} and --times.high {times.high:g} leave the schedule's range, "
            f"{schedule.sigma_min:g} to {schedule.sigma_max:g}; give levels within it, or another "
            "--schedule.sigma-min and --schedule.sigma-max.",
        )
    ]


def _refused_generators(config: Config, rule: Generator) -> Refusals:
    largest = config.schedule.sigma_max if isinstance(config.schedule, EDM) else 0.0
    return [
        (rule.every < 1, f"--objective.every is {rule.every}; give at least 1."),
        (
            not 0 < rule.learning_rate < math.inf,
            f"--objective.learning-rate is {rule.learning_rate}; give a positive number.",
        ),
        (
            not 0 < rule.sigma <= rule.sigma_max < largest,
            f"--objective.sigma is {rule.sigma:g} and --objective.sigma-max {rule.sigma_max:g}, "
            f"with --schedule {type(config.schedule).__name__}; a generator needs "
            "--schedule edm and noise levels 0 < sigma <= sigma-max below --schedule.sigma-max.",
        ),
        (
            config.preconditioning.kind != "x0" or isinstance(config.noise, StudentT),
            "--objective generator makes the image itself of Gaussian noise; add --preconditioning.kind x0 and "
            "--noise gaussian.",
        ),
        (
            config.network.dropout > 0 or (config.times, config.weighting) != (LogNormalSigma(), EDMWeighting()),
            "--objective generator draws noise levels and weighs losses by itself, and has no dropout; leave "
            "--network.dropout, --times and --weighting out, or give --times log-normal --weighting edm.",
        ),
        (
            config.conservative or config.learned_variance or config.conditional,
            "--objective generator goes without --conservative, --learned-variance and --conditional; leave them out.",
        ),
    ]
