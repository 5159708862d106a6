"""Averages of any width, made from the snapshots of a run after it was trained, and kept with it.

    averages/00001000-0.15/average.npz   an array for each parameter
                          /average.json  the step, the width, the distance of its profile, what it was made from
                          /SHA256SUMS    of both

The checkpoint that the average belongs to holds the averages of its own step, and is the last of the snapshots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.file import load_config
from experiments.config.tree import Config
from experiments.errors import CheckpointError, UsageError, reason
from experiments.training.checkpoint import Checkpoint, load
from experiments.training.manifest import held, verify
from experiments.training.power import WIDEST, Profile, synthesis
from experiments.training.snapshots import (
    find_snapshots,
    flat_arrays,
    nested,
    read_arrays,
    read_snapshot,
    snapshots_of,
    write_arrays,
    write_folder,
)

FARTHEST = 0.1
"""The largest distance of a profile, by its norm, with which an average is made."""


@dataclass(frozen=True)
class Synthesis:
    """An average that was made."""

    path: Path
    step: int
    sigma_rel: float
    distance: float
    """‖Σ xᵢ pᵢ − p‖/‖p‖ of the profiles."""
    snapshots: int
    """The number of snapshots that it was made from, the checkpoint among them."""


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint is in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def folder_of(checkpoint: Path, width: float) -> Path:
    """Where the average of this width, at the step of a checkpoint, is kept."""
    return run_of(checkpoint) / "averages" / f"{checkpoint.name}-{width}"


def make_averages(found: Checkpoint, widths: Sequence[float], warn: Callable[[str], None]) -> list[Synthesis]:
    """Make the averages of these relative widths at the step of a checkpoint, and keep them with its run.

    A snapshot that is damaged, or of another training, is passed over, as `warn` is told in a line. Raises UsageError
    for a width that no average has or that the snapshots do not reach, and for a run without snapshots; CheckpointError
    for what is damaged, or cannot be written.
    """
    for width in widths:
        if not 0 < width <= WIDEST:
            raise UsageError(
                f"--sigma-rel {width:g} is no width of an average; give one above 0 and up to {WIDEST:.4f}."
            )
    with held(found.path):  # or its training may remove it meanwhile
        tree, digest = load(found.path)
        config, step = load_config(found.path / "config.json"), int(tree["step"])
    run = run_of(found.path)
    files = _files(run, config, step, warn)
    own = {
        Profile(width, step): tree["ema"][str(len(config.ema.decays) + i)] for i, width in enumerate(config.ema.widths)
    }
    profiles = [*files, *own]
    made = {width: synthesis(profiles, Profile(width, step)) for width in dict.fromkeys(widths)}
    for width, (_, distance) in made.items():
        if distance > FARTHEST:
            raise UsageError(_unreached(run, width, distance, profiles, step))
    weights = {width: dict(zip(profiles, x, strict=True)) for width, (x, _) in made.items()}
    averages = _sums(files, {profile: flat_arrays(average) for profile, average in own.items()}, weights)
    steps = sorted({profile.step for profile in profiles})
    done = []
    for width, (_, distance) in made.items():
        said = {"step": step, "sigma_rel": width, "distance": distance, "snapshots": steps, "checkpoint_sha256": digest}
        path = folder_of(found.path, width)
        _write(path, averages[width], said)
        done.append(Synthesis(path, step, width, distance, len(steps)))
    return done


def _files(run: Path, config: Config, step: int, warn: Callable[[str], None]) -> dict[Profile, Path]:
    """The file of each profile in the snapshots before `step`. Raises UsageError where there are none."""
    if not config.ema.widths:
        raise UsageError(
            f"{run} was trained without power-function averages; train with --ema.snapshot-every, a twentieth of the "
            "steps, say."
        )
    files: dict[Profile, Path] = {}
    for snapshot in find_snapshots(snapshots_of(run)):
        if snapshot.step >= step:
            continue
        try:
            of_widths = read_snapshot(snapshot, config)
        except CheckpointError as error:
            warn(f"{error} It is passed over.")
            continue
        files |= {Profile(width, snapshot.step): path for width, path in of_widths.items()}
    if not files:
        raise UsageError(
            f"{run} has no snapshots before step {step}, which --ema.snapshot-every keeps while training; without them "
            f"there are the averages of --ema {', '.join(map(str, config.ema.widths))} alone."
        )
    return files


def _unreached(run: Path, width: float, distance: float, profiles: Sequence[Profile], step: int) -> str:
    """Why the average of a width is not made, and which can be: the nearest on the way to one that was kept."""

    def reached(other: float) -> bool:
        return 0 < other <= WIDEST and synthesis(profiles, Profile(other, step))[1] <= FARTHEST

    far, near = width, min((profile.sigma_rel for profile in profiles), key=lambda kept: abs(kept - width))
    for _ in range(6):
        middle = (far + near) / 2
        far, near = (far, middle) if reached(middle) else (middle, near)
    near = next(short for digits in range(2, 18) if reached(short := round(near, digits)))
    count = len({profile.step for profile in profiles})
    return (
        f"--sigma-rel {width:g} is not reached from the {count} snapshots of {run}: the nearest profile is "
        f"{100 * distance:.0f}% away; give {near:g}, about the nearest width that is, or train with a smaller "
        "--ema.snapshot-every."
    )


def _sums(
    files: Mapping[Profile, Path],
    own: Mapping[Profile, dict[str, np.ndarray]],
    weights: Mapping[float, Mapping[Profile, float]],
) -> dict[float, dict[str, np.ndarray]]:
    """Σ xᵢ θᵢ of each width in float64, as float32. Of the files one array at a time is in memory."""
    sums: dict[float, dict[str, Any]] = {width: {} for width in weights}

    def add(profile: Profile, name: str, array: np.ndarray) -> None:
        for width, of_profile in weights.items():
            sums[width][name] = sums[width].get(name, 0.0) + of_profile[profile] * array.astype(np.float64)

    like = next(iter(own.values()))
    for profile, path in files.items():
        for name, array in _fitting(path, like):
            add(profile, name, array)
    for profile, arrays in own.items():
        for name, array in arrays.items():
            add(profile, name, array)
    return {width: {name: np.asarray(a, np.float32) for name, a in tree.items()} for width, tree in sums.items()}


def _fitting(path: Path, like: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file, one at a time. Raises CheckpointError unless they are those of `like`, name and shape."""
    left = dict(like)
    for name, array in read_arrays(path):
        if name not in left or array.shape != left.pop(name).shape or not np.issubdtype(array.dtype, np.floating):
            raise CheckpointError(f"{path} holds other arrays than its checkpoint; remove its folder.")
        yield name, array
    if left:
        raise CheckpointError(f"{path} lacks arrays of its checkpoint; remove its folder.")


def _write(path: Path, arrays: dict[str, np.ndarray], said: dict[str, Any]) -> None:
    def fill(folder: Path) -> None:
        write_arrays(folder / "average.npz", arrays)
        (folder / "average.json").write_text(json.dumps(said) + "\n")

    try:
        write_folder(path, fill)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({reason(error)}); make room, and repeat the command."
        ) from None


def load_average(checkpoint: Path, digest: str, width: float, like: Any) -> tuple[Any, str]:
    """(The average of this width that was made at a checkpoint, the SHA-256 of its manifest.)

    `digest` is that of the checkpoint, `like` are parameters of the same shapes. Raises UsageError where there is no
    such average, or it was made from another checkpoint, CheckpointError where it is damaged.
    """
    path, run = folder_of(checkpoint, width), run_of(checkpoint)
    remedy = f"make it by: scorefield ema --run {run} --sigma-rel {width:g}"
    if not path.exists():
        raise UsageError(f"{run} has no average of relative width {width:g} at {checkpoint.name}; {remedy}")
    own = verify(path)
    try:
        said = json.loads((path / "average.json").read_bytes())
        other = said["checkpoint_sha256"] != digest
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path / 'average.json'} cannot be read ({reason(error)}); {remedy}") from None
    if other:
        raise UsageError(f"{path} was made from another checkpoint than the one that is there now; {remedy}")
    return nested(dict(_fitting(path / "average.npz", flat_arrays(like)))), own
