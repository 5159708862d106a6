"""One MLIR context for the programs that a process writes down, where JAX makes one for each.

To make a context takes 3 ms, a fifth of what a program of one operation costs, and each holds memory: a third of all
that a worker holds. A context keeps what it has been told of types and constants as long as it lives;
`footprint.give_back` lets go of it. A program that is compiled while another is written down, for a constant of it, has
a context of its own.
"""

from __future__ import annotations

import functools
from typing import Any

from jax._src.interpreters import mlir

_make = getattr(mlir, "make_ir_context", None)
"""JAX's own function, which is private: where a version has none, nothing changes."""


@functools.cache
def _shared() -> Any:
    assert _make is not None
    return _make()


def _context() -> Any:
    assert _make is not None
    return _make() if mlir.ir.Context.current else _shared()  # pyright: ignore[reportPrivateImportUsage]


def shares_already() -> bool:
    """Whether JAX itself has one context for all programs, as 0.12 has."""
    return _make is None or _make() is _make()


def share_context() -> None:
    """Have JAX find the context that it has made."""
    if _make is not None:
        mlir.make_ir_context = _context


def forget_context() -> None:
    """The next program begins a new context."""
    _shared.cache_clear()
