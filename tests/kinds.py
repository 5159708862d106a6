"""`--by-kind`: what the tests of each file spend their processor time on.

Seconds of processor time, of all threads, so that two machines of different load agree; children are counted apart.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jax
import pytest

EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
"""What JAX reports of a program: Python traces it, writes it down for XLA, and XLA compiles it or reads it again."""
KINDS = ("trace", "lower", "compile", "run", "fixtures", "processes")
Files = dict[str, dict[str, float]]
RESULTS = pytest.StashKey[Files]()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Kinds:
    """Measures one process: each second is of one kind, the innermost that has begun."""

    def __init__(self) -> None:
        self.files: Files = {}
        self.open: list[str] = []
        self.spent: dict[str, float] = defaultdict(float)
        self.last = time.process_time()

    def _tick(self, kind: str) -> None:
        now = time.process_time()
        self.spent[kind] += now - self.last
        self.last = now

    def begun(self, event: str, value: float | int, **kwargs: str | int) -> None:
        """JAX begins to trace, lower or compile."""
        if event in EVENTS:
            self._tick(self.open[-1] if self.open else "run")
            self.open.append(EVENTS[event])

    def ended(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """JAX has traced, lowered or compiled."""
        if event in EVENTS and self.open:
            self._tick(self.open.pop())
            self.spent["programs"] += EVENTS[event] == "compile"

    def _phase(self, item: pytest.Item, fixture: bool) -> Iterator[None]:
        self.spent.clear()
        self.open.clear()
        self.last, children = time.process_time(), _children()
        yield
        self._tick("run")
        self.spent["processes"] += _children() - children
        if fixture:
            self.spent["fixtures"] = sum(self.spent.pop(kind, 0.0) for kind in KINDS[:-1])
        merge(self.files, {item.nodeid.partition("::")[0]: self.spent})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        yield from self._phase(item, fixture=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        yield from self._phase(item, fixture=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        yield from self._phase(item, fixture=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["kinds"] = self.files  # type: ignore[attr-defined]
        else:
            merge(session.config.stash[RESULTS], self.files)


class Report:
    """Adds up what the workers spent, and prints it."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        merge(node.config.stash[RESULTS], getattr(node, "workeroutput", {}).get("kinds", {}))

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        for line in table(config.stash[RESULTS]):
            terminalreporter.write_line(line)


def merge(files: Files, more: Files) -> None:
    """Add seconds to those of each file."""
    for file, spent in more.items():
        total = files.setdefault(file, {})
        for kind, seconds in spent.items():
            total[kind] = total.get(kind, 0.0) + seconds


def table(files: Files) -> list[str]:
    """A table in Markdown: the dearest file first, below the sum of all."""
    everything: Files = {}
    for spent in files.values():
        merge(everything, {"all": spent})
    lines = ["| file | seconds | " + " | ".join(KINDS) + " | programs |", "|---" + "|---:" * (len(KINDS) + 2) + "|"]
    for file, spent in sorted([*files.items(), *everything.items()], key=lambda row: -_seconds(row[1])):
        kinds = " | ".join(f"{spent.get(kind, 0.0):.1f}" for kind in KINDS)
        lines.append(f"| {file} | {_seconds(spent):.1f} | {kinds} | {spent.get('programs', 0):.0f} |")
    return lines


def _seconds(spent: dict[str, float]) -> float:
    return sum(spent.get(kind, 0.0) for kind in KINDS)


def register(config: pytest.Config) -> None:
    """Measure this process, and report the run's seconds, where they are asked for."""
    if not config.getoption("--by-kind"):
        return
    config.stash[RESULTS] = {}
    kinds = Kinds()
    jax.monitoring.register_scalar_listener(kinds.begun)
    jax.monitoring.register_event_duration_secs_listener(kinds.ended)
    config.pluginmanager.register(kinds)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report())
