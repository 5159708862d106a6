"""A way to JAX's service on process 0 that does not break when process 0 dies.

JAX's client ends its process, by `abort` and with a page of its own, as soon as its connection breaks: faster than
anybody could say why. Here it is connected to a port of its own machine, which hands on all bytes and stays open.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

_BYTES = 1 << 16


def relay(connect: Callable[[], socket.socket], over: threading.Event) -> int:
    """A port of this machine that leads where `connect` does; until `over` what breaks there stays open here.

    `connect` raises OSError where it is too early, and is tried again.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, connect, over), name="relay", daemon=True).start()
    return listener.getsockname()[1]


def join_both(one: socket.socket, other: socket.socket, wait: Callable[[], Any] = lambda: None) -> None:
    """Hand on the bytes of each connection to the other until either breaks, and close both.

    When `other` has broken, `one` is closed after `wait()`.
    """

    def back() -> None:
        _pump(other, one)
        wait()
        _close(one)

    thread = threading.Thread(target=back, name="relay", daemon=True)
    thread.start()
    _pump(one, other)
    _close(other)
    thread.join()


def connected(
    connect: Callable[[], socket.socket], over: threading.Event | None = None, seconds: float = math.inf
) -> socket.socket:
    """The connection that `connect` makes, tried until it succeeds. Raises OSError when it is `over`, or too late."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (over is not None and over.is_set()):
        with contextlib.suppress(OSError):
            connection = connect()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        time.sleep(0.05)
    raise OSError("it is over")


def _accept(listener: socket.socket, connect: Callable[[], socket.socket], over: threading.Event) -> None:
    while True:
        here = listener.accept()[0]
        threading.Thread(target=_serve, args=(here, connect, over), name="relay", daemon=True).start()


def _serve(here: socket.socket, connect: Callable[[], socket.socket], over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        join_both(here, connected(connect, over), over.wait)  # process 0 may only be starting


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Hand on bytes until one side breaks."""
    with contextlib.suppress(OSError):
        while data := source.recv(_BYTES):
            target.sendall(data)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
