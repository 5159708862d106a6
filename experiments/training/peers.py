"""Processes of one run that know of one another: who has come, who is lost, and why one of them has ended.

JAX ends a process by `abort`, with a page of its own, at once where process 0 has died and after a while where another
has. Here each process but 0 holds a connection to process 0 of a few bytes a second, which is closed by the system
when either of them dies; the other says so in a line and ends with `LOST`, and who ends by an error of its own tells
the rest, which end with its status.

A connection carries lines of JSON: `{"id": 1, "of": 2}` from a process that comes, `{"all": true}` to it when all
have, an empty line now and then, `{"status": 4, "line": "..."}` from one that ends by an error, `{"heard": true}` back,
and `{"bye": true}` from one that is done.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.errors import ScorefieldError, end_process, reason

LOST = 9
"""The exit status of a process that another one of its run has left without a word."""
BEAT, SILENCE = 5.0, 30.0
"""Seconds between the empty lines, and without any line after which a process counts as lost."""
GRACE, HURRY = 3.0, 10.0
"""Seconds for a process to end by itself when another tells of its end; and when it has told of its own."""
_MOST = 4096  # bytes of a line


class Link:
    """A connection to another process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest = connection, b""
        self._writing = threading.Lock()
        self.heard = threading.Event()
        """Whether the other has heard of this one's end, or has ended."""
        self.done = threading.Event()
        """Whether the other is done."""

    def say(self, **said: Any) -> None:
        """Send a line, an empty one without arguments; to nobody if the other is gone."""
        with contextlib.suppress(OSError), self._writing:
            self._connection.sendall((json.dumps(said) if said else "").encode() + b"\n")

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next line that is not empty, None where the connection was closed.

        Raises TimeoutError when nothing came for so many seconds, OSError when the connection broke, ValueError for
        what is no line of ours.
        """
        self._connection.settimeout(seconds)
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                if line:
                    said = json.loads(line)
                    if not isinstance(said, dict):
                        raise ValueError("no line of scorefield's")
                    return said
            elif len(line) > _MOST:
                raise ValueError("no line of scorefield's")
            else:
                more = self._connection.recv(_MOST)
                if not more:
                    return None
                self._rest += more

    @property
    def gone(self) -> bool:
        """Whether the other has closed the connection, of one that has nothing to say yet."""
        self._connection.settimeout(0)
        try:
            return self._connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def hang_up(self) -> None:
        """Close the connection, also for who is just reading from it."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Peers:
    """The other processes of the run, of which each but process 0 knows process 0 alone."""

    def __init__(self, index: int, links: dict[int, Link]) -> None:
        """`index` is this process's number; `links` are the connections, by that of the process at the other end."""
        self._index, self._links = index, links
        self._lock = threading.Lock()
        self._ended: tuple[int, str] | None = None
        self._ending = False
        self.over = threading.Event()
        """Whether this process ends by itself, so that nobody's end is its end any more."""
        self.done = threading.Event()
        """Whether all are done."""
        self.saved: Callable[[], str] = str
        """What to add to the line that tells of a loss: what was saved."""

    def watch(self) -> None:
        """Begin to listen, on threads that end with the process."""
        for other, link in self._links.items():
            threading.Thread(target=self._listen, args=(other, link), name="peers", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def bye(self) -> None:
        """Say that this process is done, and wait until all are; process 0 hears of all, and says so to all."""
        if self.over.is_set():
            return
        links = self._links.values()
        for link in links if self._index else ():
            link.say(bye=True)
        for link in links:
            link.done.wait()
        for link in () if self._index else links:
            link.say(bye=True)
        self.over.set()
        self.done.set()

    def leave(self, status: int, line: str, told: int | None = None) -> None:
        """Tell the others that this process ends, with `status` or what is `told`, and why; and see that it does, soon.

        It has `HURRY` seconds to end by itself. JAX's own farewell, which waits for all, is left out.
        """
        with self._lock:
            if self.over.is_set():
                return
            if not self._ending:
                self.over.set()
        if self._ending:
            time.sleep(HURRY)  # another's end is just being told
        self._tell(status if told is None else told, f"process {self._index} of this run: {line}")
        atexit.register(end_process, status)

        def hurry() -> None:
            time.sleep(HURRY)
            end_process(status, f"error: {line}")

        threading.Thread(target=hurry, name="peers", daemon=True).start()

    def explain(self, seconds: float) -> None:
        """Wait so long for word of another process's end, which ends this one: an error may come of it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or (self._ended is not None and not self.over.is_set()):
            if self.over.is_set():
                return
            time.sleep(0.05)

    @property
    def lost(self) -> bool:
        """Whether another process is lost, so that this one is about to end."""
        return self._ended is not None and self._ended[0] == LOST

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            for link in self._links.values():
                link.say()

    def _listen(self, other: int, link: Link) -> None:
        why = "its connection was closed: it was killed, or its machine has gone"
        try:
            while (said := link.next(SILENCE)) is not None:
                if "bye" in said:
                    link.done.set()
                    return
                if "heard" in said:
                    link.heard.set()
                if "status" in said:
                    link.say(heard=True)
                    link.heard.set()
                    self._follow(int(said["status"]), str(said.get("line")), GRACE)
                    return
        except ConnectionResetError:
            pass
        except TimeoutError:
            why = f"nothing was heard of it for {SILENCE:g} s"
        except (OSError, ValueError) as error:
            why = f"its connection broke: {reason(error)}"
        finally:
            link.heard.set()
        line = f"process {other} of this run is lost ({why}); {self.saved()}start all processes again to go on."
        self._follow(LOST, line, 0.0)

    def _follow(self, status: int, line: str, grace: float) -> None:
        """End this process because of another's end, unless it ends by itself within `grace` seconds."""
        with self._lock:
            if self.over.is_set() or self._ended is not None:
                return
            self._ended = status, line
        self.over.wait(grace)
        with self._lock:
            self._ending = not self.over.is_set()
        if self._ending:
            self._tell(status, line)
            end_process(status, f"error: {line}")

    def _tell(self, status: int, line: str) -> None:
        for link in self._links.values():
            if not link.heard.is_set():
                link.say(status=status, line=line)
        end = time.monotonic() + GRACE
        for link in self._links.values():
            link.heard.wait(max(0.0, end - time.monotonic()))


_peers: Peers | None = None
"""Those of this process, once it has joined a run."""


def begin(peers: Peers) -> None:
    """Watch the other processes until this one ends."""
    global _peers
    _peers = peers
    atexit.register(peers.bye)  # before JAX's farewell, which was registered when JAX was imported
    peers.watch()


def leave(status: int, line: str) -> None:
    """`Peers.leave` where there are others."""
    if _peers is not None:
        _peers.leave(status, line)


def tell_saved(saved: Callable[[], str]) -> None:
    """Let the line on a loss contain what `saved` says, such as "the newest checkpoint is 00000010; "."""
    if _peers is not None:
        _peers.saved = saved


@contextlib.contextmanager
def as_one() -> Iterator[None]:
    """What ends this process within the block by an error ends all of the run; each says why, with one status.

    After an error that is none of scorefield's own, which nobody foresaw, the others end with `LOST`.

    An error that comes of another process's end, such as a broken connection between devices, waits for word of it.
    """
    peers = _peers
    if peers is None:
        yield
        return
    try:
        yield
    except GeneratorExit:
        raise
    except ScorefieldError as error:
        if peers.lost:
            peers.explain(HURRY)
        peers.leave(error.exit_status, str(error))
        raise
    except KeyboardInterrupt:
        peers.leave(130, "interrupted")
        raise
    except Exception as error:
        peers.explain(GRACE)
        peers.leave(1, f"{type(error).__name__}: {reason(error)}; its own output says where.", LOST)
        raise
