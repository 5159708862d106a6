"""`scorefield presets`: the configurations that come with scorefield."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments import presets
from experiments.commands.options import parse
from experiments.errors import refuse
from experiments.names import canonical, unknown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of `scorefield presets`."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """The one to describe."""
    json: bool = False
    """Print a list of objects."""


def run(argv: list[str]) -> int:
    """Print each preset with its command, time and result; returns the exit status."""
    arguments = parse(Arguments, argv, "scorefield presets", "List the presets.")
    if arguments.name is not None:
        refuse([unknown("preset", arguments.name, presets.names())])
    wanted = presets.names() if arguments.name is None else [canonical(arguments.name)]
    rows = [{"name": name, "description": presets.describe(name)} for name in wanted]
    if arguments.json:
        print(json.dumps(rows))
    else:
        print("\n\n".join(f"{row['name']}\n{row['description']}" for row in rows))
    return 0
