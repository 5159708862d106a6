"""Files of statistics: the mean and covariance of features, as others keep them for a data set.

mu (d,), sigma (d, d), an npz of NumPy. Ours say more: count, network, weights_sha256, preprocessing, and source.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import DataError, UsageError, reason
from experiments.evaluation.distances import Moments
from experiments.evaluation.wide import Side
from experiments.files import replacing

_SYMMETRIC = 1e-5
"""By how much of the largest number σ_ij and σ_ji may differ, and an eigenvalue be below 0; files may hold float32."""
_TOLD = ("network", "weights_sha256", "preprocessing", "source")


@dataclass(frozen=True)
class Statistics:
    """A file of statistics."""

    path: Path
    moments: Moments
    count: int | None
    """Of the images, None where the file does not say."""
    told: dict[str, str]
    """What the file says of the features and the images."""

    @property
    def side(self) -> Side:
        """The images as Fréchet's distance sees them."""
        return Side(self.moments, None, self.count)

    def require(self, sha256: str, preprocessing: str, width: int) -> None:
        """Raise DataError where the file says that its features are of another network, or has another number."""
        mine = len(self.moments.mean)
        if mine != width:
            raise DataError(f"{self.path} has {mine} features, and this network {width}; give the same --features.")
        for name, here in (("weights_sha256", sha256), ("preprocessing", preprocessing)):
            there = self.told.get(name, here)
            if there != here:
                raise DataError(
                    f"{self.path} was made with {name} {there}, and this is {here}; measure both sets in the same way."
                )


def is_statistics(path: Path) -> bool:
    """Whether this is a file of statistics: an npz with mu and sigma."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def is_ours(path: Path) -> bool:
    """Whether `write_statistics` wrote this file."""
    with zipfile.ZipFile(path) as archive:
        return {"mu.npy", "sigma.npy", "preprocessing.npy", "source.npy"} <= set(archive.namelist())


def read_statistics(path: Path) -> Statistics:
    """What a file says. Raises DataError for arrays that are no mean and covariance; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[name], np.float64) for name in ("mu", "sigma"))
            count = int(file["count"]) if "count" in file.files else None
            told = {name: str(file[name]) for name in _TOLD if name in file.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as statistics ({reason(error)}); write it anew.") from None
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2 or not len(mean):
        raise DataError(f"{path}: mu has shape {mean.shape} and sigma {covariance.shape}; they are (d,) and (d, d).")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: mu or sigma has numbers that are not finite; write it anew.")
    slack = _SYMMETRIC * max(np.abs(covariance).max(), np.finfo(np.float64).tiny)
    if np.abs(covariance - covariance.T).max() > slack or np.linalg.eigvalsh(covariance)[0] < -slack:
        raise DataError(f"{path}: sigma is no covariance, for it is not symmetric or has a negative eigenvalue.")
    return Statistics(path, Moments(mean, (covariance + covariance.T) / 2), count, told)


def write_statistics(path: Path, one: Side, told: dict[str, str]) -> None:
    """Keep a set's mean and covariance with what they are of. Raises UsageError where the file cannot be written."""
    if path.suffix.lower() != ".npz":
        raise UsageError(f"--save-statistics is {path}; give a file ending in .npz.")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.array(told[name]) for name in _TOLD if name in told}
    arrays |= {} if one.number is None else {"count": np.array(one.number)}
    np.savez(buffer, mu=one.moments.mean, sigma=one.moments.covariance, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
