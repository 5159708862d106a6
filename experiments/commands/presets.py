"""`scorefield presets`: the configurations that come with scorefield."""

from __future__ import annotations

import json
from dataclasses import dataclass

from experiments import presets
from experiments.commands.options import parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of `scorefield presets`."""

    json: bool = False
    """Print a list of objects."""


def run(argv: list[str]) -> int:
    """Print each preset with its command, time and result; returns the exit status."""
    arguments = parse(Arguments, argv, "scorefield presets", "List the presets.")
    rows = [{"name": name, "description": presets.describe(name)} for name in presets.names()]
    if arguments.json:
        print(json.dumps(rows))
    else:
        print("\n\n".join(f"{row['name']}\n{row['description']}" for row in rows))
    return 0
