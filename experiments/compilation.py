"""How programs are compiled where compiling them takes longer than running them: tests, and the table of identities."""

from __future__ import annotations

import os
from importlib.metadata import version


def compile_quickly() -> None:
    """Leave most of XLA's optimisations out, in this process; to be called before JAX's first computation.

    Small programs compile in a fifth of the time by the older code generator, in one piece and unoptimised. Results
    differ in rounding only.
    """
    # XLA refuses flags that it does not know, and the first of these was dropped.
    flags, jaxlib = [], tuple(map(int, version("jaxlib").split(".")[:2]))
    if jaxlib < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    if jaxlib < (0, 13):
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
    add_xla_flags(*flags)
    import jax

    jax.config.update("jax_disable_most_optimizations", True)


def add_xla_flags(*flags: str) -> None:
    """Put flags into the environment that XLA reads once, but for those that are set there."""
    for flag in flags:
        if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
