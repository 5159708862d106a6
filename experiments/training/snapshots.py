"""Snapshots of the power-function averages of a run, from which those of other widths are made after training.

    snapshots/00000500/0.05.npz       the average of this width, an array for each parameter
                      /snapshot.json  the step, the widths, the precision
                      /config.json    the configuration, so that a snapshot of another training is known
                      /SHA256SUMS     of all of these

A snapshot is written, hashed and flushed under another name and then renamed, before the training goes on: where there
is a checkpoint, there are all the snapshots of the steps up to it. Those of later steps are made anew, bit for bit.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from experiments.config.file import load_config, save_config
from experiments.config.tree import Config
from experiments.errors import CheckpointError, reason
from experiments.training.differences import differences
from experiments.training.manifest import sync, verify, write_manifest
from experiments.training.plan import count_snapshots
from experiments.training.removal import delete, remove
from experiments.training.room import lacking

_STEP = re.compile(r"[0-9]{8,}")


@dataclass(frozen=True)
class Snapshot:
    """A complete snapshot on the disk, verified or not."""

    path: Path
    step: int


def snapshots_of(run: Path) -> Path:
    """The folder of a run's snapshots."""
    return run / "snapshots"


def find_snapshots(directory: Path) -> list[Snapshot]:
    """The snapshots in `directory`, by step. None of them has been verified."""
    if not directory.is_dir():
        return []
    found = (path for path in directory.iterdir() if _STEP.fullmatch(path.name) and path.is_dir())
    return sorted((Snapshot(path, int(path.name)) for path in found), key=lambda snapshot: snapshot.step)


def bytes_of(config: Config, parameters: int) -> int:
    """The bytes of the arrays of one snapshot of a network of so many parameters."""
    return parameters * len(config.ema.widths) * np.dtype(config.ema.snapshot_precision).itemsize


def bytes_to_come(config: Config, parameters: int, start: int = 0) -> int:
    """The bytes of all the snapshots that are due after step `start`."""
    return count_snapshots(config, start) * bytes_of(config, parameters)


class SnapshotWriter:
    """Writes the snapshots of a run, each before the next step; process 0 does, and the others have nothing to do."""

    def __init__(self, directory: Path, config: Config, start: int) -> None:
        """The run goes on after step `start`: what is there of later steps, or was cut off, is removed."""
        self._directory, self._config = directory, config
        self._writes = jax.process_index() == 0
        if self._writes and directory.is_dir():
            for snapshot in find_snapshots(directory):
                if snapshot.step > start:
                    remove(snapshot.path)
            for leftover in (*directory.glob(".saving-*"), *directory.glob(".deleting-*")):
                delete(leftover)

    def save(self, step: int, averages: tuple[Any, ...]) -> None:
        """Write the averages of the widths, all those after the decays' among `averages`, as the snapshot of `step`.

        A number that is too large for half precision keeps its array in float32. Raises CheckpointError when it cannot
        be written; the snapshots before stay as they were.
        """
        if not self._writes:
            return
        rule = self._config.ema
        power = averages[len(rule.decays) :]
        precision = np.dtype(rule.snapshot_precision)
        trees = {
            str(width): narrowed(flat_arrays(tree), precision) for width, tree in zip(rule.widths, power, strict=True)
        }
        said = {"step": step, "sigma_rel": list(rule.widths), "precision": precision.name}

        def fill(folder: Path) -> None:
            for name, arrays in trees.items():
                write_arrays(folder / f"{name}.npz", arrays)
            (folder / "snapshot.json").write_text(json.dumps(said) + "\n")
            save_config(self._config, folder / "config.json")

        size = sum(array.nbytes for arrays in trees.values() for array in arrays.values())
        try:
            if (lack := _lack(self._directory, size)) is not None:
                raise CheckpointError(lack)
            write_folder(self._directory / f"{step:08d}", fill)
        except Exception as error:
            raise CheckpointError(
                f"snapshot {self._directory / f'{step:08d}'} could not be saved ({reason(error)}); make room and give "
                "the same command again, which goes on from the last checkpoint."
            ) from error


def _lack(directory: Path, size: int) -> str | None:
    directory.mkdir(parents=True, exist_ok=True)
    return lacking(directory, size)


def read_snapshot(snapshot: Snapshot, config: Config) -> dict[float, Path]:
    """The file of each width of a snapshot, after every one was verified.

    Raises CheckpointError for one that is damaged, or of another training than that of `config`.
    """
    verify(snapshot.path)
    if differences(load_config(snapshot.path / "config.json"), config, snapshot.step):
        raise CheckpointError(f"{snapshot.path} is of another training; remove it.")
    return {width: snapshot.path / f"{width}.npz" for width in config.ema.widths}


def flat_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of nested dictionaries by their paths, blocks/0/kernel, as numpy arrays."""
    leaves = tree_flatten_with_path(tree)[0]
    return {"/".join(keystr((entry,), simple=True) for entry in path): np.asarray(leaf) for path, leaf in leaves}


def nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flat_arrays`."""
    tree: dict[str, Any] = {}
    for path, leaf in arrays.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


def narrowed(arrays: dict[str, np.ndarray], precision: np.dtype[Any]) -> dict[str, np.ndarray]:
    """The arrays in this type, but for those whose numbers are too large for it."""
    limit = np.finfo(precision).max
    return {
        name: array.astype(precision) if np.all(np.abs(array) <= limit) else array for name, array in arrays.items()
    }


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as `numpy.load` reads them, by any names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file that has been verified, one at a time. Raises CheckpointError when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                yield name, archive[name]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); restore it, or remove its folder.") from None


def write_folder(final: Path, fill: Any) -> None:
    """Let `fill(folder)` write a folder, add its manifest, and flush and rename it to `final`, in place of another.

    No half of it ever has that name. Raises what the disk raises.
    """
    hidden = final.with_name(f".saving-{final.name}")
    if hidden.is_symlink() or hidden.exists():
        delete(hidden)
    hidden.mkdir(parents=True)
    try:
        fill(hidden)
        write_manifest(hidden)
        remove(final)
        hidden.rename(final)
        sync(final.parent)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
