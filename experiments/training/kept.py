"""What a run that is there says of itself: its configuration, also where the file is damaged, and its data."""

from __future__ import annotations

import contextlib
from pathlib import Path

from experiments.config.file import load_config, to_json
from experiments.config.tree import Config
from experiments.data.place import find
from experiments.errors import CheckpointError, warn
from experiments.names import flag_of
from experiments.training.differences import differences, flat
from experiments.training.manifest import intact


def run_config(run: Path, *, free: bool = True) -> Config:
    """The configuration of the run, or of the one checkpoint, in this folder.

    Where a run's config.json is damaged, or gone, the copy in its newest checkpoint that can be trusted takes its
    place, as a line on standard error says. The file carries no checksum, and the copies do: where it can be read, and
    differs from the newest copy in what the run was trained by, that copy takes its place too. Where they differ in
    what may change when a run goes on, the file holds, which may be newer, and a line says so as well; but not with
    `free` False, when the caller has its own of these.
    Raises CheckpointError where there is neither, and as `load_config`.
    """
    path = run / "config.json"
    try:
        config = load_config(path)
    except CheckpointError as error:
        if not (run / "checkpoints").is_dir():
            raise
        # Not above: the command line reads a configuration before it needs the libraries of training.
        from experiments.training.checkpoint import trusted_config

        trusted = trusted_config(run / "checkpoints")
        if trusted is None:
            raise
        what = str(error).rpartition("; ")[0] or str(error).rstrip(".")  # without a remedy, which is not needed
        _say(run, f"{what}; the copy in {trusted[1]} is used.")
        return trusted[0]
    copy = _newest_copy(run / "checkpoints")
    if copy is None:
        return config
    kept = load_config(copy)
    if trained := differences(kept, config, int(copy.parent.name)):
        name, before, now = trained[0]
        told = f"{path} says --{flag_of(name)} {now}, and the run was trained with {before}"
        _say(run, f"{told}; the copy in {copy} is used.")
        return kept
    old, new = flat(to_json(kept)), flat(to_json(config))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if changed and free:
        name = changed[0]
        _say(run, f"{path} says --{flag_of(name)} {new.get(name)}, which holds; {copy} says {old.get(name)}.")
    return config


def _newest_copy(directory: Path) -> Path | None:
    """The config.json of the newest checkpoint in which it is what was saved, and can be read; None without one."""
    with contextlib.suppress(OSError):
        folders = [path for path in directory.iterdir() if path.name.isascii() and path.name.isdecimal()]
        for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
            with contextlib.suppress(CheckpointError):
                if intact(folder, "config.json"):
                    load_config(folder / "config.json")
                    return folder / "config.json"
    return None


def _say(run: Path, line: str) -> None:
    """Warn once, however often a command asks, and by whatever path."""
    key = (run.resolve(), line.replace(str(run), ""))
    if key not in _said:
        _said.add(key)
        warn(line)


_said: set[tuple[Path, str]] = set()


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
