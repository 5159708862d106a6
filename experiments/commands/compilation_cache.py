"""Compiled programs, kept for the next command in the user's cache folder.

    scorefield --compilation-cache DIR train ...    another folder
    scorefield --compilation-cache off train ...    none; so does SCOREFIELD_COMPILATION_CACHE=off

JAX says which program it wants, by a key that covers the program, jaxlib, the flags of XLA and the kind of device. Its
own files know neither damage nor other processors, and warn of whatever goes wrong. So the files are written here: each
whole or not at all, with its SHA-256, in a folder for each jaxlib, processor and set of flags. What cannot be read is
compiled anew, what cannot be written is not kept, and nothing is said of either.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import secrets
import shutil
import stat
import threading
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.errors import UsageError
from experiments.files import require_writable, user_cache

FLAG, VARIABLE = "--compilation-cache", "SCOREFIELD_COMPILATION_CACHE"
JAX_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""The folder of JAX's own cache; where a person has named one, it is used as JAX uses it."""

LIMIT = 2**29
"""Bytes of all programs together; the longest unused go first. JAX_COMPILATION_CACHE_MAX_SIZE sets another limit."""
_ROOM = 2**28
"""Bytes of the disk that are left to others."""
_LEFT = 3600.0
"""Seconds after which a file that is still being written is taken for what a killed process has left."""
_SUFFIX, _DIGEST = ".program", 32
_FATAL = 3
_LEVELS = {"CRITICAL": 3, "FATAL": 3, "ERROR": 2, "WARN": 1, "WARNING": 1, "INFO": 0, "DEBUG": 0}
"""What XLA's log calls the levels of JAX's."""


def folder_of(flag: str | None) -> Path | None:
    """Where programs are kept: by the flag, else by the variable, else in the user's cache folder; None for nowhere.

    Raises UsageError for a flag that names no folder that can be written in. All else does no harm.
    """
    if flag is not None and flag != "off":
        folder = Path(flag)
        if not flag or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"{FLAG} {flag!r} is no folder; give a folder, or off.")
        require_writable(folder)
        return folder.absolute()
    told = flag or os.environ.get(VARIABLE)
    if told:
        return None if told == "off" else Path(told).absolute()
    if os.environ.get(JAX_VARIABLE):
        return None
    folder = user_cache()
    return None if folder is None else folder / "programs"


def keep_programs(folder: Path | None) -> None:
    """Have this process read its programs from `folder`, and write those that it compiles there; None changes nothing.

    A JAX without the places where this takes hold does without.
    """
    if folder is None:
        return
    import jax
    from jax._src import compilation_cache as jaxs

    if not (hasattr(jaxs, "get_file_cache") and hasattr(jaxs, "get_executable_and_time")):
        return
    limit = getattr(jax.config, "jax_compilation_cache_max_size", -1)
    programs = Programs(folder / surroundings(), LIMIT if limit < 0 else limit)
    jaxs.reset_cache()
    jaxs.get_file_cache = lambda path: (programs, path)
    jaxs.get_executable_and_time = _unheard(_original(jaxs.get_executable_and_time), programs)
    jax.config.update("jax_compilation_cache_dir", str(programs.folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    # A program that cannot be serialised is compiled by each command.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def surroundings() -> str:
    """The name of the folder for this jaxlib, processor and set of flags: their key does not cover the processor."""
    told = (platform.machine(), _processor(), " ".join(sorted(os.environ.get("XLA_FLAGS", "").split())))
    return f"jaxlib-{version('jaxlib')}-{hashlib.sha256('|'.join(told).encode()).hexdigest()[:16]}"


def _processor() -> str:
    """What the machine says of its first processor, but for what changes from moment to moment."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        kept = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
        return "\n".join(line for line in first.splitlines() if line.startswith(kept))
    return platform.processor()


class Programs:
    """Files named by JAX's keys, each a SHA-256 and the program that it is of. JAX calls `get` and `put`."""

    def __init__(self, folder: Path, limit: int) -> None:
        """`limit` is the number of bytes of all folders beside `folder` together, itself included."""
        self.folder, self.limit = folder, limit
        self._path = folder  # by which JAX names it
        self._size: int | None = None
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The program, or None where there is none that can be trusted. A damaged one is removed."""
        path = self._file(key)
        try:
            content, trusted = path.read_bytes(), _trusted(path)
        except OSError:
            return None
        program = content[_DIGEST:]
        if not trusted or hashlib.sha256(program).digest() != content[:_DIGEST]:
            self.remove(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # by which it is known what was not used for long
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keep a program, whole or not at all, and remove others beyond the limit."""
        size, path = len(value) + _DIGEST, self._file(key)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if size > self.limit or shutil.disk_usage(self.folder).free < size + _ROOM:
                return
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(hashlib.sha256(value).digest() + value)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        with self._lock:
            self._size = None if self._size is None else self._size + size
            if self._size is None or self._size > self.limit:
                self._size = self._make_room()

    def remove(self, key: str) -> None:
        """Forget a program."""
        with contextlib.suppress(OSError):
            self._file(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all programs of this folder."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)

    def _file(self, key: str) -> Path:
        # The names of functions are part of a key, and can be longer than those of files.
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}{_SUFFIX}"

    def _make_room(self) -> int:
        """Remove the longest unused programs, of whatever surroundings, beyond the limit; the bytes that stay."""
        files = []
        for path in self.folder.parent.glob("jaxlib-*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.suffix == _SUFFIX:
                    files.append((status.st_mtime_ns, status.st_size, path))
                elif path.suffix == ".tmp" and time.time() - status.st_mtime > _LEFT:
                    path.unlink()
        total = sum(size for _, size, _ in files)
        # A little more than needed, so that the next program does not look through all of them again.
        goal = self.limit if total <= self.limit else self.limit - self.limit // 10
        for _, size, path in sorted(files):
            if total <= goal:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
        return total


def _trusted(path: Path) -> bool:
    """Whether nobody else can have written a file, which holds code for the processor: by its owner and its mode."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH


def _original(function: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(function, "__wrapped__", function)


def _unheard(read: Callable[..., Any], programs: Programs) -> Callable[..., Any]:
    """JAX's reader, without what XLA logs of features of the processor, and without an error.

    XLA compares the features that it compiled for with those of the machine, and its own preferences among them are
    features of no machine: some twenty lines for programs of this very processor. Its log is off while it loads one.
    """

    @functools.wraps(read)
    def quietly(key: str, *arguments: Any, **options: Any) -> Any:
        with _log_off():
            try:
                return read(key, *arguments, **options)
            except Exception:  # whatever is wrong with it, the program is compiled anew
                programs.remove(key)
                return None, None

    return quietly


@contextlib.contextmanager
def _log_off() -> Any:
    import jax
    from jax._src.lib import utils  # pyright: ignore[reportPrivateImportUsage]

    set_level = getattr(utils, "absl_set_min_log_level", None)
    if set_level is None:
        yield
        return
    told = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "")
    level = _LEVELS.get(getattr(jax.config, "jax_logging_level", None) or "", int(told) if told.isdecimal() else 1)
    set_level(_FATAL)
    try:
        yield
    finally:
        set_level(level)
