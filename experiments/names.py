"""Names as a person types them, and the choice among those that exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from experiments.errors import UsageError, did_you_mean

T = TypeVar("T")


def choose(flag: str, name: str, choices: Mapping[str, T]) -> T:
    """The choice of this name, hyphens and underscores alike.

    Raises UsageError, with the nearest name, for one that does not exist.
    """
    key = canonical(name)
    if key not in choices:
        raise UsageError(f"{flag} {name} does not exist{did_you_mean(key, choices)}; choose {', '.join(choices)}.")
    return choices[key]


def canonical(name: str) -> str:
    """A name as the catalogues spell it: dpmpp-2m for DPMPP_2M."""
    return name.replace("_", "-").lower()
