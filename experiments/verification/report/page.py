"""The page docs/equations.md, made from the table: python -m experiments.verification.report.page docs/equations.md"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from experiments.verification.registry import Identity, identities

ROOT = Path(__file__).parents[3]

HEAD = """\
# Equations

Every equation that the package states, the function that is it, what it is checked against and where it comes from.
`scorefield verify` measures them all; `scorefield verify --only NAME` one of them. This page is generated from the same
table (`python -m experiments.verification.report.page docs/equations.md`).
"""


def page() -> str:
    """The page as Markdown, with a section for each topic."""
    parts = [HEAD]
    for topic in dict.fromkeys(one.topic for one in identities()):
        parts.append(f"## {topic}\n")
        parts.extend(_entry(one) for one in identities() if one.topic == topic)
    return "\n".join(parts)


def _entry(one: Identity) -> str:
    where = Path(inspect.getfile(one.measure)).relative_to(ROOT)
    bound = {
        "exact": f"to {one.bound.tolerance:g} in float64",
        "statistical": f"to {one.bound.tolerance:g} standard errors; an error of {one.detects or 0:g} is detected",
        "false": f"false: off by {one.bound.tolerance:g} or more",
    }[one.kind]
    check = f"[{where.name}](../{where.as_posix()}), `{one.name}`"
    deeper = f"; [{Path(one.test).name}](../{one.test})" if one.test else ""
    return (
        f"### {one.row}. {one.title}\n\n$$\n{one.latex}\n$$\n\n"
        f"- Functions: {', '.join(map(_linked_function, one.functions))}\n"
        f"- Check: {one.compared}, {bound} ({one.bound.why}). Oracle: {one.oracle}. In {check}{deeper}\n"
        f"- Source: {_linked_source(one.source)}\n"
    )


def _linked_function(function: Any) -> str:
    file = Path(inspect.getfile(sys.modules[function.__module__])).relative_to(ROOT)
    return f"[`{public_name(function)}`](../{file.as_posix()})"


def public_name(function: Any) -> str:
    """The public dotted name of a function, a class or a method, from the highest package that exports it."""
    first, *rest = function.__qualname__.split(".")
    owner: Any = getattr(sys.modules[function.__module__], first)
    parts = function.__module__.split(".")
    packages = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    shown = next(package for package in packages if getattr(sys.modules[package], first, None) is owner)
    return ".".join([shown, first, *rest])


def _linked_source(source: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
