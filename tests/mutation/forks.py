"""Tests in forks, which the mutation tool starts: they record what they enter without a fault, or judge a mutant.

The parent has imported JAX and the libraries, but neither the code nor a test, and has started no device.
"""

from __future__ import annotations

import ast
import builtins
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.mutation.mutants import Function, Mutant, sources

BATCHES = (6, 40)
"""A mutant's first tests are collected alone: most need no more, and to collect all of them takes seconds."""
FORK = multiprocessing.get_context("fork")

Send = Callable[[tuple[str, Any]], None]


def _pytest(*arguments: str, plugin: object) -> int:
    quiet = (
        "-q",
        "--assert=plain",
        "-o",
        "addopts=",
        "-o",
        "timeout=0",  # the patience here depends on the test, and what is late is not called failed
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:faulthandler",
    )
    return int(pytest.main([*quiet, *arguments], plugins=[plugin]))


def _import_instead(root: Path, texts: dict[str, str]) -> set[str]:
    """Have the importer take these texts for files, types checked as pyproject.toml says: the set of those taken."""
    import jaxtyping

    options = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    checked = next(option for option in options.split() if option.startswith("--jaxtyping-packages="))
    *packages, checker = checked.partition("=")[2].split(",")
    jaxtyping.install_import_hook(packages, checker)
    original, taken = SourceFileLoader.get_code, set()

    def get_code(loader: SourceFileLoader, name: str) -> Any:
        path = os.path.relpath(loader.path, root)
        if path not in texts:
            return original(loader, name)
        taken.add(path)
        return loader.source_to_code(texts[path].encode(), loader.path)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    return taken


def instrumented(path: str, text: str) -> str:
    """The same program, which adds "path:line" to the set `__reached__` when it enters the block that begins there."""
    tree, seen = ast.parse(text), set()
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    for parent in (node for function in functions for node in ast.walk(function)):
        for _, body in ast.iter_fields(parent):
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt) and id(body) not in seen:
                seen.add(id(body))
                docstring = isinstance(parent, Function) and ast.get_docstring(parent) is not None
                probe = ast.parse(f"__reached__.add({f'{path}:{body[0].lineno}'!r})").body[0]
                body.insert(int(docstring), probe)
    return ast.unparse(tree)


class _Recorder:
    """Notes what each test of a file enters: itself, in its fixtures, or already when the file is imported.

    What an earlier test has traced or kept must be entered again, so that caches are emptied before every test.
    """

    def __init__(self, send: Send, root: Path) -> None:
        self.send, self.root = send, root
        self.seen: set[str] = set()
        self.importing: frozenset[str] = frozenset()
        self.fixtures: dict[str, set[str]] = {}
        builtins.__reached__ = self.seen  # type: ignore[attr-defined]

    def pytest_collection_finish(self) -> None:
        self.importing = frozenset(self.seen)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        before = set(self.seen)
        self.seen.clear()
        try:
            return (yield)
        finally:
            self.fixtures.setdefault(fixturedef.argname, set()).update(self.seen)
            self.seen |= before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        self._forget()
        self.seen.clear()
        start = time.monotonic()
        result = yield
        shared = (self.fixtures.get(name, set()) for name in item.fixturenames)
        blocks = self.importing.union(self.seen, *shared)
        self.send(("test", (item.nodeid, round(time.monotonic() - start, 3), sorted(blocks))))
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.send(("failed", f"{report.nodeid}\n{report.longreprtext}"))

    def _forget(self) -> None:
        import jax

        jax.clear_caches()
        for module in list(sys.modules.values()):
            if str(getattr(module, "__file__", None)).startswith(str(self.root)):
                for value in vars(module).values():
                    if isinstance(value, functools._lru_cache_wrapper):
                        value.cache_clear()


def record(send: Send, root: Path, file: str) -> None:
    _import_instead(root, {path: instrumented(path, text) for path, text in sources(root).items()})
    send(("ended", _pytest(file, plugin=_Recorder(send, root))))


class _Judge:
    """Runs these tests in this order, and those that a mutant has given another name."""

    def __init__(self, send: Send, wanted: Sequence[str], known: frozenset[str]) -> None:
        self.send, self.wanted, self.known, self.count = send, wanted, known, 0

    def pytest_sessionstart(self) -> None:
        import jax

        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)  # no mutant's program is kept

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        found = {item.nodeid: item for item in items}
        renamed = [item for item in items if item.nodeid not in self.known]
        items[:] = [found[name] for name in self.wanted if name in found] + renamed

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        import jax

        self.count += 1
        if self.count % 50 == 0:  # or hundreds of tests in one process take gigabytes
            jax.clear_caches()
        self.send(("started", nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.send(("failed", report.nodeid))


class Case(NamedTuple):
    """A mutant before its judges."""

    mutant: Mutant
    text: str
    tests: list[str]
    known: frozenset[str]


def judge(send: Send, root: Path, case: Case) -> None:
    taken = _import_instead(root, {case.mutant.path: case.text})
    places = (0, *BATCHES, len(case.tests))
    for batch in (case.tests[start:end] for start, end in itertools.pairwise(places)):
        files = dict.fromkeys(name.partition("::")[0] for name in batch)
        if files:
            status = _pytest("-x", *files, plugin=_Judge(send, batch, case.known))
            if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                return send(("broken", status))
    if case.tests and not taken:
        raise RuntimeError(f"no test of {case.mutant.path} has imported it")
    return send(("passed", None))


@dataclass
class Run:
    """A fork at work, and what it has said so far."""

    task: Any
    process: Any
    started: float
    patience: float
    messages: list[tuple[str, Any]] = field(default_factory=list)
    silent: float = 0.0
    late: bool = False

    def said(self, kind: str) -> list[Any]:
        """What it has said of one kind."""
        return [value for name, value in self.messages if name == kind]


def _fork(work: Callable[[Send, Path, Any], None], outbox: Connection, root: Path, task: Any) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.chdir(root)
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # or the tests would be looked for beside this file, not in the copy
    try:
        work(outbox.send, root, task)
    except BaseException as error:
        outbox.send(("error", repr(error)))
    os._exit(0)


def forked(
    work: Callable[[Send, Path, Any], None],
    root: Path,
    tasks: Sequence[Any],
    jobs: int,
    patience: Callable[[Any], float],
) -> Iterator[Run]:
    """Each task's run as it ends, `jobs` at a time; one silent for `patience(its last word)` seconds is killed."""
    waiting, running = deque(tasks), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task, (inbox, outbox) = waiting.popleft(), FORK.Pipe(duplex=False)
                process = FORK.Process(target=_fork, args=(work, outbox, root, task), daemon=True)
                process.start()
                outbox.close()
                running[inbox] = Run(task, process, time.monotonic(), patience(None))
            asked = time.monotonic()
            for inbox in wait(list(running), timeout=1.0):
                run = running[inbox]
                try:
                    run.messages.append(inbox.recv())  # type: ignore[union-attr]
                    run.silent, run.patience = 0.0, patience(run.messages[-1])
                except (EOFError, OSError):
                    running.pop(inbox).process.join()
                    if run.said("error"):
                        raise RuntimeError(run.said("error")[0]) from None
                    yield run
            waited = min(time.monotonic() - asked, 2.0)  # however long this process was suspended in between
            for run in running.values():
                run.silent += waited
                if run.silent > run.patience and not run.late:
                    run.late = True
                    _kill(run)
    finally:  # an interruption leaves no process behind
        for run in running.values():
            _kill(run)


def _kill(run: Run) -> None:
    try:
        os.killpg(run.process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or is too young to have a group of its own
        run.process.kill()
    run.process.join()
