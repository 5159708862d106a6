"""Gives compiled programs back while the tests go on, and says at the end how much a process of theirs has held.

Every living program of XLA holds some 16 memory maps of its process. Linux allows 65,530, and ends a process that
asks for more in the middle of a compilation. Garbage is collected then, and seldom otherwise: what the suite imports
is never garbage, and to look through it at every hundredth allocation takes a tenth of the time.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from tests import lowering

MAPS, PROGRAMS = 2_500, 300
"""Programs are given back when this process holds as many maps or, where it cannot count them, as many programs."""
FEW = 50
"""Programs between two counts of the maps."""
MOST = pytest.StashKey[dict[str, tuple[int, int]]]()
"""The most maps and MiB that each worker held, by its name, in the process that reports."""


def maps() -> int:
    """The number of memory maps that this process holds; 0 where the system does not tell."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


def most_memory() -> int:
    """The most MiB that this process has held at once, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


def give_back() -> None:
    """Let go of every program that has been compiled, and of the memory that it took.

    What runs again is compiled again, or found in the compilation cache.
    """
    jax.clear_caches()
    lowering.forget_context()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc alone keeps what has been freed
        trim(0)


class Footprint:
    """Counts the programs of one process, and gives them back between two tests."""

    def __init__(self) -> None:
        self.programs = self.counted = 0
        self.most_maps = 0
        self.started = False

    def compiled(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """Count a program that was compiled, or read from the compilation cache."""
        self.programs += event == "/jax/core/compile/backend_compile_duration"

    def look(self) -> int:
        """Count the maps that are held now: until programs are given back, they only become more."""
        held = maps()
        self.most_maps = max(self.most_maps, held)
        return held

    @pytest.hookimpl
    def pytest_collection_finish(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 10, 50)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        yield
        self.started = True  # the process that hands tests to workers runs none
        if self.programs >= self.counted + FEW:
            self.counted = self.programs
            if self.look() > MAPS or self.programs > PROGRAMS:
                give_back()
                self.programs = self.counted = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.look()
        if self.most_maps == 0 or not self.started:
            return
        held = (self.most_maps, most_memory())
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["footprint"] = held  # type: ignore[attr-defined]
        else:
            session.config.stash[MOST]["this process"] = held


class Report:
    """Collects what the workers held, and prints it."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        held = getattr(node, "workeroutput", {}).get("footprint")
        if held:
            node.config.stash[MOST][node.gateway.id] = tuple(held)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        held = config.stash[MOST]
        if held:
            most_maps, memory = (max(column) for column in zip(*held.values(), strict=True))
            terminalreporter.write_line(f"Most that a process of the tests held: {most_maps:,} maps, {memory:,} MiB.")


def register(config: pytest.Config) -> None:
    """Have this process keep its footprint small, and report it."""
    config.stash[MOST] = {}
    lowering.share_context()
    footprint = Footprint()
    jax.monitoring.register_event_duration_secs_listener(footprint.compiled)
    config.pluginmanager.register(footprint)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report())
