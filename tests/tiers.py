"""Which tests are slow: `make fast` runs those that are not, and so something of every file."""

from __future__ import annotations

from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

import pytest

SLOW = Path(__file__).with_name("slow.ini")
EVERYTHING = "*"


def slow_functions() -> dict[str, dict[str, str]]:
    """By file and function, "first" where its first case is quick enough to stay and "none" where it is not."""
    table = ConfigParser()
    table.read_string(SLOW.read_text(encoding="utf-8"))
    return {
        file: {name: stays for stays, names in section.items() for name in names.split()} or {EVERYTHING: "first"}
        for file, section in table.items()
        if file != table.default_section
    }


def mark(items: Sequence[pytest.Item]) -> None:
    """Mark what is slow among the tests that were found, in the order in which they stand in their files."""
    slow, seen = slow_functions(), set()
    for item in items:
        file, _, name = item.nodeid.partition("[")[0].partition("::")
        functions = slow.get(file, {})
        stays = functions.get(name, functions.get(EVERYTHING))
        if stays == "none" or (stays == "first" and (file, name) in seen):
            item.add_marker(pytest.mark.slow)
        seen.add((file, name))
