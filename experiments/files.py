"""Files that are written whole or not at all, and never through a link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from experiments.errors import ScorefieldError, UsageError

_written, _counting = 0, threading.Lock()
_under_way: set[Path] = set()
"""The temporary files of this process."""
_abandoned = threading.Event()
"""Whether this process ends, and so begins and finishes no file any more."""
_LEFTOVER = re.compile(r"\.(.+)\.(?:[0-9a-f]{8}|[0-9a-f]{16})\.tmp")
"""The name of a temporary file, and in it that of the file that it was to become."""


@contextlib.contextmanager
def replacing(path: Path, *, swept: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there is flushed and moved to `path`, or removed after an error.

    The temporary file is new and has a name that nobody can foresee; a link at `path` is replaced, not followed.
    What a killed process left of this file is removed, unless the folder is `swept` already. Missing folders are made.
    Raises UsageError when the disk refuses.
    """
    if not swept:
        sweep(path.parent, {path.name})
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    global _written
    descriptor = None
    _under_way.add(temporary)
    try:
        _wait_for_the_end()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _lock(descriptor)
        yield temporary
        os.fsync(descriptor)
        temporary.replace(path)
        if not any(parent in _under_way for parent in path.absolute().parents):  # else it is not there yet
            with _counting:
                _written += 1
    except OSError as error:
        _wait_for_the_end()
        raise UsageError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            os.close(descriptor)
        _under_way.discard(temporary)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which becomes it at the end, or is removed after an error or a signal.

    `path` is not there, or is an empty folder. What a killed process left of it is removed. Raises UsageError when the
    disk refuses.
    """
    path = path.absolute()
    sweep(path.parent, {path.name})
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    global _written
    descriptor = None
    _under_way.add(hidden)
    try:
        _wait_for_the_end()
        hidden.mkdir(parents=True)
        descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        _lock(descriptor)
        yield hidden
        _wait_for_the_end()
        if path.is_dir():
            path.rmdir()
        hidden.rename(path)
        with _counting:
            _written += sum(each.is_file() for each in path.rglob("*"))
    except OSError as error:
        _wait_for_the_end()
        raise UsageError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)
        _under_way.discard(hidden)


def abandon() -> None:
    """Remove what is half written, of a process that is about to end, whose other threads begin and finish no more."""
    _abandoned.set()
    for temporary in list(_under_way):
        _remove(temporary)


def _remove(path: Path) -> None:
    """Remove a temporary file, or a folder, into which another thread may be writing still."""
    for _ in range(10):
        with contextlib.suppress(OSError):
            if not path.is_dir():
                path.unlink(missing_ok=True)
                return
            shutil.rmtree(path)


def require_own(path: Path, own: Callable[[Path], bool], flag: str) -> None:
    """Raise UsageError where there is a file at `path` that is not `own`: what its command has written before."""
    if not (path.is_symlink() or path.exists()):
        return
    try:
        known = own(path)
    except (OSError, ValueError, ScorefieldError):
        known = False
    if not known:
        raise UsageError(
            f"{path} is there, and of another command or of somebody else; give another {flag}, or move it away; "
            "nothing was overwritten."
        )


def _wait_for_the_end() -> None:
    """Wait for ever where this process ends, of which another thread says why."""
    if _abandoned.is_set():
        threading.Event().wait()


def user_cache() -> Path | None:
    """scorefield in $XDG_CACHE_HOME, where that is an absolute path; else in ~/Library/Caches on macOS, ~/.cache
    elsewhere. None where the user has no home.
    """
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if told.is_absolute():
        return told / "scorefield"
    with contextlib.suppress(RuntimeError):
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "scorefield"
    return None


def require_writable(folder: Path) -> None:
    """Raise UsageError where nothing can be written in a folder, which need not be there yet. Leaves nothing behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}); choose another place.") from None


def free_on(folder: Path) -> int | None:
    """The bytes that the disk of a folder has left; None where it does not tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def written() -> int:
    """How many files this process has written until now, each whole."""
    return _written


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sweep(folder: Path, names: Container[str]) -> None:
    """Remove the temporary files, and folders, that killed processes left in `folder` of files of these names.

    A file that is being written is locked by its process, and stays; so does all that is not one's own.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for entry in entries:
        match = _LEFTOVER.fullmatch(entry.name)
        if match and match[1] in names:
            with contextlib.suppress(OSError):
                _remove_if_left(entry.path)


def _remove_if_left(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or not _lock(descriptor):
            return
        if stat.S_ISREG(status.st_mode):
            os.unlink(path)
        elif stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file as long as it is open here; False where another process has, or the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
