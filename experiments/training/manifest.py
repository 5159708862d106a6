"""A SHA-256 manifest of a folder, in the format of `sha256sum`: `cd FOLDER && sha256sum --check SHA256SUMS`.

Orbax loads flipped bits in array data without a word, so every checkpoint carries one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import CheckpointError

NAME = "SHA256SUMS"
# Every byte of a line means something, so a flipped bit anywhere in the manifest is found too.
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def write_manifest(folder: Path) -> None:
    """Hash every file under `folder`, write the manifest, and flush all of it to the disk."""
    names = _files(folder)
    lines = [f"{_digest(folder / name)}  {name}\n" for name in names]
    (folder / NAME).write_text("".join(lines))
    for name in (*names, NAME):
        sync(folder / name)
    for parent in sorted({(folder / name).parent for name in (*names, NAME)}):
        sync(parent)


def verify(folder: Path) -> str:
    """Check every file under `folder` against its manifest; returns the manifest's own SHA-256.

    Raises CheckpointError naming the first file that is missing, superfluous or changed.
    """
    try:
        text = (folder / NAME).read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{folder} has no {NAME}; it is not a complete checkpoint: restore it, or use another."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder / NAME} cannot be read ({error}); restore it, or use another checkpoint."
        ) from None
    matches = [_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    if not text.endswith("\n") or not all(matches):
        raise CheckpointError(f"{folder / NAME} is damaged; restore it, or use another checkpoint.")
    wanted = {match[2]: match[1] for match in matches if match}
    try:
        found = _files(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error}); restore it, or use another checkpoint.") from None
    for name in sorted(wanted.keys() ^ set(found)):
        what = "is missing" if name in wanted else f"is not in {NAME}"
        raise CheckpointError(
            f"{folder / name} {what}; the checkpoint is not what was saved: restore it, or use another."
        )
    for name in found:
        try:
            same = _digest(folder / name) == wanted[name]
        except OSError as error:
            raise CheckpointError(
                f"{folder / name} cannot be read ({error}); restore it, or use another checkpoint."
            ) from None
        if not same:
            raise CheckpointError(
                f"{folder / name} does not match its SHA-256; it is damaged: restore it, or use another."
            )
    return hashlib.sha256(text.encode()).hexdigest()


def intact(folder: Path, name: str) -> bool:
    """Whether one file under `folder` is the one that its manifest tells of; False where either cannot be read."""
    try:
        lines = (folder / NAME).read_bytes().decode().splitlines()
        return f"{_digest(folder / name)}  {name}" in lines
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def held(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """Keep a checkpoint from being removed while it is read, or from being read while it is removed (`alone`).

    Whether it is held: never is it where it is not there, or in use the other way; what the disk cannot lock counts as
    held.
    """
    descriptor, fine = None, True
    try:
        descriptor = os.open(folder / NAME, (os.O_RDWR if alone else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        fine = False
    except OSError:
        fine = alone
    try:
        yield fine
    finally:
        if descriptor is not None:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() and path != folder / NAME
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
