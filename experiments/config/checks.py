"""Which combinations of values cannot be trained, and what to do about it."""

from __future__ import annotations

import dataclasses

from diffusion.noises import Gaussian
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma
from diffusion.score_matching.weightings import EDMWeighting, LikelihoodWeighting, VelocityWeighting
from experiments.config.choices import spelt_at
from experiments.config.nodes import Chain, Denoising, FlowMap, Generator, ImportanceConfig
from experiments.config.tree import Config
from experiments.errors import Refusals, refuse


def check(config: Config) -> None:
    """See that `config` can be trained: first each of its parts by itself, then how they go together.

    It is called where a configuration comes from outside: by the command line, by `load_config`, and by `train`.
    Raises UsageError for the first value or combination that cannot be trained.
    """
    for part in (*(getattr(config, field.name) for field in dataclasses.fields(config)), config):
        if hasattr(part, "refusals"):  # the core's nouns refuse bad values when they are made
            refuse(part.refusals())
    refuse(_refused_batches(config))
    refuse(_refused_courses(config))
    refuse(_refused_combinations(config))


def _refused_batches(config: Config) -> Refusals:
    batch, parts = config.training.batch_size, config.optimizer.accumulate
    return [
        (
            batch % parts != 0,
            f"--training.batch-size {batch} is not a multiple of --optimizer.accumulate {parts}; choose one that "
            "divides the other.",
        )
    ]


def _refused_courses(config: Config) -> Refusals:
    rule, steps = config.optimizer, config.training.steps
    return [
        (
            rule.cooldown_steps > 0 and rule.warmup_steps + rule.cooldown_steps > steps,
            f"--optimizer.cooldown-steps {rule.cooldown_steps} begins before the {rule.warmup_steps} steps of the "
            f"warm-up are over, for --training.steps is {steps}; give fewer, or train longer.",
        )
    ]


def _refused_combinations(config: Config) -> Refusals:
    discrete, kind = isinstance(config.schedule, Chain), config.preconditioning.kind
    blank = config.process().schedule.ends_in_noise
    is_gaussian, noise = isinstance(config.noise, Gaussian), spelt_at("noise", config.noise).replace("-", "_")
    return [
        *_refused_augmentations(config),
        *_refused_objectives(config),
        *_refused_levels(config),
        (
            config.learned_variance and not discrete,
            f"--learned-variance goes with --schedule chain, and the schedule is {type(config.schedule).__name__}.",
        ),
        (config.learned_variance and not is_gaussian, "--learned-variance needs --noise gaussian."),
        (
            config.learned_variance and kind in ("edm", "vp", "ve", "iddpm", "pfgmpp"),
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
            not is_gaussian
            and (config.preconditioning.kind == "score" or isinstance(config.weighting, LikelihoodWeighting)),
            f"--noise {noise} has no score and no likelihood weighting; use another prediction and weighting.",
        ),
        (
            kind in ("eps", "score") and blank,
            f"--preconditioning.kind {config.preconditioning.kind} does not determine the image at the prior of "
            f"{type(config.schedule).__name__}, where there is none in x_t; use velocity, v or x0.",
        ),
        (
            kind in ("edm", "vp", "ve", "iddpm", "pfgmpp") and blank,
            f"--preconditioning.kind {kind} is told ln(σ/α), which is infinite at the prior of "
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
    if isinstance(rule, FlowMap):
        return _refused_flow_maps(config, rule)
    return [
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


def _refused_augmentations(config: Config) -> Refusals:
    """Losses in which there are other images of the data than those that are noised."""
    rule = config.objective
    kind = {Generator: "--objective generator", FlowMap: "--objective flow-map"}.get(type(rule))
    return [
        (
            config.augment.on and (not isinstance(rule, Denoising) or rule.reference > 0),
            "--augment goes with the plain denoising loss, where the network can be told what was done to an image; "
            f"leave {kind or '--objective.reference'} out, or give --augment.probability 0 --augment.pad 0.",
        )
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


def _refused_flow_maps(config: Config, rule: FlowMap) -> Refusals:
    return [
        (
            rule.loss == "consistency" and config.preconditioning.kind == "x0",
            "--objective.loss consistency is held at the data by the preconditioning alone, and with "
            "--preconditioning.kind x0 any constant answer costs nothing; use edm, velocity or v.",
        ),
        (
            isinstance(config.schedule, Chain),
            "--objective flow-map needs a derivative in t, and a chain has none; give --schedule edm.",
        ),
        (
            config.conservative or config.learned_variance or isinstance(config.times, ImportanceConfig),
            "--objective flow-map goes without --conservative, --learned-variance and --times importance; leave them "
            "out.",
        ),
        (
            config.preconditioning.kind == "residual",
            "--preconditioning.kind residual is not told the noise level, and a flow map goes from one to another; use "
            "edm, velocity, v or x0.",
        ),
    ]


def _refused_generators(config: Config, rule: Generator) -> Refusals:
    largest = config.schedule.sigma_max if isinstance(config.schedule, EDM) else 0.0
    return [
        (
            not 0 < rule.sigma <= rule.sigma_max < largest,
            f"--objective.sigma is {rule.sigma:g} and --objective.sigma-max {rule.sigma_max:g}, "
            f"with --schedule {type(config.schedule).__name__}; a generator needs "
            "--schedule edm and noise levels 0 < sigma <= sigma-max below --schedule.sigma-max.",
        ),
        (
            config.preconditioning.kind != "x0" or not isinstance(config.noise, Gaussian),
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
