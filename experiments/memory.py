"""Main memory: how much is left, and what is said when there is none."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import ExhaustedError

_UNLIMITED = 2**60
"""A limit of a control group above this is none."""
_own = False
_ASKED = re.compile(r"allocat\w* (?:array of )?(\d+ bytes|[\d.]+ ?[KMGTPE]i?B)", re.IGNORECASE)


def available(root: Path = Path("/")) -> int | None:
    """The bytes that this process can still take: what the machine has left, within the limits of its control groups.

    None where the system does not say, which Linux does. `root` is where /proc and /sys are.
    """
    try:
        told = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    if told is None:
        return None
    return max(0, min([int(told[1]) * 1024, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each control group with a limit, of the process and above it, has left."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, place = line.split(":", 2)
        if number == "0":
            home, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            home, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            used, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        path = Path(place.lstrip("/"))
        # Within a container the place may be that of the host: there its own group is the topmost that is seen.
        for folder in (root / home / path, *(root / home / parent for parent in path.parents)):
            most, taken = _number(folder / limit), _number(folder / used)
            if most is not None and taken is not None and most < _UNLIMITED:
                yield most - taken + _of(folder / "memory.stat", cache)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def _of(path: Path, name: str) -> int:
    """The number beside a name in a table; 0 where it has none."""
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 0 if found is None else int(found[1])


def own_process() -> None:
    """Say that this process is a command's own, and holds no programs of a caller."""
    global _own
    _own = True


def forget_programs() -> None:
    """Let go of the programs that were compiled until now, in a process that is a command's own.

    Those that make the first parameters of a network hold a hundred megabytes. One that is wanted again is compiled
    again, or read from where programs are kept.
    """
    if not _own:
        return
    import jax

    jax.clear_caches()
    gc.collect()
    give_back()


def give_back() -> bool:
    """Return to the system what the allocator keeps of memory that is free, as after a compilation; False if it cannot.

    glibc keeps hundreds of megabytes then, beside which the arrays of a training would have to find room.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another C library, or none that is to be found like this
        return False
    trim(0)
    return True


def shown(size: float) -> str:
    """A number of bytes for a person: 3.2 MB."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" or size >= 100 else f"{size:.1f} {units[0]}"


def require(size: float, what: str, remedy: str) -> None:
    """Raise ExhaustedError, before anything is allocated, where `size` bytes for `what` are more than is left."""
    free = available()
    if free is not None and size > free:
        raise ExhaustedError(f"{what} takes at least {shown(size)} of memory, and {shown(free)} is free; {remedy}.")


def ran_out(error: BaseException) -> bool:
    """Whether an error, of Python's, NumPy's or XLA's, says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    of_xla = any(cls.__name__ in ("XlaRuntimeError", "JaxRuntimeError") for cls in type(error).__mro__)
    return of_xla and re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE) is not None


@contextmanager
def remedied(remedy: str) -> Iterator[None]:
    """Say in a sentence that memory ran out, and the `remedy`. Raises ExhaustedError then; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        said = _ASKED.search(str(error))
        asked = "" if said is None else f", when {_size(said[1])} more were asked for"
        raise ExhaustedError(f"memory ran out{asked}; {remedy}.") from None


def _size(text: str) -> str:
    number = text.partition(" bytes")[0]
    return shown(int(number)) if number.isdecimal() else text
