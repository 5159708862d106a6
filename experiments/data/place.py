"""Where data lie: a path that was typed in one folder, found again from any other, and not mistaken for another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import DataError

REMEDY = "give their place now by --data URI (in anomaly --run-data)"
"""What a person can do about data that are not found."""
_PATHS = ("folder", "zip", "npz", "idx", "records", "hf")
"""The schemes that are followed by a path; hf by one or by a name."""
UNNAMED = "a machine that it does not name"
"""Where a run was made that noted no place."""


@dataclass(frozen=True)
class Place:
    """Where a run has read its data."""

    uri: str
    """The URI with its path from the root, whatever was typed."""
    host: str
    """The name of the machine."""


def place_of(uri: str) -> Place:
    """The place that a URI means now and here."""
    path = _path(uri)
    scheme = uri.partition(":")[0]
    known = uri if path is None or (scheme == "hf" and not path.exists()) else f"{scheme}:{path}"
    return Place(known, os.uname().nodename)


def find(typed: str, place: Place | None) -> tuple[str, str | None]:
    """(The URI of a run's data, the other machine that it was made on, if it was: then only the same data will do.)

    `typed` is what the run's configuration says, which from another folder may mean other data. A run that recorded no
    place was made before there were any, by whomever: what it says is looked at, and nothing is fetched for it.
    Raises DataError where the data are not there any more, and for a name on a hub that somebody else has chosen.
    """
    if typed.partition(":")[0] not in _PATHS:
        return typed, None
    if place is None:
        path = _path(typed)
        if typed.startswith("hf:") and not (path and path.exists()):
            raise DataError(f"this run does not say where it was made, and {typed} would be fetched; {REMEDY}.")
        return typed, UNNAMED
    elsewhere, where = place.host if place.host != os.uname().nodename else None, place.uri.partition(":")[2]
    if os.path.isabs(where):
        if os.path.exists(where):
            return place.uri, elsewhere
        raise DataError(f"the data of this run were {place.uri} on {place.host}, and are not there; {REMEDY}.")
    if elsewhere is not None:
        raise DataError(f"this run was made on {elsewhere} from {place.uri}, which would be fetched; {REMEDY}.")
    return place.uri, None


def data_folder(typed: str, place: Place | None) -> Path | None:
    """The folder of a run's data where they are one, None where they are something else."""
    path = _path(typed if place is None else place.uri)
    return path if path is not None and path.is_dir() else None


def _path(uri: str) -> Path | None:
    """The path in a URI from the root; None where it has none."""
    scheme, _, where = uri.partition(":")
    return Path(os.path.abspath(os.path.expanduser(where))) if scheme in _PATHS and where else None
