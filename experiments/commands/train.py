"""`scorefield train`: a preset, overridden field by field, trained or resumed in a folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import presets
from experiments.commands.init_from import fitted, init_of, initial_config, is_begun, report, require_start
from experiments.commands.options import parse, take_flag
from experiments.commands.spelling import flags_of, respelt
from experiments.config.checks import check
from experiments.config.choices import NODES
from experiments.config.file import document, load_config
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.data.registry import SOURCES
from experiments.errors import UsageError
from experiments.names import choose
from experiments.progress import reporting
from experiments.sampling import solver
from experiments.training.kept import run_config, run_source

if TYPE_CHECKING:
    from experiments.training.warm_start import InitFrom

DESCRIPTION = """\
Train a model on images. The same command again resumes the training, bit for bit.

  scorefield train --preset digits-ddpm --outdir runs/digits
  scorefield train --preset photos-cpu --data folder:photos
  scorefield train --run runs/digits
  scorefield train --config runs/digits/config.json --outdir runs/other --training.seed 1
  scorefield train --init-from runs/digits --data folder:letters --outdir runs/letters

{common}--run goes on with a run by its own configuration, --config starts a new one from a file,
--init-from one from the parameters of another run, and unless a preset or a file is given by its
configuration. --track NAMES is short for --tracking.trackers.
Otherwise a preset comes first. Every field can be overridden. These choose the data and the
types, to which --plugin MODULE adds those of a module of your own; their fields follow:
{names}
"""


COMMON = (
    ("--preset NAME", "the configuration to start from; `scorefield presets` lists them"),
    ("--data URI", "the images, such as folder:photos"),
    ("--data.size N", "resize every image to N × N pixels, or 48x64: height first"),
    ("--data.held-out F", "fraction of the images held out from training"),
    ("--data.flip", "mirror images at random"),
    ("--conditional", "learn the classes of the images; --no-conditional does not"),
    ("--outdir DIR", "folder of the run"),
    ("--init-from RUN", "begin from the parameters of another run"),
    ("--training.steps N", "number of updates"),
    ("--training.batch-size N", "images in a batch"),
    ("--training.sample-every N", "steps between pictures of samples"),
    ("--training.checkpoint-every N", "steps between checkpoints"),
    ("--training.seed N", "seed of the run"),
    ("--optimizer.learning-rate F", "peak learning rate"),
    ("--network NAME", "unet, dit, mlp or jit; its fields are --network.channels and so on"),
    ("--track NAMES", "tell tensorboard, wandb or trackio, or several of them"),
    ("--dry-run", "print the configuration, and what a training takes, and stop"),
)
"""The options that most people need, for the short help."""


def short_help() -> str:
    """What `--help` prints: the options that most people need."""
    rows = "\n".join(f"  {flag:32}{what}" for flag, what in COMMON)
    text = DESCRIPTION.partition("{common}")[0]
    return f"usage: scorefield train [options]\n\n{text}{rows}\n\n`scorefield train --help all` shows every option.\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """The arguments of `scorefield train`."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder of a run to go on with, by its own configuration; of other flags only those that may change go with it."""
    file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """File with the configuration to start from, such as the config.json of a run; --outdir goes with it."""
    preset: str = "digits-ddpm"
    """Name of the configuration to start from; `scorefield presets` lists them."""
    outdir: Path | None = None
    """Folder of the run, for checkpoints, config.json, metrics.jsonl and samples/. [runs/PRESET]"""
    init_from: Path | None = None
    """Folder of a run, or of one of its checkpoints, whose parameters a new run begins from, with a new optimiser and
    schedule; --outdir goes with it. Unless --preset or --config is given, the configuration is that run's, too."""
    init_ema: str = "0"
    """Which of its parameters: the number of an average, counted from 0, or raw."""
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
    return DESCRIPTION.format(
        common="", names="\n".join(f"  --{node} {{{','.join(names)}}}" for node, names in forms.items())
    )


def read(argv: list[str]) -> TrainArguments:
    """The preset, or the configuration of a run or a file, with all overrides, which `check` has not seen yet.

    Raises UsageError for anything that cannot be read, CheckpointError for a run or a file that cannot be.
    """
    start, config, argv = _start(respelt(_with_sigma_data(argv), flags_of(TrainArguments)))
    source, argv = take_flag(argv, "--data")
    nodes = {}
    for node, choices in NODES.items():
        name, argv = take_flag(argv, f"--{node}")
        if name is not None:
            nodes[node] = choose(f"--{node}", name, choices)()
    if source is not None:
        argv = ["--data.source", source, *argv]
    trackers, argv = take_flag(argv, "--track")
    if trackers is not None:
        argv = [*argv, "--tracking.trackers", *filter(None, trackers.split(","))]
    taken = (*_STARTS, "--data", "--track", *(f"--{node}" for node in NODES))
    arguments = _parse(argv, dataclasses.replace(config, **nodes), start, taken)
    if arguments.run is not None and arguments.outdir is not None:
        raise UsageError(f"--run {arguments.run} goes on in that folder; leave --outdir out, or give --config FILE.")
    if arguments.file is not None and arguments.outdir is None and not arguments.dry_run:
        raise UsageError("--config starts a new run; say where by --outdir, or go on with a run by --run.")
    _check_init(arguments, start)
    return arguments


def _check_init(arguments: TrainArguments, start: dict[str, Any]) -> None:
    """Raise UsageError for an --init-from that has no place to go to, and for an --init-ema that is none."""
    place, ema = arguments.init_from, arguments.init_ema
    if not (ema == "raw" or (ema.isascii() and ema.isdecimal())):
        raise UsageError(f"--init-ema {ema!r} is neither raw nor the number of an average, counted from 0.")
    if place is None:
        if ema != "0":
            raise UsageError(f"--init-ema {ema} goes with --init-from; say which run's parameters are meant.")
        return
    if arguments.run is not None:
        raise UsageError(f"--run {arguments.run} goes on with that run; leave --init-from out, or give --outdir.")
    if not start and arguments.outdir is None and not arguments.dry_run:
        raise UsageError("--init-from starts a new run; say where by --outdir.")


_STARTS = ("--run", "--config", "--preset")
"""The flags that say what to start from."""


def _start(argv: list[str]) -> tuple[dict[str, Any], Config, list[str]]:
    """(What the arguments are to say of it, the configuration to start from, the other words)."""
    (run, argv), given = take_flag(argv, "--run"), argv
    file, argv = take_flag(argv, "--config")
    preset, argv = take_flag(argv, "--preset")
    named = [flag for flag, value in zip(_STARTS, (run, file, preset), strict=True) if value is not None]
    if len(named) > 1:
        raise UsageError(f"{named[0]} and {named[1]} both say what to start from; leave one of them out.")
    asks_for_help = any(word in ("-h", "--help") for word in given)
    if run is not None and not asks_for_help:
        if (Path(run) / "SHA256SUMS").exists():
            raise UsageError(f"--run {run} is a single checkpoint; give the folder of its run.")
        return {"run": Path(run)}, run_config(Path(run)), argv
    if file is not None and not asks_for_help:
        path = Path(file)
        if not path.is_file():
            inside = path / "config.json"
            remedy = f"give {inside}" if inside.is_file() else "give a file, such as the config.json of a run"
            remedy = f"give --preset {file}" if file in presets.names() else remedy
            raise UsageError(f"--config {file} is no file; {remedy}.")
        return {"file": path}, load_config(path), argv
    source, _ = take_flag(argv, "--init-from")
    if source is not None and preset is None and not asks_for_help:
        return {}, initial_config(Path(source), argv), argv
    preset = preset or TrainArguments.__dataclass_fields__["preset"].default
    size, _ = take_flag(argv, "--data.size")
    known = size not in (None, "None") and not any(wrong for wrong, _ in DataConfig(size=size).refusals())
    return {"preset": preset}, presets.load(preset, DataConfig(size=size).size if known else None), argv


def _with_sigma_data(argv: list[str]) -> list[str]:
    """`argv` in which a number for `sigma_data` turns its measurement off, and auto turns it on."""
    flags = ("--preconditioning.sigma-data", "--weighting.sigma-data")
    argv = [word.replace("_", "-") if word.startswith(("--pre", "--wei", "--sigma")) else word for word in argv]
    said = [take_flag(argv, flag)[0] for flag in flags]
    if "auto" in said:
        if said[0] not in (None, "auto") or said[1] not in (None, "auto"):
            raise UsageError(
                f"{flags[0]} {said[0]} and {flags[1]} {said[1]} differ; give one number, or auto for both."
            )
        for flag in flags:
            argv = take_flag(argv, flag)[1]
        return [*argv, "--sigma-data", "auto"]
    return (
        [*argv, "--sigma-data", "given"]
        if said != [None, None] and take_flag(argv, "--sigma-data")[0] is None
        else argv
    )


def _parse(argv: list[str], config: Config, start: dict[str, Any], taken: Sequence[str]) -> TrainArguments:
    """The arguments, with `config` and `start` as their defaults.

    tyro is given the types that stand at the nodes of `config` alone: those of a plugin are not in the hints.
    """
    types: list[Any] = [(node, type(getattr(config, node))) for node in NODES]
    exact = dataclasses.make_dataclass("Config", types, bases=(Config,), frozen=True, kw_only=True)
    field = ("config", Annotated[exact, tyro.conf.arg(name="")])
    cls = dataclasses.make_dataclass("TrainArguments", [field], bases=(TrainArguments,), frozen=True, kw_only=True)
    default = cls(config=exact(**_fields(config)), **start)
    parsed = parse(cls, argv, "scorefield train", describe(), default, taken)
    return TrainArguments(**{**_fields(parsed), "config": Config(**_fields(parsed.config))})


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def run(argv: list[str]) -> int:
    """Train; returns the exit status."""
    if argv in (["-h"], ["--help"]):
        print(short_help(), end="")
        return 0
    arguments = read(["--help"] if argv == ["--help", "all"] else argv)
    if arguments.dry_run:
        return _train(arguments, argv)
    _join(arguments)
    from experiments.memory import remedied
    from experiments.training import budget, peers

    with peers.as_one(), remedied(budget.remedy(arguments.config)):
        return _train(arguments, argv)


def _train(arguments: TrainArguments, argv: list[str]) -> int:
    """Train by arguments that were read from `argv`, or show the configuration; returns the exit status."""
    check(arguments.config)
    solver.build_own(arguments.config)  # refuses now what could not be sampled in the end
    outdir = arguments.outdir or arguments.run or Path("runs") / arguments.preset
    from experiments.tracking.choice import require_trackers
    from experiments.training.data import open_data, tell
    from experiments.training.loop import train
    from experiments.training.resume import with_own_rules
    from experiments.training.settle import settled

    require_trackers(arguments.config)
    words, quiet = {word.partition("=")[0] for word in argv}, arguments.quiet or arguments.json
    config = with_own_rules(arguments.config, outdir, told="--data.rules" in words)
    told = not words.isdisjoint(("--data", "--data.source"))
    place = None if arguments.run is None or told else run_source(arguments.run, config)
    init = init_of(arguments.init_from, arguments.init_ema)
    if init is not None and is_begun(outdir) and place is None and not told:
        place = run_source(outdir, config)
    fits = words.isdisjoint(("--preset", "--config")) and not is_begun(outdir)
    require_start(init, argv, outdir)  # before the data are read
    if arguments.dry_run:
        return _show(config, outdir, place, init, fits)
    with reporting(quiet):
        data = open_data(config, place)
    tell(data, quiet)
    config = settled(config, data)
    if init is not None and fits:
        config = fitted(config, init, data.facts)
    on_sample = None
    if config.training.sample_every:
        from experiments.pictures.preview import GridWriter

        on_sample = GridWriter(config, data.facts, outdir)
    measuring = None
    if config.measure.levels_every or config.measure.frechet_every:
        from experiments.evaluation.along import measures_of as measuring
    given = {"quiet": quiet, "restart": arguments.restart, "init_from": init, "measuring": measuring}
    result = train(config, outdir, data=data, on_sample=on_sample, **given)
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


def _show(config: Config, outdir: Path, place: str | None, init: InitFrom | None, fits: bool) -> int:
    """Print the configuration, and what the data are and a training on them takes, or raise what it would raise."""
    from experiments.training.budget import expectation
    from experiments.training.data import open_data, tell
    from experiments.training.settle import settled

    expected, source = None, {}
    try:
        with reporting():
            data = open_data(config, place)
        tell(data, quiet=False)
        config = settled(config, data)
        if init is not None and not is_begun(outdir):
            config = fitted(config, init, data.facts) if fits else config
            source = {"init_from": report(init, config, data.facts)}
        expected = expectation(config, data.facts)
    finally:
        shown = {"outdir": str(outdir), "config": document(config), **source, "expected": expected}
        print(json.dumps(shown, indent=2))
    return 0


def _join(arguments: TrainArguments) -> None:
    """Join the run's other processes, if there are any: before a schedule of the user's own may start JAX."""
    from experiments.training import distributed

    several = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if any(flag is not None for flag in several) or distributed.in_cluster():
        distributed.initialize(*several)
