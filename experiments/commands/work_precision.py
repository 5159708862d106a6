"""`scorefield work-precision`: what each solver costs on a trained model, and how near to its own flow it comes."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np

from experiments.commands.options import parse
from experiments.errors import UsageError
from experiments.files import replacing, require_own
from experiments.names import canonical
from experiments.progress import reporting
from experiments.runs.load import DataArguments, load_run

DESCRIPTION = """\
Measure every deterministic sampler on every time grid by its distance from a fine solution of the model's own flow.

  scorefield work-precision --run runs/mnist
  scorefield work-precision --run runs/mnist --steps 5,8,10 --samplers dpmpp-2m,ipndm,heun

All start from the same noise. For each number of network calls the nearest solvers are listed, with the images that
they make in a second, and then the one command to use. Grids and solvers that `scorefield grid` has fitted to the run
take part. A table of everything, work_precision.json, and a plot, work_precision.png, are written into the run.
"""
TABLE, PLOT = "work_precision.json", "work_precision.png"
"""The files that are written."""
_SHOWN = 3
"""Solvers that are listed for each number of calls."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkPrecisionArguments(DataArguments):
    """The arguments of `scorefield work-precision`."""

    steps: tuple[int, ...] = (5, 8, 10, 20, 50)
    """Numbers of network calls for an image; a sampler of several calls a step takes fewer steps."""
    samplers: tuple[str, ...] = ()
    """Samplers to measure, by name. [all that follow the flow]"""
    images: int = 32
    """Number of images, drawn together."""
    reference_steps: int = 200
    """Number of steps of the fine solution."""
    seed: int = 0
    """Seed of the noise, which no seed of `scorefield sample` shares."""
    outdir: Path | None = None
    """Folder of the table and the plot. [work-precision/ in the run]"""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> int:
    """Measure the solvers; returns the exit status."""
    arguments = parse(WorkPrecisionArguments, argv, "scorefield work-precision", DESCRIPTION)
    from experiments.pictures.work_precision import draw
    from experiments.sampling.work_precision import as_json, work_precision

    model = load_run(arguments, arguments.data)
    assert model.path is not None
    place = model.path.parent.parent if model.path.parent.name == "checkpoints" else model.path
    folder = arguments.outdir or place / "work-precision"
    for name in (TABLE, PLOT):  # the plot is this command's where the table is
        require_own(folder / name, lambda path: _is_table(path.with_name(TABLE)), "--outdir")
    with reporting(quiet=arguments.json):
        found = work_precision(
            model,
            sorted(set(arguments.steps)),
            images=arguments.images,
            seed=arguments.seed,
            names=[canonical(name) for name in arguments.samplers],
            fine=arguments.reference_steps,
        )
    if not found.rows:
        raise UsageError("no sampler has so few calls; give larger --steps.")
    said = {"run": str(arguments.run), "images": arguments.images, "seed": arguments.seed, **as_json(found)}
    said |= {"parameters": model.ema, "checkpoint_sha256": model.digest}
    with replacing(folder / TABLE) as scratch:
        scratch.write_text(json.dumps(said, indent=1) + "\n")
    from PIL import Image

    with replacing(folder / PLOT) as scratch:
        Image.fromarray(np.asarray(draw(found))).save(scratch, format="PNG")
    if arguments.json:
        print(json.dumps(said))
        return 0
    print(f"distances in {found.unit} from {found.reference}, itself known to {found.uncertainty:.2g}")
    print(f"{'calls':>5}  {'sampler':20}{'grid':18}{'steps':>5}{'RMS':>10}{'median':>10}{'worst':>10}{'images/s':>10}")
    budgets = sorted({row.budget for row in found.rows})
    for budget in budgets:
        for row in [row for row in found.rows if row.budget == budget][:_SHOWN]:
            print(
                f"{row.calls:5}  {row.sampler:20}{row.grid:18}{row.steps:5}"
                f"{row.rms:10.3g}{row.median:10.3g}{row.worst:10.3g}{row.images_per_second:10.3g}"
            )
    for budget in budgets:
        best = found.best(budget)
        grid = [] if best.sampler == "bespoke" else ["--grid", best.grid]
        words = ["scorefield", "sample", "--run", str(arguments.run), "--sampler", best.sampler]
        print(f"{budget} calls: {shlex.join([*words, '--steps', str(best.steps), *grid])}")
    print(folder)
    return 0


def _is_table(path: Path) -> bool:
    """Whether this is a table that this command wrote."""
    said = json.loads(path.read_bytes())
    return isinstance(said, dict) and {"rows", "reference", "checkpoint_sha256"} <= set(said)
