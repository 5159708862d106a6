"""Checkpoints: asynchronous, atomic, verified. The only module that knows Orbax.

    checkpoints/00001000/state/...        the arrays, written by Orbax
                        /checkpoint.json  the step, the held-out loss, the versions
                        /config.json      the configuration, so that a copied checkpoint explains itself
                        /SHA256SUMS       of all of these

A checkpoint is written under another name, hashed, flushed to the disk and then renamed. So a folder that has a
step for its name is complete, whenever the process was killed, and it is trusted only as long as it matches its
manifest.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments.config.file import load_config, save_config
from experiments.config.tree import Config
from experiments.errors import CheckpointError, UnsavedError, reason
from experiments.training.data import Facts
from experiments.training.manifest import held, intact, sync, verify, write_manifest
from experiments.training.quiet import silence
from experiments.training.removal import delete, remove
from experiments.training.room import lacking, require_room, size_of, why

_STEP = re.compile(r"[0-9]{8,}")
PATIENCE = 50
"""How often a reader looks anew when a checkpoint vanishes under its eyes."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on the disk, verified or not."""

    path: Path
    step: int
    held_out_loss: float | None
    """The loss by which the best are kept; None when it was not measured."""
    sound: bool = True
    """Whether checkpoint.json, which says both, is what was saved."""

    def facts(self) -> Facts:
        """What the checkpoint says of its data. Raises CheckpointError when it says nothing that makes sense."""
        try:
            return Facts.from_json(_details(self.path))
        except (ValueError, KeyError) as error:
            what = reason(error) if isinstance(error, ValueError) else f"{error.args[0]} is missing"
            raise CheckpointError(
                f"{self.path / 'checkpoint.json'} is damaged, or of another version ({what}); restore it."
            ) from None


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of `step` is."""
    return directory / f"{step:08d}"


def find_checkpoints(directory: Path) -> list[Checkpoint]:
    """The checkpoints in `directory`, by step. None of them has been verified."""
    if not directory.is_dir():
        return []
    folders = [path for path in directory.iterdir() if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted((describe(path) for path in folders), key=lambda checkpoint: checkpoint.step)


def describe(path: Path) -> Checkpoint:
    """The checkpoint whose folder is `path`, which may have been renamed. It has not been verified."""
    named = int(path.name) if _STEP.fullmatch(path.name) else -1
    try:
        said = _details(path)
    except CheckpointError:  # as `verify` will say of it
        return Checkpoint(path, named, None, sound=False)
    if not intact(path, "checkpoint.json"):
        return Checkpoint(path, named, None, sound=False)
    step, loss = said.get("step"), said.get("held_out_loss")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**31:
        step = named
    measured = isinstance(loss, (int, float)) and not isinstance(loss, bool) and abs(loss) < math.inf
    return Checkpoint(path, step, loss if measured else None)


def _details(path: Path) -> dict[str, Any]:
    """What checkpoint.json holds. Raises CheckpointError where that is nothing that was ever written there."""
    file = path / "checkpoint.json"
    try:
        said = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({reason(error)}); restore it.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({reason(error)}); restore it.") from None
    if not isinstance(said, dict):
        raise CheckpointError(f"{file} holds no description of a checkpoint; restore it.")
    return said


def newest_trusted(directory: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that matches its manifest; `warn` is told a line for each newer one that does not.

    A training may save and prune meanwhile: when a checkpoint vanishes while it is read, there is a newer one.
    """
    for _ in range(PATIENCE):
        there = find_checkpoints(directory)
        damaged, vanished = [], False
        for checkpoint in reversed(there):
            try:
                verify(checkpoint.path)
            except CheckpointError as error:
                vanished = not checkpoint.path.exists()
                if vanished:
                    break
                damaged.append(str(error))
            else:
                _tell(damaged, "Falling back to an older checkpoint.", warn)
                return checkpoint
        # A list that is made while one checkpoint comes and another goes may lack both.
        if not vanished and (there or not directory.is_dir() or find_checkpoints(directory) == []):
            break
    else:
        raise CheckpointError(f"the checkpoints in {directory} vanish while they are read; wait for their training.")
    _tell(damaged, "There is no older checkpoint.", warn)
    return None


def _tell(damaged: list[str], what_now: str, warn: Callable[[str], None]) -> None:
    for error in damaged:
        warn(f"{error} {what_now}")


def trusted_config(directory: Path) -> tuple[Config, Path] | None:
    """The configuration of the newest checkpoint that can be trusted, and its file; None where there is none."""
    for checkpoint in reversed(find_checkpoints(directory)):
        with contextlib.suppress(CheckpointError):
            verify(checkpoint.path)
            path = checkpoint.path / "config.json"
            return load_config(path), path
    return None


def best(directory: Path, warn: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """The checkpoint of the lowest held-out loss, not verified; the newest when none was measured.

    `warn` is told a line for each whose loss is not known because checkpoint.json is not what was saved.
    """
    checkpoints = find_checkpoints(directory)
    for checkpoint in checkpoints:
        if not checkpoint.sound and checkpoint.path.exists():  # otherwise its training has removed it
            warn(f"{checkpoint.path / 'checkpoint.json'} is damaged; --best passes over this checkpoint.")
    checkpoints = [checkpoint for checkpoint in checkpoints if checkpoint.sound] or checkpoints
    measured = [checkpoint for checkpoint in checkpoints if checkpoint.held_out_loss is not None]
    return min(measured, key=_rank) if measured else (checkpoints[-1] if checkpoints else None)


def load(path: Path) -> tuple[dict[str, Any], str]:
    """The arrays of the checkpoint at `path`, nested dictionaries of numpy arrays, and the SHA-256 of its manifest.

    Parameters that are their own average, as of a run that was imported, are there once, and are read as both.
    Raises CheckpointError naming the file that is missing or damaged: every one is verified first.
    """
    with held(path):
        digest = verify(path)
        tree = read(path)
    if "params" not in tree and "0" in tree.get("ema", ()):
        tree["params"] = tree["ema"]["0"]
    return tree, digest


def read(path: Path) -> dict[str, Any]:
    """The arrays of the checkpoint at `path`, which has been verified.

    In a run of several processes each of them calls it: Orbax counts the calls of every process, and waits in the
    next save for one that has made fewer. Raises CheckpointError when Orbax cannot read it.
    """
    silence()
    try:
        place = path.absolute() / "state"
        with _alone():
            return ocp.load(str(place), _whole(place))
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded ({why(error)}); every process of a run needs to see it."
        ) from error


def set_aside(directory: Path, newer_than: int) -> None:
    """Rename the checkpoints after step `newer_than`, which were not trusted, so that they are out of the way."""
    for checkpoint in find_checkpoints(directory):
        if checkpoint.step > newer_than:
            place = checkpoint.path.with_name(f"{checkpoint.path.name}.untrusted")
            if place.is_symlink() or place.exists():
                delete(place)
            checkpoint.path.rename(place)


class CheckpointWriter:
    """Saves in the background, one at a time, and keeps the newest and the best.

    Every process of a run calls it, as Orbax wants, and process 0 writes. An error in the background shows in `failed`
    and is raised by the next call. A checkpoint that another process is reading is removed later.
    """

    def __init__(self, directory: Path, config: Config, facts: Facts, notes: Mapping[str, Any] | None = None) -> None:
        """`facts` are what a reader of the checkpoint needs besides the configuration; `notes` stand beside them."""
        self._directory, self._config = directory.absolute(), config
        self._notes = {**facts.to_json(), **(notes or {})}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._writes = jax.process_index() == 0
        silence()
        if self._writes:
            self._directory.mkdir(parents=True, exist_ok=True)
            for leftover in (*self._directory.glob(".saving-*"), *self._directory.glob(".deleting-*")):
                delete(leftover)

    def save(self, step: int, tree: dict[str, Any], held_out_loss: float | None = None) -> None:
        """Begin to save `tree`, numpy arrays that must not change any more, as the checkpoint of `step`.

        A held-out loss that is not finite counts as not measured.

        Raises CheckpointError when this save, or the one before, failed, and at once when the disk has no room for it;
        the checkpoints before stay as they were.
        """
        self.wait()
        loss = held_out_loss if held_out_loss is not None and math.isfinite(held_out_loss) else None
        name = checkpoint_path(self._directory, step).name
        hidden = self._directory / f".saving-{name}"
        details = {"step": step, "held_out_loss": loss, **self._notes}
        lack = lacking(self._directory, size_of(tree)) if self._writes else None
        if lack is not None:
            raise _unsaved(self._directory / name, lack)
        try:
            if self._writes:
                hidden.mkdir()
                (hidden / "checkpoint.json").write_text(json.dumps(details) + "\n")
                save_config(self._config, hidden / "config.json")
            response = ocp.save_async(str(hidden / "state"), tree)
        except Exception as error:
            raise self._failure(name, hidden, error) from error
        self._pending = self._executor.submit(self._finish, response, hidden, name)

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed, as the next call will say."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def require_room(self, size: int, saves: int, besides: int = 0) -> None:
        """Raise CheckpointError where the disk cannot hold what `saves` checkpoints of `size` bytes will leave on it.

        There are at most one more than are kept, while the oldest waits for the newest to be complete, and snapshots of
        `besides` bytes.
        """
        there = len(find_checkpoints(self._directory))
        if self._writes and saves:
            most = min(there + saves, self._config.training.keep_last + 1)
            require_room(self._directory, size, max(1, most - there), besides)

    def settle(self) -> None:
        """Wait for the save in progress, however it ends."""
        if self._pending is not None:
            self._pending.exception()

    def wait(self) -> None:
        """Wait for the save in progress. Raises CheckpointError when it failed."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for the save in progress, and stop."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    def _finish(self, response: Any, hidden: Path, name: str) -> None:
        try:
            response.result()
            if self._writes:
                write_manifest(hidden)
                final = self._directory / name
                remove(final)
                hidden.rename(final)
                sync(self._directory)
                self._prune()
        except Exception as error:
            raise self._failure(name, hidden, error) from error

    def _failure(self, name: str, hidden: Path, error: Exception) -> CheckpointError:
        if self._writes:
            shutil.rmtree(hidden, ignore_errors=True)
        return _unsaved(self._directory / name, why(error))

    def _prune(self) -> None:
        keep, checkpoints = self._config.training, find_checkpoints(self._directory)
        measured = sorted((c for c in checkpoints if c.held_out_loss is not None), key=_rank)
        kept = {c.path for c in (*checkpoints[-keep.keep_last :], *measured[: keep.keep_best])}
        for checkpoint in checkpoints:
            if checkpoint.path not in kept:
                with held(checkpoint.path, alone=True) as unread:
                    if unread:
                        remove(checkpoint.path)


def _rank(checkpoint: Checkpoint) -> tuple[float, int]:
    """Lowest loss first; of equals the newest."""
    assert checkpoint.held_out_loss is not None
    return checkpoint.held_out_loss, -checkpoint.step


def _whole(place: Path) -> Any:
    """What Orbax is asked for: whole arrays in numpy, also where they were cut among devices that are not here.

    None where nothing was cut, which it reads so by itself.
    """
    if not (place / "state" / "_sharding").exists():
        return None
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), ocp.metadata(str(place)).metadata)


def _alone() -> Any:
    """Orbax's context for one process of several that does not wait for the others."""
    context = ocp.Context()
    if jax.process_count() > 1:
        context.multiprocessing.active_processes = {jax.process_index()}
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.barrier_sync_key_prefix = f"process{jax.process_index()}"
    return context


def _unsaved(path: Path, reason: str) -> UnsavedError:
    error = UnsavedError(
        f"checkpoint {path} could not be saved ({reason}); the earlier ones are untouched, so make room and give the "
        "same command again."
    )
    error.why = reason
    return error
