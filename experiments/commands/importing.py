"""`scorefield import`: a network that others have published, as a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from experiments.commands.options import parse
from experiments.errors import UsageError
from experiments.names import counted
from experiments.progress import reporting, stage

DESCRIPTION = """\
Make a run of a network that others have published; sample, evaluate, verify, grid and train --init-from take it.

  scorefield import diffusers:ddpm-cifar10-32 --out runs/cifar10
  scorefield import edm:edm-cifar10-32x32-cond-vp.safetensors --out runs/cifar10-edm
  scorefield sample --run runs/cifar10 --seeds 0-63

diffusers:DIR is a folder of diffusers with a UNet2DModel and its scheduler: docs/diffusers.md says what becomes of it.
edm:FILE.safetensors is a network of EDM's authors, or in their form: docs/import.md has the lines that turn their
pickles into such files. scorefield:FILE.safetensors is what `scorefield export --weights` wrote. Arrays are checked by
name, shape and type before any is read, and nothing is unpickled.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """The arguments of `scorefield import`."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SCHEME:PATH")] = ""
    """What to import: diffusers:DIR, edm:FILE.safetensors or scorefield:FILE.safetensors."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Folder of the run to write; it must not be there yet."""
    df: float | None = None
    """Degrees of freedom of the noise, PFGM++'s D. [what the file says; Gaussian noise if that is nothing]"""
    classes: int | None = None
    """Number of classes of a network whose files do not say, or that keeps a row of its table for "no class".
    [what the files say]"""
    dry_run: bool = False
    """Check everything, and write nothing."""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> int:
    """Import a network; returns the exit status."""
    arguments = parse(ImportArguments, argv, "scorefield import", DESCRIPTION)
    if not arguments.source:
        raise UsageError("what to import is missing; give for example diffusers:DIR or edm:FILE.safetensors.")
    if arguments.out is None and not arguments.dry_run:
        raise UsageError("--out is missing; give the folder of the run to write, such as --out runs/imported.")
    if arguments.df is not None and not arguments.df > 0:
        raise UsageError(f"--df is {arguments.df:g}; give a positive number of degrees of freedom.")
    if arguments.classes is not None and arguments.classes < 1:
        raise UsageError(f"--classes is {arguments.classes}; give the number of classes that the network knows.")
    from experiments.importing.plan import Options, plan_import, require_new, write_run

    if arguments.out is not None:
        require_new(arguments.out)
    plan = plan_import(arguments.source, Options(df=arguments.df, classes=arguments.classes))
    report, record = {**plan.report(), "run": None}, None
    with reporting(quiet=arguments.json), stage("checking" if arguments.dry_run else "importing"):
        if arguments.dry_run:
            plan.read()  # which says where a number is not finite
        else:
            assert arguments.out is not None
            record = write_run(plan, arguments.out)
    if record is not None:
        report |= {"run": str(arguments.out), "sha256": dict(record.sha256)}
    if arguments.json:
        print(json.dumps(report))
        return 0
    shape, classes = "×".join(map(str, plan.facts.event_shape)), report["classes"]
    kind = type(plan.config.network).__name__.removesuffix("Config")
    known = f" in {classes} classes" if classes else ""
    print(
        f"{kind} for {shape}{known}, {plan.parameters:,} parameters in {counted(len(plan.wanted), 'array')}, "
        f"preconditioned as {plan.config.preconditioning.kind}: {arguments.out if record else 'nothing written'}"
    )
    for note in plan.notes:
        print(f"  {note}")
    for name, digest in ({} if record is None else record.sha256).items():
        print(f"  SHA-256 of {name}: {digest}")
    return 0
