"""Command lines as typed dataclasses (tyro), with nodes of several types that are chosen by name.

`--schedule vp --schedule.beta-max 10` first puts a VP at the node `schedule`, then overrides its field.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from experiments.commands.spelling import flags_of, nearest, respelt
from experiments.errors import UsageError

T = TypeVar("T")

_OF_EVERY_COMMAND = ("--plugin", "--compilation-cache")


def take_flag(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """(the value of the last `flag VALUE` or `flag=VALUE`, the other arguments).

    Raises UsageError when the flag has no value.
    """
    values, rest = take_flags(arguments, flag)
    return (values[-1] if values else None), rest


def take_flags(arguments: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """(the values of all `flag VALUE` and `flag=VALUE`, the other arguments).

    Raises UsageError when one of the flags has no value.
    """
    values, rest, waiting = [], [], False
    for argument in arguments:
        if waiting:
            if argument.startswith("--"):
                break
            values.append(argument)
            waiting = False
        elif argument == flag:
            waiting = True
        elif argument.startswith(flag + "="):
            values.append(argument[len(flag) + 1 :])
        else:
            rest.append(argument)
    if waiting:
        raise UsageError(f"{flag} needs a value.")
    return values, rest


def parse(
    cls: type[T],
    arguments: Sequence[str],
    prog: str,
    description: str,
    default: T | None = None,
    taken: Sequence[str] = (),
) -> T:
    """An instance of the dataclass `cls` from command-line arguments; `--help` prints and exits.

    `taken` are the flags that were taken out before, so that they are suggested like all others.

    Raises UsageError, one sentence, for a flag or a value that cannot be read.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    flags, caught = flags_of(cls), io.StringIO()
    arguments = respelt(arguments, flags)
    try:
        with contextlib.redirect_stderr(caught):
            return tyro.cli(
                cls,
                prog=prog,
                description=description,
                args=list(arguments),
                config=(tyro.conf.AvoidSubcommands,),
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_sentence(caught.getvalue(), prog, (*flags, *taken, *_OF_EVERY_COMMAND))) from None
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None


def _sentence(framed: str, prog: str, flags: Sequence[str]) -> str:
    """tyro's framed explanation of a bad flag as one line, like every other error."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", framed)
    # A line with a rule in it is a border or a separator, drawn in boxes or, on a plain terminal, in hyphens.
    lines = [" " if re.search(r"─{3}|-{5}", line) else line.strip("│| ") or "\n" for line in text.splitlines()]
    blocks = [block for part in re.split(r"\n \n", "\n".join(["", *lines, ""])) if (block := " ".join(part.split()))]
    if len(blocks) > 1 and "╭" not in text:  # without boxes the title is a paragraph of its own
        del blocks[0]
    cause = (
        re.sub(r"^Error parsing (?:config\.)?([\w.]+): ", r"--\1: ", blocks[0]).rstrip(".")
        if blocks and blocks[0]
        else "the options cannot be read"
    )
    remedy = f"see {prog} --help."
    unknown = re.match(r"Unrecognized options: (--?[\w.-]+)", cause)
    if unknown:
        cause, meant = f"{unknown[1]} is no option of {prog}", nearest(unknown[1], flags)
        remedy = f"did you mean {meant}?" if meant else remedy
    return f"{cause}; {remedy}"
