"""Names as a person types them, and the choice among those that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from experiments.errors import did_you_mean, refuse

T = TypeVar("T")


def choose(flag: str, name: str, choices: Mapping[str, T]) -> T:
    """The choice of this name, hyphens and underscores alike.

    Raises UsageError, with the nearest name, for one that does not exist.
    """
    refuse([unknown(flag, name, choices)])
    return choices[canonical(name)]


def unknown(flag: str, name: str, choices: Iterable[str]) -> tuple[bool, str]:
    """Whether no choice has this name, hyphens and underscores alike; and the sentence that says so."""
    known, key = list(choices), canonical(name)
    return key not in known, f"{flag} {name} does not exist{did_you_mean(key, known)}; choose {', '.join(known)}."


def listed(names: Iterable[str], limit: int = 100) -> str:
    """Names in a row, printable each; of those that take more than `limit` characters the first, and how many more."""
    known, shown = [name if name.isprintable() and name else repr(name) for name in names], ""
    known = [name if len(name) <= limit else name[: limit - 1] + "…" for name in known]
    for i, name in enumerate(known):
        if i and len(shown) + len(name) > limit:
            return f"{shown} and {len(known) - i:,} more"
        shown += f", {name}" if i else name
    return shown


def counted(count: int, what: str) -> str:
    """A number of things as words: 1 image, 2 images."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def flag_of(name: str) -> str:
    """The name of a field as a flag has it, without the dashes before."""
    return name.replace("_", "-")


def canonical(name: str) -> str:
    """A name as the catalogues spell it: dpmpp-2m for DPMPP_2M."""
    return name.replace("_", "-").lower()
