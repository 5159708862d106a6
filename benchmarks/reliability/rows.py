"""What a campaign hands back: a row of the table for each fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from experiments.errors import LIMIT

PREFIX = "scorefield: error: "


@dataclasses.dataclass
class Row:
    """A fault, what happens then, how it was tested, and what was counted."""

    fault: str
    happens: str
    how: str
    """The command's part, and the tests of the suite that hold the same."""
    trials: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    """A line for each trial that went otherwise."""
    also: dict[str, int] = dataclasses.field(default_factory=dict)
    """Which way the trials went, where there are several that are right."""
    figure: str = ""
    """What was measured besides."""

    def count(self, what: str) -> None:
        """Count a trial that went one of the right ways."""
        self.trials += 1
        self.also[what] = self.also.get(what, 0) + 1

    def judge(self, what: str, wrong: Iterable[str]) -> None:
        """Count a trial, under `what` if nothing is `wrong` with it."""
        faults = list(wrong)
        if faults:
            self.trials += 1
            self.wrong.append("; ".join(faults))
        else:
            self.count(what)

    def shown(self) -> str:
        """The last cell: how many trials went right, and how."""
        ways = ", ".join(f"{count:,} {what}" for what, count in self.also.items())
        parts = [f"{self.trials - len(self.wrong):,} of {self.trials:,}" if self.trials else "", ways, self.figure]
        return "; ".join(part for part in parts if part)


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| fault | what happens | how tested | figure |", "|---|---|---|---|"]
    lines += [f"| {row.fault} | {row.happens} | {row.how} | {row.shown()} |" for row in rows]
    return "\n".join(lines)


def untidy(text: str) -> list[str]:
    """What is wrong with what a command has printed on standard error: a traceback, or an error that is no short line.

    Lines of XLA's about programs that it has read from its cache are not the command's.
    """
    lines = [line for line in text.splitlines() if "cpu_aot_loader" not in line]
    wrong = [f"a traceback: {lines[-1]}"] if any("Traceback (most recent call last)" in line for line in lines) else []
    wrong += [
        f"{len(line)} characters: {line[:80]}…"
        for line in lines
        if line.startswith("scorefield: ") and len(line) > LIMIT + len(PREFIX)
    ]
    return wrong


def refusal(text: str, alone: bool = False) -> list[str]:
    """What is wrong with the standard error of a command that has refused, of which the last line alone says why.

    What stands before it is the course of a training; where there can be none, it is `alone` with warnings and the line
    on the data.
    """
    lines = [line for line in text.splitlines() if "cpu_aot_loader" not in line]
    errors = [line for line in lines if line.startswith(PREFIX)]
    wrong = untidy(text)
    if alone:
        own = ("scorefield: ", "npz:")
        wrong += [f"a foreign line: {line[:80]}" for line in lines if not line.startswith(own)]
    if len(errors) != 1 or lines[-1:] != errors:
        wrong.append(f"no line that says why: {lines[-1:]}")
    return wrong


def documents(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows as JSON values."""
    return [dataclasses.asdict(row) for row in rows]
