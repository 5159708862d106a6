"""A way to JAX's service on process 0 that does not break when process 0 dies.

JAX's client ends its process, by `abort` and with a page of its own, as soon as its connection breaks: faster than
anybody could say why. Here it is connected to a port of its own machine, which hands on all bytes and stays open.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_BYTES = 1 << 16


def relay(host: str, port: int, over: threading.Event) -> int:
    """A port of this machine that leads to host:port; until `over` a connection that breaks there stays open here."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, host.strip("[]"), port, over), name="relay", daemon=True).start()
    return listener.getsockname()[1]


def _accept(listener: socket.socket, host: str, port: int, over: threading.Event) -> None:
    while True:
        here = listener.accept()[0]
        threading.Thread(target=_serve, args=(here, host, port, over), name="relay", daemon=True).start()


def _serve(here: socket.socket, host: str, port: int, over: threading.Event) -> None:
    there = _connect(host, port, over)
    if there is not None:
        threading.Thread(target=_answer, args=(there, here, over), name="relay", daemon=True).start()
        _pump(here, there)
        _close(there)


def _answer(there: socket.socket, here: socket.socket, over: threading.Event) -> None:
    _pump(there, here)
    over.wait()
    _close(here)


def _connect(host: str, port: int, over: threading.Event) -> socket.socket | None:
    """A connection to JAX's service, which process 0 may only be starting."""
    while not over.is_set():
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port), timeout=10)
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        time.sleep(0.05)
    return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Hand on bytes until one side breaks."""
    with contextlib.suppress(OSError):
        while data := source.recv(_BYTES):
            target.sendall(data)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
