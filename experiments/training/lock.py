"""One process for one run directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import BusyError, UsageError


@contextmanager
def run_lock(outdir: Path) -> Iterator[None]:
    """Hold `outdir`/lock, an flock that ends with the process, however it ends.

    The file stays: removing it would let two processes lock two files of one name.
    Raises BusyError naming the process that holds it, UsageError when the folder cannot be written.
    """
    try:
        file = open(outdir / "lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"--outdir {outdir} cannot be written ({error.strerror}); give another.") from None
    mine = f"process {os.getpid()} on {os.uname().nodename}"
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if holder == mine:
                raise BusyError(
                    f"{outdir} is in use by a training that this process has not closed; write "
                    "`with training(...) as steps:`, call `close`, or give another --outdir."
                ) from None
            raise BusyError(f"{outdir} is in use by {holder}; wait for it, or give another --outdir.") from None
        file.truncate(0)
        file.write(f"{mine}\n")
        file.flush()
        yield
