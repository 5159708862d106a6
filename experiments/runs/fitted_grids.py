"""Time grids that were fitted to a run, kept in its folder: grids/SAMPLER-STEPS-OPTIONS.json."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UsageError, reason
from experiments.files import replacing

_SUM = "sha256"
"""The key of the SHA-256 of all the others."""


def save(run: Path, kept: dict[str, Any]) -> Path:
    """Keep a fitted grid with the run, in place of an older one for the same; returns its file."""
    path = _file(run, kept["sampler"], kept["options"], kept["steps"])
    with replacing(path) as scratch:
        scratch.write_text(json.dumps({**kept, _SUM: _digest(kept)}, indent=1) + "\n")
    return path


def is_kept(run: Path, name: str, options: Any, steps: int) -> bool:
    """Whether there is a file of it, sound or not."""
    return _file(run, name, options_as_json(options), steps).exists()


def load(run: Path, name: str, options: Any, steps: int) -> dict[str, Any]:
    """What was kept of a grid, with its times as an array. Raises UsageError if there is none, or it cannot be read."""
    path = _file(run, name, options_as_json(options), steps)
    remedy = f"run: scorefield grid --run {run} --sampler {name} --steps {steps}, with the same options."
    if not path.exists():
        raise UsageError(f"--grid fitted: no grid was fitted for {name} with these options and {steps} steps; {remedy}")
    try:
        kept = json.loads(path.read_bytes())
        # A grid of before there was a sum has none.
        if _SUM in kept and kept.pop(_SUM) != _digest(kept):
            raise ValueError("its numbers are not those that were written")
        if "times" not in kept:
            raise ValueError("it holds no times")
        times = np.asarray(kept["times"], np.float64)
        if times.ndim != 1 or len(times) != steps + 1:
            raise ValueError(f"it holds times of shape {times.shape} for {steps} steps")
        return {**kept, "times": times}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({reason(error)}); {remedy}") from None


def _digest(kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def options_as_json(options: Any) -> dict[str, Any]:
    """The fields of a sampler as JSON values, without a clip that is not there: older grids do not name it."""
    fields = dataclasses.asdict(options)
    return {key: _json(value) for key, value in fields.items() if (key, value) != ("clip", None)}


def _file(run: Path, name: str, options: dict[str, Any], steps: int) -> Path:
    run = run.parent.parent if run.parent.name == "checkpoints" else run
    tag = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    return run / "grids" / f"{name}-{steps}-{tag}.json"


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(part) for part in value]
    return value if isinstance(value, (int, float)) and math.isfinite(value) else str(value)
