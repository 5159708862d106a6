"""`scorefield data`: images prepared for training, and what a training would read of them."""

from __future__ import annotations

import importlib

from experiments.errors import UsageError, did_you_mean

COMMANDS = {
    "prepare": "write images, resized once, to one file that is read fast",
    "check": "say what would be read, and what not and why",
}

HELP = """\
usage: scorefield data COMMAND URI [options]

Look at the images of a training, or prepare them for it.

commands:
{commands}

  scorefield data check folder:photos --size 64
  scorefield data prepare folder:photos --size 64 --out photos.records
  scorefield train --preset photos64-edm-unet --data records:photos.records

`scorefield data COMMAND --help` shows the options of a command.
"""


def run(argv: list[str]) -> int:
    """Run one command of the group; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())), end="")
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        raise UsageError(
            f"{name!r} is not a command of scorefield data{did_you_mean(name, COMMANDS)}; there are "
            f"{', '.join(COMMANDS)}."
        )
    return importlib.import_module(f"experiments.commands.data_{name}").run(rest)
