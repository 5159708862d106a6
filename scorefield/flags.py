"""The flags of XLA with which the command computes, so that Python computes the same numbers."""

from __future__ import annotations

import functools
import sys


@functools.cache
def compile_as_the_command() -> None:
    """Set them, unless XLA has read its flags already: it reads them once, before the first computation."""
    if not _flags_are_read():
        from experiments.compilation import compile_for_the_commands

        compile_for_the_commands()


def _flags_are_read() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and getattr(bridge, "backends_are_initialized", lambda: False)()
