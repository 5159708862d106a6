"""What an import would do, known before an array is read, and the run that it writes.

    RUN/config.json          what the network is, and how it is sampled
       /checkpoints/00000000 the parameters, as the average 0; in checkpoint.json the files' SHA-256

A scheme is a module of this package with a function plan(where, options) -> Plan, and a line in `SCHEMES`.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.checks import check
from experiments.config.file import save_config, to_json
from experiments.config.tree import Config
from experiments.data.registry import NO_DATA
from experiments.errors import CheckpointError, UnsavedError, UsageError, did_you_mean
from experiments.files import replacing_folder
from experiments.importing.arrays import Wanted
from experiments.importing.safetensors import sha256, shown
from experiments.training.checkpoint import CheckpointWriter
from experiments.training.data import Facts
from experiments.training.imported import KEY, Imported
from experiments.training.state import Params

SCHEMES = {
    "diffusers": "diffusers:DIR",
    "edm": "edm:FILE.safetensors",
    "scorefield": "scorefield:FILE.safetensors",
}
"""Each scheme, and how it is written."""


@dataclass(frozen=True)
class Options:
    """What a person says of a network that its files may not."""

    df: float | None = None
    """Degrees of freedom of the noise, PFGM++'s D; None for what the files say."""
    classes: int | None = None
    """The number of classes; None for what the files say."""


@dataclass(frozen=True)
class Plan:
    """A network that was found in files, which agree with its configuration by name, shape and type."""

    scheme: str
    source: Path
    """The file or folder that a person has named."""
    files: tuple[Path, ...]
    """The files that are read."""
    config: Config
    facts: Facts
    wanted: tuple[Wanted, ...]
    """The arrays that are taken."""
    read: Callable[[], Params]
    """What reads them."""
    notes: tuple[str, ...] = ()
    """What a person should know of what was decided, in a line each."""

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(math.prod(one.shape if one.rows is None else (one.rows, *one.shape[1:])) for one in self.wanted)

    def report(self) -> dict[str, Any]:
        """What would be imported, as JSON values."""
        network, shape = to_json(self.config.network), self.facts.event_shape
        return {
            "scheme": self.scheme,
            "source": str(self.source),
            "network": network,
            "preconditioning": to_json(self.config.preconditioning),
            "schedule": to_json(self.config.schedule),
            "noise": to_json(self.config.noise),
            "event_shape": list(shape),
            "classes": self.facts.num_classes if self.config.conditional else 0,
            "arrays": len(self.wanted),
            "parameters": self.parameters,
            "notes": list(self.notes),
        }


def plan_import(source: str, options: Options) -> Plan:
    """What importing `source`, SCHEME:PATH, would do.

    Raises UsageError for a scheme that there is not, CheckpointError for files that cannot be imported.
    """
    scheme, colon, where = source.partition(":")
    if scheme not in SCHEMES and source.endswith(".safetensors"):  # what `scorefield export --weights` has written
        scheme, colon, where = "scorefield", ":", source
    forms = " or ".join(SCHEMES.values())
    if not colon or scheme not in SCHEMES:
        raise UsageError(f"{source!r} is nothing to import{did_you_mean(scheme, SCHEMES)}; give {forms}.")
    if not where:
        raise UsageError(f"{source!r} does not say where; give {SCHEMES[scheme]}.")
    for flag, given, known in (("--df", options.df, "edm"), ("--classes", options.classes, "diffusers")):
        if given is not None and scheme != known:
            raise UsageError(f"{flag} {given:g} goes with {SCHEMES[known]}, and this is {scheme}; leave it out.")
    plan: Plan = importlib.import_module(f"experiments.importing.{scheme}").plan(Path(where).expanduser(), options)
    of_plane = plan.config.data.source.startswith("plane:")  # of points, which come with the package
    if plan.config.data.source != NO_DATA and not of_plane:
        raise ValueError(f"an imported run has no data, and this one names {plan.config.data.source}")
    check(plan.config)
    return plan


def require_new(out: Path, flag: str = "--out") -> None:
    """Raise UsageError where a run, or another folder, cannot be written because there is something."""
    if (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already; give another {flag}, or remove it.")


def write_run(plan: Plan, out: Path) -> Imported:
    """Write the run, whole or not at all.

    Raises UsageError where `out` is there or cannot be made, or the disk has no room, CheckpointError where an array
    cannot be read.
    """
    require_new(out)
    record = Imported(
        plan.scheme,
        str(plan.source.absolute()),
        {file.name: sha256(file) for file in plan.files},
        len(plan.wanted),
    )
    params = plan.read()
    with replacing_folder(out) as hidden:
        writer = CheckpointWriter(hidden / "checkpoints", plan.config, plan.facts, {KEY: record.to_json()})
        try:
            with contextlib.closing(writer):  # which says what has gone wrong, at the latest
                writer.save(0, {"step": np.zeros((), np.int32), "ema": {"0": params}})
        except UnsavedError as error:  # of a checkpoint that nobody has heard of
            raise UsageError(
                f"{out} cannot be written ({error.why}); nothing was: make room, or give another --out."
            ) from None
        save_config(plan.config, hidden / "config.json")
    return record


def refuse_unknown(path: Path, what: str, given: Mapping[str, Any], known: set[str]) -> None:
    """Raise CheckpointError for a field of a configuration whose meaning is not known here."""
    for name in given:
        if name not in known:
            raise CheckpointError(
                f"{path}: {what} has {shown(name)}, which is not known here{did_you_mean(name, known)}; the network "
                "may be of another kind."
            )
