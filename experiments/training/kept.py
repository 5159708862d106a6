"""What a run that is there says of itself: its configuration, also where the file is damaged, and its data."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from experiments.config.file import load_config
from experiments.config.tree import Config
from experiments.data.place import find
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
        _say(f"{error} The copy in {kept[1]} is used.")
        return kept[0]


_say = functools.cache(warn)  # once, however often a command asks


def run_source(run: Path, config: Config) -> str:
    """The URI of the data that a run in this folder goes on with, from whatever folder it was begun in.

    `config` is the run's own; what it says holds where no checkpoint has noted a place. Raises DataError where the data
    are not there, or would be fetched without anybody here having said so.
    """
    from experiments.training.checkpoint import find_checkpoints

    for checkpoint in reversed(find_checkpoints(run / "checkpoints")):
        with contextlib.suppress(CheckpointError):  # a damaged one is passed over
            return find(config.data.source, checkpoint.facts().place)[0]
    return find(config.data.source, None)[0]
