"""Several processes, one on each host, as one run: `jax.distributed` without its traps."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np

from experiments.errors import ScorefieldError, UsageError
from experiments.training import meeting, peers
from experiments.training.relay import relay

# A person should not wait longer for a process that never comes; and what `peers` sees no sooner, JAX does.
_START_SECONDS, _HEARTBEAT_SECONDS = 50, 50


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the run's processes, before anything touches a device; does nothing for a single process.

    `coordinator` is host:port of process 0. Without arguments the cluster is read from the environment that SLURM,
    Open MPI or a TPU slice makes. Raises UsageError for arguments that do not belong together, a port that is
    taken, and processes that do not come within a minute. From then on `peers` ends this process with a line when
    another is lost.
    """
    given: tuple[str | None, int | None, int | None] = (coordinator, num_processes, process_id)
    local = None
    if all(value is None for value in given):
        if not in_cluster():
            return
        from jax._src import clusters

        *found, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, _START_SECONDS
        )
        given = cast(tuple[str | None, int | None, int | None], tuple(found))
    host, port, count, index = _checked(*given)
    address = f"{host}:{port}" if count == 1 else _meet(host, port, count, index)
    handlers = _handlers()
    try:
        with peers.as_one():
            _initialize(address, count, index, local)
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _meet(host: str, port: int, count: int, index: int) -> str:
    """Wait until all processes are there, and watch them; returns the address of JAX's service."""
    if index == 0:
        others, service = meeting.gather(host, port, count, _START_SECONDS)
        peers.begin(others)
        return f"127.0.0.1:{service}"
    host = host.strip("[]")  # of an address of IPv6
    others = meeting.join(host, port, index, count, _START_SECONDS)
    peers.begin(others)
    return f"127.0.0.1:{relay(lambda: meeting.tunnel(host, port), others.done)}"


def _initialize(address: str, count: int, index: int, local: Any) -> None:
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            local,
            coordinator_bind_address=None if count == 1 else address,  # for this machine alone
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"the processes did not come together ({reason}); start all within a minute.") from None


def in_cluster() -> bool:
    """Whether the environment is that of one process among several."""
    sizes = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return any(size.isdigit() and int(size) > 1 for size in sizes) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def from_process_0(tree: Any) -> Any:
    """Process 0's numpy arrays on every process, bit for bit; shapes and types must agree. Itself for one process."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    # As bytes: the broadcast is a sum, and −0.0 + 0.0 is another number than −0.0.
    sent = jax.tree.map(lambda leaf: np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), tree)
    received = multihost_utils.broadcast_one_to_all(sent)
    return jax.tree.map(lambda old, new: np.asarray(new).view(old.dtype).reshape(old.shape), tree, received)


def on_process_0(action: Callable[[], None]) -> None:
    """Run `action` on process 0 alone; the error of a command that it raises there, every process raises."""
    if jax.process_count() == 1:
        return action()
    refused = ["", ""]
    if jax.process_index() == 0:
        try:
            action()
        except ScorefieldError as error:
            refused = [type(error).__name__, str(error)]
    kind, text = json.loads(_text_of_process_0(json.dumps(refused)))
    if kind:
        raise next(one for one in _kinds(ScorefieldError) if one.__name__ == kind)(text)
    return None


def require_alike(said: Mapping[str, Any]) -> None:
    """Raise UsageError on every process unless all say the same, naming what differs; values are those of JSON.

    Processes that were given different commands would train together, each its own way, and one of them would be
    recorded.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    first = json.loads(_text_of_process_0(json.dumps(said, default=str)))
    mine = json.loads(json.dumps(said, default=str))
    wrong = next((name for name in sorted({*first, *mine}) if first.get(name) != mine.get(name)), None)
    differ = np.asarray(multihost_utils.process_allgather(np.asarray(wrong is not None))).ravel()
    if wrong is not None:
        raise UsageError(
            f"process {jax.process_index()} has {wrong} {mine.get(wrong)}, and process 0 {first.get(wrong)}; "
            "give every process the same command, data and versions."
        )
    if differ.any():
        which = ", ".join(map(str, np.flatnonzero(differ)))
        raise UsageError(
            f"process {which} was started with something else than process 0, and its own line says what; "
            "start all alike."
        )


def _text_of_process_0(text: str) -> str:
    sent = np.frombuffer(text.encode(), np.uint8)
    size = int(from_process_0(np.asarray(len(sent))))
    room = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        room[:] = sent
    return from_process_0(room).tobytes().decode()


def _kinds(cls: type[ScorefieldError]) -> Iterator[type[ScorefieldError]]:
    yield cls
    for one in cls.__subclasses__():
        yield from _kinds(one)


def _checked(coordinator: str | None, num_processes: int | None, process_id: int | None) -> tuple[str, int, int, int]:
    """(host, port, num_processes, process_id) of flags that make sense."""
    if coordinator is None or num_processes is None or process_id is None:
        raise UsageError("--coordinator, --num-processes and --process-id go together; give all three or none.")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id is {process_id} of --num-processes {num_processes}; they count from 0.")
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()):
        raise UsageError(f"--coordinator is {coordinator!r}; give host:port of process 0.")
    if len(port) > 5 or not 0 < int(port) < 65536:
        raise UsageError(f"--coordinator is {coordinator!r}; give a port from 1 to 65535.")
    return host, int(port), num_processes, process_id


def _handlers() -> dict[int, Any]:
    """The handlers that `jax.distributed.initialize` replaces, by signal."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
