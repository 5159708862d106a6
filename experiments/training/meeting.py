"""How the processes of a run come together, all at the one port that the coordinator is given.

The others come to process 0 there, and find JAX's service there too: it listens on process 0's machine alone, at a port
that nobody else has to reach.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from experiments.errors import UsageError, one_line, reason
from experiments.training.peers import GRACE, Link, Peers
from experiments.training.relay import connected, join_both

_TO_SERVICE = b'{"to": "service"}\n'
"""What a connection begins with that leads to JAX's service."""


def gather(host: str, port: int, count: int, seconds: float) -> tuple[Peers, int]:
    """(The others, the port for JAX's service here, to which their `tunnel`s lead), when all `count` − 1 have come.

    On process 0, which is at `host`.

    Raises UsageError where the port is taken, and naming who has not come after so many seconds.
    """
    try:
        listener = _listener(port)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else reason(error)
        raise UsageError(f"--coordinator {host}:{port}: the port is taken ({why}).") from None
    links: dict[int, Link] = {}
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        while len(links) < count - 1:
            listener.settimeout(max(0.01, min(1.0, end - time.monotonic())))
            with contextlib.suppress(TimeoutError):
                _admit(Link(listener.accept()[0]), links, count)
            if time.monotonic() > end and len(links) < count - 1:
                missing = ", ".join(str(i) for i in range(1, count) if i not in links)
                line = f"process {missing} of {count} did not connect within {seconds:g} s; start all at the same time."
                for link in links.values():
                    link.say(status=UsageError.exit_status, line=line)
                    link.hang_up()
                raise UsageError(line)
            for index in [index for index, link in links.items() if link.gone]:
                links.pop(index).hang_up()  # it may be started anew
        stack.pop_all()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        service = probe.getsockname()[1]
    threading.Thread(target=_lead, args=(listener, service), name="tunnels", daemon=True).start()
    for link in links.values():
        link.say(all=True)
    return Peers(0, links), service


def _admit(link: Link, links: dict[int, Link], count: int) -> None:
    """Take in a process that says who it is; who says nothing that makes sense is none of the run."""
    try:
        said = link.next(2.0) or {}
    except (OSError, ValueError):
        said = {}
    index = said.get("id")
    if not isinstance(index, int) or said.get("of") != count or not 0 < index < count:
        if "of" in said:
            line = f"it was started with --num-processes {count}, and this process with {said['of']}; start all alike."
            link.say(status=UsageError.exit_status, line=line)
        link.hang_up()
        return
    if index in links:
        links[index].hang_up()
    links[index] = link


def join(host: str, port: int, index: int, count: int, seconds: float) -> Peers:
    """The peers of process `index`, when all have come to process 0.

    Raises UsageError where process 0 does not answer within so many seconds, or refuses.
    """
    where = f"--coordinator {host}:{port}"
    end = time.monotonic() + seconds
    while True:
        try:
            link = Link(socket.create_connection((host, port), timeout=seconds))
            break
        except OSError as error:
            if time.monotonic() > end:
                raise UsageError(f"{where} does not answer ({reason(error)}); start process 0.") from None
        time.sleep(0.2)
    link.say(id=index, of=count)
    try:
        said = link.next(seconds + GRACE) or {}
        if "all" in said:
            return Peers(index, {0: link})
        link.hang_up()
    except (OSError, ValueError) as error:
        link.hang_up()
        raise UsageError(f"{where} answers, but not as process 0 of a run ({reason(error)}); start it there.") from None
    if "line" in said:
        raise UsageError(f"process 0: {one_line(str(said['line']))}")
    raise UsageError(f"{where} has closed the connection; see what process 0 says, and start all again.")


def tunnel(host: str, port: int) -> socket.socket:
    """A connection that leads through process 0's port to JAX's service there. Raises OSError."""
    connection = socket.create_connection((host, port), timeout=10)
    connection.sendall(_TO_SERVICE)
    connection.settimeout(None)
    return connection


def _lead(listener: socket.socket, service: int) -> None:
    listener.settimeout(None)
    while listener.fileno() >= 0:
        try:
            here = listener.accept()[0]
        except OSError:  # of one connection: the next may come
            time.sleep(0.05)
        else:
            threading.Thread(target=_lead_one, args=(here, service), name="tunnels", daemon=True).start()


def _lead_one(here: socket.socket, service: int) -> None:
    with contextlib.suppress(OSError), here:
        here.settimeout(10)
        if all(here.recv(1) == bytes([byte]) for byte in _TO_SERVICE):
            here.settimeout(None)
            there = connected(lambda: socket.create_connection(("127.0.0.1", service)), seconds=60)
            join_both(here, there)


def _listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
