"""Processes of a run that know of one another, here as threads of one; `test_processes.py` has real ones."""

import json
import socket
import threading
import time
from typing import Any

import pytest

from experiments.errors import CheckpointError, UsageError
from experiments.training import peers
from experiments.training.meeting import gather, join, tunnel
from experiments.training.peers import LOST, Link, Peers, as_one
from experiments.training.relay import relay


class Ended(BaseException):
    """In the place of the end of the process; it ends the thread."""


@pytest.fixture(autouse=True)
def ends(monkeypatch):
    """(Status, line) of each end of a process there would have been; `seconds` are short.

    Every thread that may end the process has ended when the test is over: later it would end the tests themselves.
    """
    seen = []

    def end(status, line=""):
        seen.append((status, line.removeprefix("error: ")))
        raise Ended

    monkeypatch.setattr(peers, "end_process", end)
    monkeypatch.setattr(peers, "GRACE", 0.1)
    monkeypatch.setattr(peers, "HURRY", 0.2)
    monkeypatch.setattr(peers.atexit, "register", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    yield seen
    for thread in [thread for thread in threading.enumerate() if thread.name == "peers"]:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def run():
    """A function: the peers of each of so many processes, process 0 first, all watching."""
    links = []

    def make(count=2):
        pairs = [tuple(map(Link, socket.socketpair())) for _ in range(count - 1)]
        links.extend(link for pair in pairs for link in pair)
        made = [
            Peers(0, {i: pair[0] for i, pair in enumerate(pairs, 1)}),
            *(Peers(i, {0: pair[1]}) for i, pair in enumerate(pairs, 1)),
        ]
        for one in made:
            one.watch()
        return made

    yield make
    for link in links:
        link.hang_up()


def soon(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_a_connection_that_closes_ends_the_others_and_says_what_is_saved(run, ends):
    first, second, _ = run(3)
    first.saved = lambda: "the newest checkpoint is 00000010; "
    second._links[0].hang_up()
    soon(lambda: len(ends) >= 3)
    lost = next(line for _, line in ends if "newest" in line)
    assert lost == (
        "process 1 of this run is lost (its connection was closed: it was killed, or its machine has gone); the newest "
        "checkpoint is 00000010; start all processes again to go on."
    )
    assert ends.count((LOST, lost)) == 2  # of process 2 too, which knows process 0 alone


def test_a_process_that_is_silent_is_lost(run, ends, monkeypatch):
    monkeypatch.setattr(peers, "SILENCE", 0.15)
    monkeypatch.setattr(peers, "BEAT", 0.05)
    mine, its = map(Link, socket.socketpair())
    one = Peers(0, {1: mine})
    one.watch()
    for _ in range(6):
        time.sleep(0.05)
        its.say()
    assert ends == []
    soon(lambda: ends)
    assert ends[0][0] == LOST
    assert "process 1 of this run is lost (nothing was heard of it for 0.15 s); " in ends[0][1]
    its.hang_up()
    mine.hang_up()


def test_who_ends_by_an_error_tells_all_with_its_status(run, ends):
    _, second, _ = run(3)
    second.leave(4, "the disk is full.")
    soon(lambda: len(ends) == 3)
    assert sorted(ends) == [
        (4, "process 1 of this run: the disk is full."),
        (4, "process 1 of this run: the disk is full."),
        (4, "the disk is full."),  # of itself, which had time enough to end
    ]


def test_a_process_that_ends_by_itself_says_its_own_reason(run, ends, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 5.0)
    first, second = run()
    second.leave(2, "another configuration.")
    first.leave(2, "process 1 was started otherwise.")
    soon(lambda: len(ends) == 2)  # which they were too slow to do by themselves
    assert sorted(ends) == [(2, "another configuration."), (2, "process 1 was started otherwise.")]


def test_all_wait_for_all_and_then_nobody_is_lost(run, ends):
    first, second, third = run(3)
    done = []
    waiting = [
        threading.Thread(daemon=True, target=lambda one=one: (one.bye(), done.append(one))) for one in (first, second)
    ]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    assert done == []
    third.bye()
    for thread in waiting:
        thread.join(10)
    assert len(done) == 2
    first._links[1].hang_up()
    time.sleep(0.05)
    assert ends == []


def test_who_is_lost_while_others_wait_for_it_is_told_of(run, ends):
    first, second = run()
    threading.Thread(daemon=True, target=second.bye).start()
    first._links[1].hang_up()
    soon(lambda: (1, LOST) in [(1, status) for status, _ in ends])


@pytest.fixture
def mine(monkeypatch):
    """The connection of another process to this one, as far as `as_one` knows."""
    here, there = map(Link, socket.socketpair())
    monkeypatch.setattr(peers, "_peers", Peers(0, {1: here}))
    yield there
    here.hang_up()
    there.hang_up()


def test_an_error_is_told_with_its_own_status(mine):
    with pytest.raises(CheckpointError), as_one(), as_one():  # once, also from within
        raise CheckpointError("no room.")
    assert mine.next(5) == {"status": 4, "line": "process 0 of this run: no room."}
    with pytest.raises(TimeoutError):
        mine.next(0.05)


def test_an_error_that_nobody_foresaw_waits_for_word_and_is_then_told(mine):
    with pytest.raises(KeyError), as_one():
        raise KeyError("x")
    assert mine.next(5) == {
        "status": LOST,
        "line": "process 0 of this run: KeyError: 'x'; its own output says where.",
    }


def test_what_a_loop_that_is_left_raises_is_no_end(mine):
    with pytest.raises(GeneratorExit), as_one():
        raise GeneratorExit
    with pytest.raises(TimeoutError):
        mine.next(0.05)


def test_without_others_nothing_is_told():
    with pytest.raises(KeyError), as_one():
        raise KeyError("x")


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as probe:
        return probe.getsockname()[1]


def together(*calls):
    """What the calls return or raise, each on a thread."""
    results: list[Any] = [None] * len(calls)

    def call(i):
        try:
            results[i] = calls[i]()
        except UsageError as error:
            results[i] = str(error)

    threads = [threading.Thread(daemon=True, target=call, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def closing(links):
    for link in links:
        link.hang_up()


def test_processes_meet_whoever_comes_first_and_whoever_else_comes(port):
    def stranger():
        time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.recv(100) == b""

    def again():
        time.sleep(0.1)
        link = Link(socket.create_connection(("127.0.0.1", port)))
        link.say(id=1, of=3)
        link.hang_up()  # and is started anew
        left.set()
        return join("127.0.0.1", port, 1, 3, 5)

    def other():
        left.wait()
        return join("127.0.0.1", port, 2, 3, 5)

    left = threading.Event()
    (first, _), second, third, _ = together(lambda: gather("localhost", port, 3, 5), again, other, stranger)
    assert sorted(first._links) == [1, 2]
    first._links[1].say(bye=True)
    assert second._links[0].next(5) == {"bye": True}
    closing([*first._links.values(), second._links[0], third._links[0]])


def test_the_port_leads_to_the_service_once_it_is_there(port):
    (first, number), second = together(
        lambda: gather("localhost", port, 2, 5), lambda: join("127.0.0.1", port, 1, 2, 5)
    )
    with tunnel("127.0.0.1", port) as here:
        here.sendall(b"question")
        with socket.create_server(("127.0.0.1", number)) as service:
            there = service.accept()[0]
        assert there.recv(100) == b"question"
        there.sendall(b"answer")
        assert here.recv(100) == b"answer"
        there.close()
        assert here.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"G")
        assert stranger.recv(100) == b""
    closing([first._links[1], second._links[0]])


def test_who_does_not_come_is_named_to_all(port):
    first, second = together(lambda: gather("localhost", port, 4, 0.3), lambda: join("127.0.0.1", port, 2, 4, 5))
    assert first.startswith("process 1, 3 of 4 did not connect within 0.3 s;")
    assert second == f"process 0: {first}"


def test_processes_of_another_number_are_refused(port):
    first, second = together(lambda: gather("localhost", port, 2, 0.3), lambda: join("127.0.0.1", port, 1, 3, 5))
    assert second == "process 0: it was started with --num-processes 2, and this process with 3; start all alike."
    assert first.startswith("process 1 of 2 did not connect")


def test_somebody_else_at_the_port_is_not_process_0(port):
    def somebody():
        with socket.create_server(("127.0.0.1", port)) as server, server.accept()[0] as connection:
            connection.sendall(json.dumps(["hello"]).encode() + b"\n")
            connection.recv(100)

    _, second = together(somebody, lambda: join("127.0.0.1", port, 1, 2, 5))
    assert f"--coordinator 127.0.0.1:{port} answers, but not as process 0 of a run" in second


def test_a_relay_hands_on_bytes_and_stays_open_until_all_is_over():
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as service:
        here = socket.create_connection(
            ("127.0.0.1", relay(lambda: socket.create_connection(service.getsockname()), over))
        )
        there = service.accept()[0]
        here.sendall(b"question")
        assert there.recv(100) == b"question"
        there.sendall(b"answer")
        assert here.recv(100) == b"answer"
        there.close()
        here.settimeout(0.1)
        with pytest.raises(TimeoutError):
            here.recv(100)
        here.sendall(b"into nothing")
        over.set()
        here.settimeout(10)
        assert here.recv(100) == b""
        here.close()


def test_a_relay_closes_there_what_is_closed_here():
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as service:
        here = socket.create_connection(
            ("127.0.0.1", relay(lambda: socket.create_connection(service.getsockname()), over))
        )
        with service.accept()[0] as there:
            here.close()
            there.settimeout(10)
            assert there.recv(100) == b""
    over.set()
