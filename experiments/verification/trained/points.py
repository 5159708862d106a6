"""The words of the checks for a model of points: points and coordinates in place of images and pixels."""

from __future__ import annotations

import dataclasses
import re

from experiments.verification.trained.finding import Finding

_WORDS = ((r", mirror images\b", ""), (r"\bimage", "point"), (r"\bpixel", "coordinate"))


def in_points(finding: Finding) -> Finding:
    """The same finding, in words that fit points."""
    texts = {
        field.name: _reworded(getattr(finding, field.name))
        for field in dataclasses.fields(finding)
        if field.name in ("title", "latex", "compared", "verdict", "meaning", "limit")
    }
    rows = {_reworded(name): row for name, row in finding.rows.items()}
    values = {_reworded(name): value for name, value in finding.values.items()}
    return dataclasses.replace(finding, **texts, rows=rows, values=values)


def _reworded(text: str) -> str:
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text)
    return text
