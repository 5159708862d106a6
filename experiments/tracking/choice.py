"""The trackers that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.config.tree import Config
from experiments.tracking.board import Board
from experiments.tracking.hosted import Hosted
from experiments.tracking.tracker import Tracker


def chosen(config: Config, outdir: Path, start: int) -> list[tuple[str, Callable[[], Tracker]]]:
    """(Name, what makes it) of each; the run in `outdir` goes on from step `start`."""
    names = list(dict.fromkeys(("tensorboard",) * config.training.tensorboard + config.tracking.trackers))
    hosted = partial(Hosted, outdir=outdir, project=config.tracking.project, goes_on=start > 0)
    board = partial(Board, outdir / "tensorboard", start)
    return [(name, board if name == "tensorboard" else partial(hosted, name)) for name in names]
