"""The finding of a check of a trained model: numbers with their errors, a verdict, and its meaning in plain words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from experiments.verification.registry import STANDARD_ERRORS
from experiments.verification.report.plots import Curves, Plot

AS_IT_SHOULD_BE, OUT_OF_LINE, NOT_APPLICABLE = "as it should be", "out of line", "not applicable"
TENTH = 0.1
"""The size below which a relative error does not matter: errors add in squares, and its square is a hundredth."""
WIDTH = 98
_LABEL, _CELL = 26, 9


class Quantity(NamedTuple):
    """A measured number and its standard error."""

    value: float
    standard_error: float = 0.0

    def above(self, limit: float) -> bool:
        """Whether it exceeds `limit` beyond doubt, by 4 standard errors; true of numbers that are not finite."""
        return not self.value - STANDARD_ERRORS * self.standard_error <= limit

    def below(self, limit: float) -> bool:
        """Whether it is less than `limit` beyond doubt, by 4 standard errors; true of numbers that are not finite."""
        return not self.value + STANDARD_ERRORS * self.standard_error >= limit

    def __str__(self) -> str:
        return f"{number(self.value)} ± {number(self.standard_error)}" if self.standard_error else number(self.value)


Rows = dict[str, tuple[Quantity, ...]]
"""The quantities at each noise level, by the name of what is measured."""


@dataclass(frozen=True)
class Finding:
    """One check of a trained model."""

    name: str
    title: str
    latex: str
    """The equation, in the part of TeX that matplotlib understands; \\quad separates its parts."""
    compared: str
    """The two sides that were compared, in words."""
    verdict: str
    """«as it should be», «out of line», or «not applicable: why»."""
    meaning: str
    """The meaning of the numbers, and the usual cause if they are out of line."""
    limit: str = ""
    """The limit beyond which the check is out of line, and the reason for it."""
    levels: tuple[float, ...] = ()
    """The noise levels σ/α of the rows."""
    rows: Rows = field(default_factory=dict)
    values: dict[str, Quantity] = field(default_factory=dict)
    """The quantities that do not depend on the noise level."""
    plot: Plot | None = None
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"Finding({self.name}: {self.verdict})"

    @property
    def out_of_line(self) -> bool:
        """Whether the verdict is that something is wrong."""
        return self.verdict == OUT_OF_LINE

    @property
    def applicable(self) -> bool:
        """Whether the check applies to this model and was made."""
        return not self.verdict.startswith(NOT_APPLICABLE)

    @property
    def measured(self) -> str:
        """All numbers as one sentence."""
        parts = [f"{name} {quantity}" for name, quantity in self.values.items()]
        for name, row in self.rows.items():
            parts.append(f"{name} " + ", ".join(map(str, row)))
        at = f" at σ/α = {', '.join(number(level) for level in self.levels)}" if self.rows else ""
        return "; ".join(parts) + at

    def report(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "verdict": self.verdict.partition(":")[0],
            "out_of_line": self.out_of_line,
            "compared": self.compared,
            "limit": self.limit,
            "meaning": self.meaning if self.applicable else self.verdict.partition(": ")[2],
            "levels": list(self.levels),
            "by_level": {name: [_json(quantity) for quantity in row] for name, row in self.rows.items()},
            "values": {name: _json(quantity) for name, quantity in self.values.items()},
            "seconds": round(self.seconds, 2),
        }


def _json(quantity: Quantity) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in quantity._asdict().items()}


def verdict_of(wrong: bool) -> str:
    """The verdict: out of line if something is wrong, else as it should be."""
    return OUT_OF_LINE if wrong else AS_IT_SHOULD_BE


def estimate(samples: Any) -> Quantity:
    """The mean of independent samples and its standard error."""
    values = np.asarray(samples, np.float64)
    return Quantity(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def ratio(above: Any, below: Any) -> Quantity:
    """The mean of `above` over that of `below`, which are paired, with its standard error by linearisation.

    Over 0 it is infinite without an error, unless `above` is 0 as well: 0.
    """
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    scale = below.mean()
    if scale == 0:
        return Quantity(math.inf if above.mean() else 0.0)
    value = above.mean() / scale
    return Quantity(float(value), estimate((above - value * below) / scale).standard_error)


def root(square: Quantity) -> Quantity:
    """The square root of an estimate, or 0 if the estimate is negative.

    Its error is √(v + e) − √v for the standard error e: e/(2√v) where v is much larger than e, and √e where v is 0.
    """
    value = math.sqrt(max(square.value, 0.0)) if math.isfinite(square.value) else math.nan
    return Quantity(value, math.sqrt(max(square.value, 0.0) + square.standard_error) - value)


def curves(finding_rows: Rows, levels: Sequence[float], y_label: str, *, log_y: bool = True) -> Curves:
    """The rows as curves over the noise level; a logarithmic axis leaves out values that are not positive."""

    def shown(row: tuple[Quantity, ...]) -> np.ndarray:
        values = np.asarray([quantity.value for quantity in row])
        return np.where(values > 0, values, np.nan) if log_y else values

    lines = {name: shown(row) for name, row in finding_rows.items()}
    return Curves(np.asarray(levels), lines, "noise level σ/α", y_label, log_x=True, log_y=log_y)


def number(value: float) -> str:
    """A number as it is printed, in two or three digits: 0.0632, 1.3, 150, 2.1e-05."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf"
    if value == 0 or 1e-4 <= abs(value) < 1e-2:
        return f"{value:.2g}" if value else "0"
    return f"{value:.3g}" if 1e-2 <= abs(value) < 1e5 else f"{value:.1e}"


def lines(findings: Sequence[Finding]) -> str:
    """The report as plain text, less than 100 columns wide."""
    return "\n\n".join([_summary(findings), *(_block(finding) for finding in findings)])


def _summary(findings: Sequence[Finding]) -> str:
    wrong = [one for one in findings if one.out_of_line]
    skipped = [one for one in findings if not one.applicable]
    good = len(findings) - len(wrong) - len(skipped)
    text = f"{len(findings)} checks: {good} as they should be, {len(wrong)} out of line, {len(skipped)} not applicable"
    groups = [
        f"{word:16}{', '.join(one.name for one in some)}"
        for word, some in ((OUT_OF_LINE, wrong), (NOT_APPLICABLE, skipped))
        if some
    ]
    return "\n".join([text, *groups])


def _block(finding: Finding) -> str:
    head = f"{finding.title}  [{finding.name}]"
    mark = finding.verdict.partition(":")[0].upper() if finding.out_of_line else finding.verdict.partition(":")[0]
    parts = [f"{mark:17}{head}", *_paragraph("compared", finding.compared)]
    if not finding.applicable:
        return "\n".join([*parts, *_paragraph("why not", finding.verdict.partition(": ")[2])])
    parts += _table(finding)
    for name, quantity in finding.values.items():
        parts.append(f"  {name:{_LABEL}}{quantity}")
    parts += _paragraph("limit", finding.limit) if finding.limit else []
    return "\n".join([*parts, *_paragraph("meaning", finding.meaning)])


def _table(finding: Finding) -> Iterable[str]:
    if not finding.rows:
        return
    yield f"  {'noise level σ/α':{_LABEL}}" + "".join(f"{number(level):>{_CELL}}" for level in finding.levels)
    for name, row in finding.rows.items():
        yield f"  {name:{_LABEL}}" + "".join(f"{number(quantity.value):>{_CELL}}" for quantity in row)
        if any(quantity.standard_error for quantity in row):
            errors = (number(quantity.standard_error) for quantity in row)
            yield f"  {'':{_LABEL - 2}}± " + "".join(f"{error:>{_CELL}}" for error in errors)


def _paragraph(word: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {word:10}", subsequent_indent=" " * 12)
