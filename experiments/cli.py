"""The command `scorefield`: train, sample, evaluate, and the catalogues of samplers and presets.

This module imports nothing heavy, so that `--help` and a mistyped command answer at once; each command imports
what it needs when it runs.
"""

from __future__ import annotations

import errno
import gc
import importlib
import sys
from collections.abc import Sequence

from experiments.commands import standard_streams
from experiments.commands.compilation_cache import folder_of, keep_programs
from experiments.commands.options import take_flag, take_flags
from experiments.compilation import compile_for_the_commands
from experiments.errors import ScorefieldError, UsageError, did_you_mean, reason
from experiments.memory import own_process, remedied
from experiments.training.interrupt import leaving
from experiments.training.stopping import stopping

COMMANDS = {
    "train": "train a model on images, or go on with a training",
    "sample": "draw images from a trained model",
    "edit": "complete, restore or change pictures by a trained model",
    "interpolate": "go from one picture or seed to another along a trained model's flow",
    "evaluate": "measure a trained model against held-out images",
    "likelihood": "say how likely each picture is to a trained model",
    "compare": "say how far two sets of images are from each other",
    "anomaly": "say how strange images are to a trained model with an energy",
    "verify": "measure the equations against exact answers, or a trained model against the equations",
    "data": "prepare images for training, or say what would be read",
    "grid": "fit a sampler's time grid, or a whole solver, to a trained model",
    "work-precision": "say what each solver costs on a trained model, and how near to its flow it comes",
    "ema": "make averages of other widths from a run's snapshots",
    "import": "make a run of a network that others have published",
    "export": "hand a run on: its sampler as one file, its weights, or a folder of diffusers",
    "samplers": "list the samplers",
    "presets": "list the presets",
}
MODULES = {"import": "importing", "work-precision": "work_precision"}
"""The modules of commands that have another name."""
OF_A_RUN = (
    "sample",
    "edit",
    "interpolate",
    "evaluate",
    "likelihood",
    "anomaly",
    "verify",
    "grid",
    "work-precision",
    "ema",
    "export",
)
"""Commands that take a run, by --run or as the first word."""

_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a device says that takes no more."""
_ALLOCATIONS = 100_000
"""Objects that are made before Python looks for garbage among them; its own choice is 700, or 2,000."""

REMEDIES = {
    "train": "give a smaller --training.batch-size",
    "sample": "give a smaller --batch, or fewer --seeds",
    "edit": "give a smaller --batch",
    "interpolate": "give a smaller --batch, or fewer --frames",
    "evaluate": "give a smaller --batch, or fewer --samples",
    "likelihood": "give a smaller --batch",
    "compare": "give a smaller --limit",
    "anomaly": "give fewer --images",
    "verify": "give a smaller --batch with --run, or fewer --samples",
    "data": "give a smaller --size",
    "grid": "give fewer --images",
    "work-precision": "give fewer --images",
    "ema": "give fewer --sigma-rel at a time",
    "import": "close other programs",
    "export": "close other programs",
}
"""What to do where a command runs out of memory."""

HELP = """\
usage: scorefield COMMAND [options]

Diffusion and score models in JAX.

commands:
{commands}

  scorefield train --preset digits-ddpm
  scorefield sample --run runs/digits-ddpm --seeds 0-63
  scorefield evaluate --run runs/digits-ddpm

`scorefield COMMAND --help` shows the options of a command. Every command takes --plugin MODULE, as often as needed: a
module of your own that is imported first, and registers schedules, networks, samplers, data sources or presets; and
--compilation-cache DIR, where compiled programs are kept for the next command, or off. [~/.cache/scorefield/programs]
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    0 ok, 1 output that cannot be written, 2 usage or configuration, 3 data, 4 checkpoint, 5 diverged, 6 run directory
    busy, 7 a training stopped before its first step, 8 out of memory, 9 another process of the run lost, 128 + n
    signal n.
    """
    own = arguments is None  # otherwise the process is the caller's
    if own:
        _collect_seldom()
        own_process()
        standard_streams.hold()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # as Python ends, an error could no longer be caught
        return status
    except ScorefieldError as error:
        print(f"scorefield: error: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        if own:
            standard_streams.to_nowhere(sys.stdout)
        return 141
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:
            raise
        if own:
            standard_streams.to_nowhere(sys.stdout)
        print(
            f"scorefield: error: the output cannot be written ({reason(error)}); make room, or send it elsewhere.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("scorefield: interrupted", file=sys.stderr)
        return 130


def _collect_seldom() -> None:
    """Look for garbage less often than Python does: among a million objects of the libraries that never are.

    It takes a tenth of the time to the first step. Arrays are given back as soon as nothing refers to them.
    """
    gc.set_threshold(_ALLOCATIONS, *gc.get_threshold()[1:])


def _dispatch(arguments: list[str]) -> int:
    plugins, arguments = take_flags(arguments, "--plugin")
    kept, arguments = take_flag(arguments, "--compilation-cache")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:16}{what}" for name, what in COMMANDS.items())), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"scorefield {version('scorefield')}")
        return 0
    name, *rest = arguments
    if name == "resume":
        name = "train"
    if rest and not rest[0].startswith("-") and (name in OF_A_RUN or arguments[0] == "resume"):
        rest = ["--run", *rest]
    if name not in COMMANDS:
        raise UsageError(f"{name!r} is not a command{did_you_mean(name, COMMANDS)}; there are {', '.join(COMMANDS)}.")
    compile_for_the_commands()
    remedy = remedied(REMEDIES.get(name, "close other programs"))
    with leaving() if name == "train" else stopping(), remedy:
        return _run(name, rest, plugins, kept)


def _run(name: str, rest: list[str], plugins: list[str], kept: str | None) -> int:
    folder = folder_of(kept)
    try:
        from experiments.config.plugins import load

        load(plugins)
        keep_programs(folder)
        return importlib.import_module(f"experiments.commands.{MODULES.get(name, name)}").run(rest)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("experiments", "diffusion", "samplers"):
            raise
        raise UsageError(
            f"the command {name} needs the package {missing}; install it by: pip install 'scorefield[train]'."
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
