"""`scorefield train`: a preset, overridden field by field, trained or resumed in a folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import presets
from experiments.commands.options import parse, take_flag
from experiments.config.checks import check
from experiments.config.choices import NODES
from experiments.config.file import document
from experiments.config.tree import Config
from experiments.data.registry import SOURCES
from experiments.names import choose
from experiments.sampling import solver

DESCRIPTION = """\
Train a model on images, or go on with a training: the same command again resumes, bit for bit.

  scorefield train --preset digits-ddpm --outdir runs/digits
  scorefield train --preset mnist-edm-unet --data folder:photos --data.size 28 --no-conditional

A preset comes first; every field of it can be overridden. These choose its data and its
types, whose fields follow:
{names}
"""


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


def describe() -> str:
    """The help text: what the command does, and the names that choose a type."""
    forms = {"data": [kind.form for kind in SOURCES.values()], **NODES}
    return DESCRIPTION.format(names="\n".join(f"  --{node} {{{','.join(names)}}}" for node, names in forms.items()))


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
    taken = ("--preset", "--data", *(f"--{node}" for node in NODES))
    told = _parse(arguments, dataclasses.replace(config, **nodes), preset, taken)
    check(told.config)
    return told


def _parse(arguments: list[str], config: Config, preset: str, taken: Sequence[str]) -> TrainArguments:
    """The arguments, `config` their default.

    tyro is given the types that stand at the nodes of `config` alone: those of a plugin are not in the hints.
    """
    types: list[Any] = [(node, type(getattr(config, node))) for node in NODES]
    exact = dataclasses.make_dataclass("Config", types, bases=(Config,), frozen=True, kw_only=True)
    field = ("config", Annotated[exact, tyro.conf.arg(name="")])
    cls = dataclasses.make_dataclass("TrainArguments", [field], bases=(TrainArguments,), frozen=True, kw_only=True)
    told = parse(
        cls, arguments, "scorefield train", describe(), cls(config=exact(**_fields(config)), preset=preset), taken
    )
    return TrainArguments(**{**_fields(told), "config": Config(**_fields(told.config))})


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def run(arguments: list[str]) -> int:
    """Train; returns the exit status."""
    told = read(arguments)
    solver.build_own(told.config)  # refuses now what could not be sampled in the end
    outdir = told.outdir or Path("runs") / told.preset
    if told.dry_run:
        print(json.dumps({"outdir": str(outdir), "config": document(told.config)}, indent=2))
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
