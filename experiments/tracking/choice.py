"""The trackers that a configuration names."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.tracking.board import Board
from experiments.tracking.hosted import Hosted
from experiments.tracking.tracker import Tracker


def require_trackers(config: Config) -> None:
    """Raise UsageError where the package of a tracker is not installed, without importing any."""
    for name in _names(config):
        package = "tensorboardX" if name == "tensorboard" else name
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            raise UsageError(f"--track {name} needs {package}; install scorefield[{name}].")


def chosen(config: Config, outdir: Path, start: int) -> list[tuple[str, Callable[[], Tracker]]]:
    """(Name, what makes it) of each; the run in `outdir` goes on from step `start`."""
    hosted = partial(Hosted, outdir=outdir, project=config.tracking.project, goes_on=start > 0)
    board = partial(Board, outdir / "tensorboard", start)
    return [(name, board if name == "tensorboard" else partial(hosted, name)) for name in _names(config)]


def _names(config: Config) -> list[str]:
    return list(dict.fromkeys(("tensorboard",) * config.training.tensorboard + config.tracking.trackers))
