"""One process for one run directory."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import BusyError, UsageError

_HOLDER = re.compile(r"process [0-9]+ on [\w.-]{1,100}")


@contextmanager
def run_lock(outdir: Path) -> Iterator[None]:
    """Hold `outdir`/lock, an flock that ends with the process, however it ends.

    The file stays: removing it would let two processes lock two files of one name.
    Raises BusyError naming the process that holds it, UsageError when the folder cannot be written, and when what is
    there under that name is no file of its own: nothing is written through a link.
    """
    path = outdir / "lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_dir():
            raise UsageError(_no_lock(path)) from None
        raise UsageError(f"--outdir {outdir} cannot be written ({error.strerror}); give another.") from None
    mine = f"process {os.getpid()} on {os.uname().nodename}"
    with os.fdopen(descriptor, "rb+", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise UsageError(_no_lock(path))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = file.read(200).decode(errors="replace").strip()
            if said == mine:
                raise BusyError(
                    f"{outdir} is in use by a training that this process has not closed; write "
                    "`with training(...) as steps:`, call `close`, or give another --outdir."
                ) from None
            holder = said if _HOLDER.fullmatch(said) else "another process"
            raise BusyError(f"{outdir} is in use by {holder}; wait for it, or give another --outdir.") from None
        file.truncate(0)
        file.write(f"{mine}\n".encode())
        yield


def _no_lock(path: Path) -> str:
    return f"{path} is a link or no file, and a lock is written through none; delete it, or give another --outdir."
