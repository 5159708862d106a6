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
Train a model on images. The same command again resumes the training, bit for bit.

  scorefield train --preset digits-ddpm --outdir runs/digits
  scorefield train --preset mnist-edm-unet --data folder:photos --data.size 28 --no-conditional

A preset comes first; every field of it can be overridden. These choose its data and its
types, to which --plugin MODULE adds those of a module of your own; their fields follow:
{names}
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """The arguments of `scorefield train`."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: str = "digits-ddpm"
    """Name of the configuration to start from; `scorefield presets` lists them."""
    outdir: Path | None = None
    """Folder of the run, for checkpoints, config.json, metrics.jsonl and samples/. [runs/PRESET]"""
    dry_run: bool = False
    """Print the resolved configuration and stop."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress."""
    restart: bool = False
    """Train anew from step 0 where none of the run's checkpoints can be trusted; where one can, it is gone on with."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for several hosts; found automatically on TPU and under SLURM."""
    num_processes: int | None = None
    """Number of processes, for several hosts."""
    process_id: int | None = None
    """This process's number, for several hosts."""


def describe() -> str:
    """The help text: what the command does, and the names that choose a type."""
    forms = {"data": [kind.form for kind in SOURCES.values()], **NODES}
    return DESCRIPTION.format(names="\n".join(f"  --{node} {{{','.join(names)}}}" for node, names in forms.items()))


def read(argv: list[str]) -> TrainArguments:
    """The preset with all overrides, which `check` has not seen yet.

    Raises UsageError for anything that cannot be read.
    """
    preset, argv = take_flag(argv, "--preset")
    preset = preset or TrainArguments.__dataclass_fields__["preset"].default
    config = presets.load(preset)
    source, argv = take_flag(argv, "--data")
    nodes = {}
    for node, choices in NODES.items():
        name, argv = take_flag(argv, f"--{node}")
        if name is not None:
            nodes[node] = choose(f"--{node}", name, choices)()
    if source is not None:
        argv = ["--data.source", source, *argv]
    taken = ("--preset", "--data", *(f"--{node}" for node in NODES))
    return _parse(argv, dataclasses.replace(config, **nodes), preset, taken)


def _parse(argv: list[str], config: Config, preset: str, taken: Sequence[str]) -> TrainArguments:
    """The arguments, with `config` as their default.

    tyro is given the types that stand at the nodes of `config` alone: those of a plugin are not in the hints.
    """
    types: list[Any] = [(node, type(getattr(config, node))) for node in NODES]
    exact = dataclasses.make_dataclass("Config", types, bases=(Config,), frozen=True, kw_only=True)
    field = ("config", Annotated[exact, tyro.conf.arg(name="")])
    cls = dataclasses.make_dataclass("TrainArguments", [field], bases=(TrainArguments,), frozen=True, kw_only=True)
    parsed = parse(
        cls, argv, "scorefield train", describe(), cls(config=exact(**_fields(config)), preset=preset), taken
    )
    return TrainArguments(**{**_fields(parsed), "config": Config(**_fields(parsed.config))})


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def run(argv: list[str]) -> int:
    """Train; returns the exit status."""
    arguments = read(argv)
    if not arguments.dry_run:
        _join(arguments)
    check(arguments.config)
    solver.build_own(arguments.config)  # refuses now what could not be sampled in the end
    outdir = arguments.outdir or Path("runs") / arguments.preset
    if arguments.dry_run:
        print(json.dumps({"outdir": str(outdir), "config": document(arguments.config)}, indent=2))
        return 0
    from experiments.training.data import open_data
    from experiments.training.loop import train

    data = open_data(arguments.config)
    on_sample = None
    if arguments.config.training.sample_every:
        from experiments.pictures.preview import GridWriter

        on_sample = GridWriter(arguments.config, data.facts, outdir)
    result = train(
        arguments.config,
        outdir,
        data=data,
        on_sample=on_sample,
        quiet=arguments.quiet or arguments.json,
        restart=arguments.restart,
    )
    if arguments.json:
        summary = {
            "outdir": str(outdir),
            "step": result.step,
            "loss": result.loss,
            "held_out_loss": result.held_out_loss,
        }
        print(json.dumps({**summary, "checkpoint": str(result.checkpoint), "signal": result.signum}))
    elif not arguments.quiet and result.signum is None:
        print(f"Trained to step {result.step}: {outdir}", file=sys.stderr)
    return result.exit_status


def _join(arguments: TrainArguments) -> None:
    """Join the run's other processes, if there are any: before a schedule of the user's own may start JAX."""
    from experiments.training import distributed

    several = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if any(flag is not None for flag in several) or distributed.in_cluster():
        distributed.initialize(*several)
