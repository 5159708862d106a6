"""The flags of a command whose work several processes share without a word between them."""

from __future__ import annotations

import os

from experiments.errors import UsageError
from experiments.sampling.share import ALONE, Share

_CLUSTERS = (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
"""Where SLURM and Open MPI tell a process its number, and how many there are."""


def share_of(num_processes: int | None, process_id: int | None) -> Share:
    """The share of this process, whose number SLURM or Open MPI tells where it is not given.

    Nothing is shared unless `num_processes` is given, also under these: each may have seeds of its own.
    Raises UsageError for numbers that do not belong together.
    """
    if num_processes is None:
        if process_id is not None:
            raise UsageError(f"--process-id {process_id} goes with --num-processes; say how many share the seeds.")
        return ALONE
    if num_processes < 1:
        raise UsageError(f"--num-processes is {num_processes}; give at least 1.")
    if process_id is None:
        process_id = _told(num_processes)
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id is {process_id} of --num-processes {num_processes}; they count from 0.")
    return Share(process_id, num_processes)


def _told(num_processes: int) -> int:
    """This process's number by its environment. Raises UsageError where that tells none, or of other processes."""
    for rank, size in _CLUSTERS:
        index, count = os.environ.get(rank, ""), os.environ.get(size, "")
        if index.isdecimal() and count.isdecimal() and int(count) > 1:
            if int(count) != num_processes:
                raise UsageError(f"--num-processes is {num_processes}, and {size} says {count}; give --process-id too.")
            return int(index)
    if num_processes == 1:
        return 0
    raise UsageError(
        f"--num-processes {num_processes} needs --process-id, from 0 to {num_processes - 1}, of a command for each."
    )
