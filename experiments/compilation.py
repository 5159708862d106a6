"""How XLA compiles: flags that it reads once, before the first computation."""

from __future__ import annotations

import os
from importlib.metadata import version


def compile_for_the_commands() -> None:
    """Set the flags with which all commands compute, in this process, before XLA reads them."""
    leave_sums_to_xla()
    keep_barriers()


def leave_sums_to_xla() -> None:
    """Do without the kernels of YNNPACK on a CPU, in this process.

    A U-Net trains up to 1.6 times as fast without them (`benchmarks/compilation.py`), and in jaxlib 0.10.2 they sum
    wrongly (`diffusion.soundness`).
    """
    if knows_kernels():
        add_xla_flags("--xla_cpu_experimental_ynn_fusion_type=")


def keep_barriers() -> None:
    """Have XLA mind `lax.optimization_barrier` on a CPU until it has fused, in this process.

    Its pass `cse_barrier_expander` takes barriers away early, and with them what `diffusion.networks.fast` writes out,
    and what `jax.checkpoint` would compute again. A U-Net trains 1.2 times as fast with the barriers
    (`benchmarks/training_speed.py`).
    """
    add_xla_flags("--xla_disable_hlo_passes=cse_barrier_expander")


def knows_kernels() -> bool:
    """Whether this jaxlib is one whose XLA is known to know the flag: tried on 0.10.1, 0.10.2, 0.11 and 0.12."""
    return (0, 10) <= _jaxlib() < (0, 13)


def compile_quickly() -> None:
    """Leave most of XLA's optimisations out, in this process, where compiling takes longer than running.

    Small programs compile in a fifth of the time by the older code generator, in one piece and unoptimised. Results
    differ in rounding only.
    """
    # XLA refuses flags that it does not know, and the first of these was dropped.
    flags, jaxlib = [], _jaxlib()
    if jaxlib < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    if jaxlib < (0, 13):
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
    add_xla_flags(*flags)
    import jax

    jax.config.update("jax_disable_most_optimizations", True)


def _jaxlib() -> tuple[int, ...]:
    return tuple(map(int, version("jaxlib").split(".")[:2]))


def add_xla_flags(*flags: str) -> None:
    """Put flags into the environment that XLA reads once, but for those that are set there."""
    for flag in flags:
        if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
