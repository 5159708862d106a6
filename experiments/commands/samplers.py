"""`scorefield samplers`: the catalogue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments.commands.options import parse
from experiments.names import canonical, choose
from samplers.registry import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of `scorefield samplers`."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """The one to list."""
    json: bool = False
    """Print a list of objects."""


def run(argv: list[str]) -> int:
    """Print the samplers; returns the exit status."""
    arguments = parse(Arguments, argv, "scorefield samplers", "List the samplers.")
    rows = []
    chosen = SAMPLERS
    if arguments.name is not None:
        chosen = {canonical(arguments.name): choose("sampler", arguments.name, SAMPLERS)}
    for name, entry in chosen.items():
        sampler = entry.default()
        kind = "SDE" if sampler.stochastic else "ODE"
        calls = sampler.nfe(9, to_data=False) - sampler.nfe(8, to_data=False)
        row = {"name": name, "order": sampler.stated_order, "nfe_per_step": calls, "kind": kind}
        rows.append({**row, "source": entry.source})
    if arguments.json:
        print(json.dumps(rows))
        return 0
    print(f"{'name':20}{'order':>6}{'calls/step':>12}  {'kind':5} source")
    for row in rows:
        print(f"{row['name']:20}{row['order']:>6}{row['nfe_per_step']:>12}  {row['kind']:5} {row['source']}")
    return 0
