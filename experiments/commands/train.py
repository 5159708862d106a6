"""`scorefield train`: a preset, overridden field by field, trained or resumed in a folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.noises import Gaussian, StudentT
from diffusion.schedules import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma, UniformTime
from diffusion.score_matching.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityWeighting,
)
from experiments import presets
from experiments.commands.options import parse, take_flag
from experiments.config.file import to_json
from experiments.config.tree import Chain, Config, Denoising, Generator, ImportanceConfig
from experiments.names import choose
from experiments.sampling import solver

NODES = {
    "schedule": {
        **{"vp": VP, "sub-vp": SubVP, "cosine": Cosine, "ve": VE, "edm": EDM},
        **{"rectified-flow": RectifiedFlow, "chain": Chain},
    },
    "noise": {"gaussian": Gaussian, "student-t": StudentT},
    "network": {"unet": UNetConfig, "dit": DiTConfig, "mlp": MLPConfig},
    "weighting": {
        **{"edm": EDMWeighting, "snr": SNRWeighting, "min-snr": MinSNRWeighting, "uniform": UniformWeighting},
        **{"likelihood": LikelihoodWeighting, "velocity": VelocityWeighting},
    },
    "times": {
        **{"log-normal": LogNormalSigma, "log-uniform": LogUniformSigma},
        **{"uniform": UniformTime, "importance": ImportanceConfig},
    },
    "objective": {"denoising": Denoising, "generator": Generator},
}
"""The nodes that can be one of several types, and their names on the command line."""

_TAKEN = ("--preset", "--data", *(f"--{node}" for node in NODES))

DESCRIPTION = """\
Train a model on images, or go on with a training: the same command again resumes, bit for bit.

  scorefield train --preset digits-ddpm --outdir runs/digits
  scorefield train --preset mnist-edm-unet --data folder:photos --data.size 28 --no-conditional

A preset comes first; every field of it can be overridden. These choose a type, whose fields follow:
""" + "\n".join(f"  --{node} {{{','.join(choices)}}}" for node, choices in NODES.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What `scorefield train` is told."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: str = "digits-ddpm"
    """The configuration to start from; `scorefield presets` lists them."""
    outdir: Path | None = None
    """Folder of the run: checkpoints, config.json, metrics.jsonl, samples/. [runs/PRESET]"""
    dry_run: bool = False
    """Print the resolved configuration and stop."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for several hosts; found by itself on TPU and under SLURM."""
    num_processes: int | None = None
    """Number of processes, for several hosts."""
    process_id: int | None = None
    """This process's number, for several hosts."""


def read(arguments: list[str]) -> TrainArguments:
    """The preset with all overrides.

    Raises UsageError for anything that cannot be read or trained.
    """
    preset, arguments = take_flag(arguments, "--preset")
    preset = preset or TrainArguments.__dataclass_fields__["preset"].default
    config = presets.load(preset)
    source, arguments = take_flag(arguments, "--data")
    nodes = {}
    for node, choices in NODES.items():
        name, arguments = take_flag(arguments, f"--{node}")
        if name is not None:
            nodes[node] = choose(f"--{node}", name, choices)()
    if source is not None:
        arguments = ["--data.source", source, *arguments]
    # Nodes that only fit together are replaced together; the whole is checked once more when it is parsed.
    default = TrainArguments(config=_unchecked(config, nodes), preset=preset)
    return parse(TrainArguments, arguments, "scorefield train", DESCRIPTION, default, _TAKEN)


def _unchecked(config: Config, nodes: dict[str, object]) -> Config:
    """`config` with other nodes, before the flags that may be needed to make it consistent."""
    changed = object.__new__(Config)
    for field in dataclasses.fields(Config):
        object.__setattr__(changed, field.name, nodes.get(field.name, getattr(config, field.name)))
    return changed


def run(arguments: list[str]) -> int:
    """Train; returns the exit status."""
    told = read(arguments)
    told = dataclasses.replace(told, config=dataclasses.replace(told.config))  # checks what no flag has touched
    solver.build_own(told.config)  # refuses now what could not be sampled in the end
    outdir = told.outdir or Path("runs") / told.preset
    if told.dry_run:
        print(json.dumps({"outdir": str(outdir), "config": to_json(told.config)}, indent=2))
        return 0
    from experiments.training import distributed
    from experiments.training.data import open_data
    from experiments.training.loop import train

    several = (told.coordinator, told.num_processes, told.process_id)
    if any(flag is not None for flag in several) or distributed.in_cluster():
        distributed.initialize(told.coordinator, told.num_processes, told.process_id)
    data = open_data(told.config)
    on_sample = None
    if told.config.training.sample_every:
        from experiments.pictures.preview import GridWriter

        on_sample = GridWriter(told.config, data.facts, outdir)
    result = train(told.config, outdir, data=data, on_sample=on_sample, quiet=told.quiet or told.json)
    if told.json:
        summary = {
            "outdir": str(outdir),
            "step": result.step,
            "loss": result.loss,
            "held_out_loss": result.held_out_loss,
        }
        print(json.dumps({**summary, "checkpoint": str(result.checkpoint), "signal": result.signum}))
    elif not told.quiet and result.signum is None:
        print(f"Trained to step {result.step}: {outdir}", file=sys.stderr)
    return result.exit_status
