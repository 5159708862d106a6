"""`scorefield ema`: averages of any width, made after training from the snapshots that a run has kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from experiments.commands.options import parse
from experiments.errors import UsageError, warn
from experiments.progress import reporting, stage
from experiments.runs.load import choose

DESCRIPTION = """\
Make power-function averages of the parameters, of any relative width, from a run's snapshots; nothing is trained.

  scorefield train --preset digits-ddpm --training.steps 2000 --ema.snapshot-every 100 --outdir runs/digits
  scorefield ema --run runs/digits --sigma-rel 0.05,0.10,0.15
  scorefield sample --run runs/digits --ema 0.15

The average of width s weighs the parameters by a power of the step, with a standard deviation of s of all steps. It is
the sum of averages in the snapshots whose profile is nearest to its own, and is kept in the run, under averages/.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMAArguments:
    """The arguments of `scorefield ema`."""

    run: Path
    """Folder of a run, or of one of its checkpoints."""
    sigma_rel: tuple[float, ...] = ()
    """Relative widths of the averages to make."""
    best: bool = False
    """At the checkpoint of the lowest held-out loss, not the newest."""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> int:
    """Make the averages; returns the exit status."""
    arguments = parse(EMAArguments, argv, "scorefield ema", DESCRIPTION)
    if not arguments.sigma_rel:
        raise UsageError("--sigma-rel is missing; give one or more widths, such as 0.05,0.10,0.15.")
    from experiments.runs.averages import make_averages

    found = choose(arguments.run, arguments.best, warn)
    with reporting(quiet=arguments.json), stage("making averages"):
        made = make_averages(found, arguments.sigma_rel, warn)
    if arguments.json:
        print(json.dumps([{**dataclasses.asdict(one), "path": str(one.path)} for one in made]))
    else:
        for one in made:
            print(
                f"{one.sigma_rel:g} at step {one.step}: profile {100 * one.distance:.2g}% away, from {one.snapshots} "
                f"snapshots: {one.path}"
            )
    return 0
