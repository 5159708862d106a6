"""The configuration of a run that is there, also where its file is damaged."""

from __future__ import annotations

from pathlib import Path

from experiments.config.file import load_config
from experiments.config.tree import Config
from experiments.errors import CheckpointError, warn


def run_config(run: Path) -> Config:
    """The configuration of the run, or of the one checkpoint, in this folder.

    Where a run's config.json is damaged, or gone, the copy in its newest checkpoint that can be trusted takes its
    place, as a line on standard error says. Raises CheckpointError where there is none, and as `load_config`.
    """
    try:
        return load_config(run / "config.json")
    except CheckpointError as error:
        if not (run / "checkpoints").is_dir():
            raise
        # Not above: the command line reads a configuration before it needs the libraries of training.
        from experiments.training.checkpoint import trusted_config

        kept = trusted_config(run / "checkpoints")
        if kept is None:
            raise
        warn(f"{error} The copy in {kept[1]} is used.")
        return kept[0]
